"""Builds manifests as `kustomize build` does, for the few features that k8s/ uses.

Those are: resources, components, patches that name a file (merged into the object of the same kind,
name and namespace), and images. Anything else in a kustomization is refused, not ignored.
"""

import copy
from pathlib import Path
from typing import Any

import yaml

#: One Kubernetes object as it stands in a YAML file.
Manifest = dict[str, Any]

_KNOWN = {"apiVersion", "kind", "resources", "components", "patches", "images"}
_IMAGE_KNOWN = {"name", "newName", "newTag", "digest"}
#: By which field the items of a list are the same thing in two files. Other lists are replaced.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
}


class KustomizationError(Exception):
    """A kustomization cannot be built; the message says which file and why."""


def build(folder: Path) -> list[Manifest]:
    """All objects of the kustomization in a folder, in the order of its files.

    Raises:
        KustomizationError: an unknown feature, an object twice, or a patch of nothing.
    """
    return assemble(yaml.safe_load((folder / "kustomization.yaml").read_text()), folder)


def assemble(kustomization: Manifest, folder: Path) -> list[Manifest]:
    """All objects of a kustomization whose paths are relative to ``folder``; errors as `build`."""
    manifests: list[Manifest] = []
    _add(manifests, kustomization, folder)
    _change(manifests, kustomization, folder)
    return manifests


def identity(manifest: Manifest) -> str:
    """Kind, namespace and name, for messages."""
    meta = manifest["metadata"]
    return f"{manifest['kind']} {meta.get('namespace', '')}/{meta['name']}"


def _add(manifests: list[Manifest], kustomization: Manifest, folder: Path) -> None:
    for name in kustomization.get("resources", []):
        path = folder / name
        found = build(path) if path.is_dir() else _read(path)
        for manifest in found:
            if _find(manifests, manifest):
                raise KustomizationError(f"{path}: {identity(manifest)} is there already")
        manifests += found


def _change(manifests: list[Manifest], kustomization: Manifest, folder: Path) -> None:
    if unknown := kustomization.keys() - _KNOWN:
        raise KustomizationError(f"{folder}: not known here: {', '.join(sorted(unknown))}")
    for name in kustomization.get("components", []):
        path = folder / name
        component = yaml.safe_load((path / "kustomization.yaml").read_text())
        _add(manifests, component, path)
        _change(manifests, component, path)
    for patch in kustomization.get("patches", []):
        if patch.keys() != {"path"}:
            raise KustomizationError(f"{folder}: a patch has a path and nothing else, got {patch}")
        for change in _read(folder / patch["path"]):
            target = _find(manifests, change)
            if target is None:
                raise KustomizationError(f"{folder}: no {identity(change)} to patch")
            merged = _merged(target, change, "")
            target.clear()
            target.update(merged)
    images = {image["name"]: image for image in kustomization.get("images", [])}
    for image in images.values():
        if unknown := image.keys() - _IMAGE_KNOWN:
            raise KustomizationError(f"{folder}: image {image['name']}: {unknown} is not known")
    for manifest in manifests:
        _rename_images(manifest, images)


def _read(path: Path) -> list[Manifest]:
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def _find(manifests: list[Manifest], like: Manifest) -> Manifest | None:
    same = [one for one in manifests if identity(one) == identity(like)]
    return same[0] if same else None


def _merged(old: Any, change: Any, field: str) -> Any:
    """A strategic merge: fields into fields, items into items of the same name, null removes."""
    if isinstance(old, dict) and isinstance(change, dict):
        merged = dict(old)
        for name, value in change.items():
            merged[name] = _merged(old.get(name), value, name)
        return {name: value for name, value in merged.items() if value is not None}
    key = _MERGE_KEYS.get(field)
    if key is None or not isinstance(old, list) or any(key not in item for item in old):
        return copy.deepcopy(change)
    changes = {item[key]: item for item in change}
    # kustomize puts new items first; the order means nothing in these lists.
    items = [_merged(item, changes.pop(item[key], {}), "") for item in old]
    return [*copy.deepcopy(list(changes.values())), *items]


def _rename_images(node: Any, images: dict[str, Any]) -> None:
    if isinstance(node, list):
        for item in node:
            _rename_images(item, images)
    elif isinstance(node, dict):
        if isinstance(old := node.get("image"), str):
            name, _, tag = old.partition(":")
            new = images.get(name, {})
            # As kustomize does, which leaves the tag out where there is a digest.
            version = f"@{new['digest']}" if "digest" in new else f":{new.get('newTag', tag)}"
            node["image"] = new.get("newName", name) + version
        for value in node.values():
            _rename_images(value, images)
