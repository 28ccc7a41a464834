from pathlib import Path

import pytest
import yaml

from k8s.kustomization import KustomizationError, build

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "a", "namespace": "n"},
    "spec": {
        "replicas": 1,
        "paused": True,
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "a",
                        "image": "a:1",
                        "args": ["x", "y"],
                        "env": [{"name": "K", "value": "1"}, {"name": "L", "value": "2"}],
                    }
                ]
            }
        },
    },
}
METADATA = {name: DEPLOYMENT[name] for name in ("apiVersion", "kind", "metadata")}


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder


def overlay(folder: Path, patch: dict[str, object], **more: object) -> Path:
    write(folder / "base", kustomization={"resources": ["a.yaml"]}, a=DEPLOYMENT)
    kustomization = {"resources": ["base"], "patches": [{"path": "patch.yaml"}], **more}
    return write(folder, kustomization=kustomization, patch={**METADATA, **patch})


def container_of(folder: Path) -> dict[str, object]:
    (deployment,) = build(folder)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


def test_a_patch_changes_what_it_names_and_removes_what_is_null(tmp_path) -> None:
    (deployment,) = build(overlay(tmp_path, {"spec": {"replicas": 3, "paused": None}}))
    assert deployment["spec"]["replicas"] == 3
    assert "paused" not in deployment["spec"]
    assert deployment["spec"]["template"] == DEPLOYMENT["spec"]["template"]


def test_containers_and_variables_merge_by_name_and_other_lists_are_replaced(tmp_path) -> None:
    change = {
        "name": "a",
        "args": ["z"],
        "env": [{"name": "L", "value": "3"}, {"name": "M", "value": "4"}],
    }
    patch = {"spec": {"template": {"spec": {"containers": [change]}}}}
    container = container_of(overlay(tmp_path, patch))
    assert container["image"] == "a:1"
    assert container["args"] == ["z"]
    assert {one["name"]: one["value"] for one in container["env"]} == {"K": "1", "L": "3", "M": "4"}


def test_images_get_another_name_and_tag(tmp_path) -> None:
    images = [{"name": "a", "newName": "registry/a", "newTag": "2"}]
    assert container_of(overlay(tmp_path, {}, images=images))["image"] == "registry/a:2"


def test_images_get_a_digest(tmp_path) -> None:
    images = [{"name": "a", "newName": "registry/a", "digest": "sha256:abc"}]
    container = container_of(overlay(tmp_path, {}, images=images))
    assert container["image"] == "registry/a@sha256:abc"


def test_what_is_not_known_of_an_image_is_refused(tmp_path) -> None:
    with pytest.raises(KustomizationError, match="tagSuffix"):
        build(overlay(tmp_path, {}, images=[{"name": "a", "tagSuffix": "x"}]))


def test_a_component_patches_what_it_is_added_to(tmp_path) -> None:
    write(
        tmp_path / "more",
        kustomization={"patches": [{"path": "patch.yaml"}]},
        patch={**METADATA, "spec": {"replicas": 5}},
    )
    (deployment,) = build(overlay(tmp_path, {}, components=["more"]))
    assert deployment["spec"]["replicas"] == 5


def test_a_component_brings_objects_of_its_own(tmp_path) -> None:
    other = {**DEPLOYMENT, "metadata": {"name": "b", "namespace": "n"}}
    folder = overlay(tmp_path, {}, components=["more"])
    write(
        tmp_path / "more",
        kustomization={"resources": ["b.yaml"], "patches": [{"path": "patch.yaml"}]},
        b=other,
        patch={**METADATA, "metadata": other["metadata"], "spec": {"replicas": 5}},
    )
    assert [one["metadata"]["name"] for one in build(folder)] == ["a", "b"]
    assert build(folder)[1]["spec"]["replicas"] == 5


def test_unknown_features_are_refused(tmp_path) -> None:
    with pytest.raises(KustomizationError, match="namePrefix"):
        build(overlay(tmp_path, {}, namePrefix="x-"))


def test_a_patch_of_nothing_is_refused(tmp_path) -> None:
    other = {"metadata": {"name": "b", "namespace": "n"}}
    with pytest.raises(KustomizationError, match="no Deployment n/b to patch"):
        build(overlay(tmp_path, other))


def test_the_same_object_twice_is_refused(tmp_path) -> None:
    folder = write(
        tmp_path, kustomization={"resources": ["a.yaml", "b.yaml"]}, a=DEPLOYMENT, b=DEPLOYMENT
    )
    with pytest.raises(KustomizationError, match="there already"):
        build(folder)
