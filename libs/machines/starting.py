"""The script that starts a restored VM from its files. Text in, text out.

What a definition says was told by a process that may lie. So every option is judged again by
`libs.machines.options`, every word is quoted for the shell, and all files are those beside the
script, by names of ours, apart from firmware in the folder of the distribution.
"""

import json
import shlex
from collections.abc import Iterator, Mapping

from libs.machines.archive import flash_name
from libs.machines.definition import Definition, Flash, MachineDisk
from libs.machines.options import Properties, kept_value, properties_of, properties_text

_ANONYMOUS = "/machine/peripheral-anon/"
#: Has nothing in it when a VM is started anew.
_DRIVES_WITH_MEDIA = ("ide-cd", "scsi-cd")
#: For a disk whose device is of a type that is not kept.
_ANY_DISK = "virtio-blk-pci"


def start_script(name: str, definition: Definition, images: Mapping[str, str]) -> str:
    """A shell script that starts a VM from the folder that it lies in.

    Args:
        name: of the recovery point, for people.
        definition: of the VM.
        images: device → name of the raw image of its disk, beside the script. Disks without one
            are left out.
    """
    withheld = ", ".join(f"-{one}" for one in definition.withheld) or "nothing"
    lines = [
        "#!/bin/sh",
        f"# Starts {_comment(name)} from the files beside this script.",
        f"# It was {_comment(definition.machine)} of QEMU {_comment(definition.qemu)}.",
        f"# Of its command line this is not here: {_comment(withheld)}.",
        "# It has no network, display or TPM emulator: give what it needs as arguments.",
    ]
    left_out = [one.device for one in definition.disks if one.device not in images]
    lines += [f"# The recovery point has no bytes of {_comment(one)}." for one in left_out]
    lines += ["set -e", 'cd "$(dirname "$0")"', ""]
    words = [f"qemu-system-{definition.architecture}", *_arguments(definition, images)]
    command = " \\\n    ".join(_grouped(words))
    return "\n".join(lines) + f'exec {command} \\\n    "$@"\n'


def _arguments(definition: Definition, images: Mapping[str, str]) -> Iterator[str]:
    disks = {one.device: one for one in definition.disks if one.device in images}
    nodes = {device: f"disk{number}" for number, device in enumerate(disks)}
    options = [
        (option, kept)
        for option, value in definition.options
        if (kept := kept_value(option, value)) is not None
    ]
    yield from ("-accel", "kvm", "-accel", "tcg")
    yield from _machine(definition, dict(options).get("machine", ""))
    yield from _size(definition, {option for option, _ in options})
    yield from ("-display", "none", "-nic", "none")
    for one in definition.flash:
        yield from ("-blockdev", json.dumps(_flash_node(one)))
    for device, node in nodes.items():
        yield from ("-blockdev", json.dumps(_disk_node(node, images[device])))
    for option, value in options:
        if option == "device":
            rewritten = _device(value, nodes)
            yield from ("-device", rewritten) if rewritten else ()
        elif option != "machine":
            yield from (f"-{option}", value) if value else (f"-{option}",)
    plugged = {_id_of(value) for option, value in options if option == "device"}
    for device, disk in disks.items():
        if device.startswith(_ANONYMOUS) or _last(device) not in plugged:
            yield from ("-device", _new_device(disk, nodes[device]))


def _machine(definition: Definition, kept: str) -> Iterator[str]:
    given = properties_of("machine", kept) if kept else {}
    rest: Properties = {key: value for key, value in given.items() if key != "type"}
    flash: Properties = {f"pflash{one.unit}": flash_name(one.unit) for one in definition.flash}
    name = definition.machine.removesuffix("-machine")
    properties: Properties = {"type": name, **rest, **flash}
    yield from ("-machine", properties_text("machine", properties, as_json=False))


def _size(definition: Definition, known: set[str]) -> Iterator[str]:
    """What the command line did not say."""
    if "m" not in known:
        yield from ("-m", f"size={definition.memory_bytes >> 10}K")
    if "smp" not in known:
        yield from ("-smp", str(definition.cpu_count))
    if definition.uuid.strip("0-"):
        yield from ("-uuid", definition.uuid)


def _flash_node(flash: Flash) -> Properties:
    name = flash_name(flash.unit)
    file = {"driver": "file", "filename": name if flash.is_kept else flash.file}
    return {
        "driver": flash.format,
        "node-name": name,
        "read-only": flash.is_read_only,
        "file": file,
    }


def _disk_node(node: str, image: str) -> Properties:
    file = {"driver": "file", "filename": image, "discard": "unmap"}
    return {"driver": "raw", "node-name": node, "discard": "unmap", "file": file}


def _device(value: str, nodes: Mapping[str, str]) -> str | None:
    """A device of the command line with a restored disk; None: it had one that is not restored."""
    properties = properties_of("device", value)
    kind = str(properties.get("driver"))
    if kind.startswith("tpm-"):  # it needs an emulator
        return None
    if "drive" in properties:
        del properties["drive"]
        node = nodes.get(f"/machine/peripheral/{properties.get('id')}")
        if node:
            properties["drive"] = node
        elif kind not in _DRIVES_WITH_MEDIA:
            return None  # one without an id is made from what QEMU said of its disk
    return properties_text("device", properties, as_json=value.startswith("{"))


def _new_device(disk: MachineDisk, node: str) -> str:
    """A device that the command line did not name: plugged in later, or made by `-drive`."""
    is_known = kept_value("device", disk.kind) is not None
    properties: Properties = {"driver": disk.kind if is_known else _ANY_DISK, "drive": node}
    if not disk.device.startswith(_ANONYMOUS):
        properties["id"] = _last(disk.device)
    return properties_text("device", properties, as_json=False)


def _id_of(value: str) -> str | None:
    found = properties_of("device", value).get("id")
    return str(found) if found is not None else None


def _last(device: str) -> str:
    return device.rsplit("/", 1)[-1]


def _grouped(words: list[str]) -> Iterator[str]:
    """Words for the shell, an option and its value on a line."""
    line = shlex.quote(words[0])
    for word in words[1:]:
        if word.startswith("-"):
            yield line
            line = shlex.quote(word)
        else:
            line += f" {shlex.quote(word)}"
    yield line


def _comment(text: str) -> str:
    """Text for a comment of one line."""
    return "".join(c if c.isprintable() else "?" for c in text)
