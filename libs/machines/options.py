"""Which options of a command line of QEMU are kept, and what of them.

An option is kept if its name is listed here, and of a device or machine only those properties are
kept that are listed. So nothing that is unknown can bring a secret into a snapshot, or make the
script that starts a restored VM open something of the host. Not kept, for example: `-object`,
`-vnc`, `-spice`, `-fw_cfg`, `-smbios`, `-append`, `-netdev`, `-drive` and `-blockdev`.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence

#: Properties as text, or as QEMU's JSON.
Properties = dict[str, object]
Options = tuple[tuple[str, str], ...]

#: Kept whole; their values are numbers and words.
_WHOLE = frozenset({"cpu", "m", "smp", "rtc", "k", "vga", "name", "overcommit"})
#: Kept, and without a value.
_FLAGS = frozenset({"nodefaults", "no-user-config", "no-hpet", "no-shutdown", "no-acpi"})
#: Kept with some of their properties; option → name of its first property.
_PARTLY = {"machine": "type", "device": "driver", "global": "driver", "boot": "order"}
_SAME = {"M": "machine"}
_MACHINE = frozenset(
    {
        "type",
        "smm",
        "vmport",
        "usb",
        "hpet",
        "acpi",
        "dump-guest-core",
        "kernel-irqchip",
        "mem-merge",
    }
)
_GLOBAL = frozenset({"driver", "property", "value"})
_BOOT = frozenset({"order", "once", "menu", "strict", "reboot-timeout", "splash-time"})
#: Controllers, bridges, disks and what a person looks at; nothing that reaches out of the VM.
_DEVICES = re.compile(
    r"virtio-(blk|scsi|balloon|vga|gpu|keyboard|mouse|tablet)(-pci|-device|-ccw)?"
    r"(-transitional|-non-transitional)?|scsi-(hd|cd)|ide-(hd|cd)|nvme|nvme-ns|(ich9-)?ahci"
    r"|pcie-root-port|ioh3420|pci-bridge|pcie-pci-bridge|i82801b11-bridge|x3130-upstream"
    r"|xio3130-downstream|pxb(-pcie)?|lsi53c895a|am53c974|megasas(-gen2)?|mptsas1068|pvscsi"
    r"|qemu-xhci|nec-usb-xhci|piix[34]-usb-uhci|usb-ehci|ich9-usb-[a-z0-9]+|usb-(kbd|mouse|tablet|hub)"
    r"|usb-storage|VGA|cirrus-vga|bochs-display|secondary-vga|tpm-(tis|crb)"
)
_DEVICE = frozenset(
    {
        "driver", "id", "bus", "addr", "drive", "bootindex", "serial", "chassis", "port", "slot",
        "chassis_nr", "multifunction", "hotplug", "num-queues", "num_queues", "queue-size",
        "write-cache", "discard", "logical_block_size", "physical_block_size", "min_io_size",
        "opt_io_size", "discard_granularity", "wwn", "channel", "scsi-id", "lun", "unit", "rerror",
        "werror", "device_id", "model", "ver", "rotation_rate", "disable-legacy", "disable-modern",
        "packed", "vectors", "ioeventfd", "shpc", "msi", "p2", "p3", "masterbus", "firstport",
        "removable", "bus_nr", "numa_node", "nsid", "share-rw", "xres", "yres", "vgamem_mb",
    }
)  # fmt: skip
_PROPERTIES = {"machine": _MACHINE, "device": _DEVICE, "global": _GLOBAL, "boot": _BOOT}
_TEXT = re.compile(r"[A-Za-z0-9_.:+@/ =,\[\]-]{0,512}")
_VALUE = re.compile(r"[A-Za-z0-9_.:+@ \[\]-]{0,256}")
_NAME = re.compile(r"--?([A-Za-z][A-Za-z0-9_-]{0,40})")
#: Names that say a secret where they are properties, also of something that is kept whole.
_SECRETS = re.compile(r"pass|secret|key|token|credential|osk|data", re.IGNORECASE)
#: Known by name, so that people are told that they were there.
_TOLD = frozenset(
    {
        "accel", "enable-kvm", "uuid", "append", "audiodev", "bios", "blockdev", "cdrom",
        "chardev", "chroot", "daemonize", "display", "drive", "dtb", "fda", "fsdev", "fw_cfg",
        "hda", "hdb", "hdc", "hdd", "incoming", "initrd", "kernel", "loadvm", "mem-path", "mon",
        "monitor", "net", "netdev", "nic", "nographic", "numa", "object", "pflash", "pidfile",
        "qmp", "qtest", "runas", "sandbox", "sd", "serial", "set", "smbios", "snapshot", "spice",
        "tpmdev", "usb", "usbdevice", "virtfs", "vnc", "S", "D", "d", "trace", "msg",
        "watchdog-action", "iscsi",
    }
)  # fmt: skip
_OTHER = "other"


def kept_options(arguments: Sequence[str]) -> tuple[Options, tuple[str, ...]]:
    """What is kept of a command line, and the names of options that are not.

    Args:
        arguments: those of the process, without the program itself.
    """
    kept, withheld = list[tuple[str, str]](), set[str]()
    for name, value in _split(arguments):
        shortened = kept_value(name, value)
        if shortened is None:
            withheld.add(name if name in _TOLD or name in _PARTLY else _OTHER)
        else:
            kept.append((name, shortened))
            if name in _PARTLY and shortened != value:
                withheld.add(name)
    return tuple(kept), tuple(sorted(withheld))


def kept_value(name: str, value: str) -> str | None:
    """What is kept of an option's value; None: nothing is, not even the option."""
    if name in _FLAGS:
        return ""
    if name in _WHOLE:
        names = [part.partition("=")[0] for part in _parts(value)]
        is_told = any(map(_SECRETS.search, names))
        return value if _TEXT.fullmatch(value) and not is_told else None
    if name not in _PARTLY:
        return None
    found = properties_of(name, value)
    kept = {k: v for k, v in found.items() if k in _PROPERTIES[name] and _is_plain(v)}
    if name == "device" and not _DEVICES.fullmatch(str(kept.get("driver", ""))):
        return None
    if name == "global" and (len(kept) != len(_GLOBAL) or _SECRETS.search(str(kept["property"]))):
        return None
    return properties_text(name, kept, as_json=value.startswith("{")) if kept else None


def properties_of(name: str, value: str) -> Properties:
    """The properties of an option, from QEMU's text or its JSON."""
    if value.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(value)
            if isinstance(found, dict):
                return found
        return {}
    first = _PARTLY[name]
    properties: Properties = {}
    for number, part in enumerate(_parts(value)):
        key, equals, text = part.partition("=")
        if equals:
            properties[key] = text
        elif number == 0:
            properties[first] = part
        else:
            properties[key] = "on"
    if name == "global" and not properties.keys() >= _GLOBAL:  # DRIVER.PROPERTY=VALUE
        driver, dot, rest = value.partition(".")
        key, equals, text = rest.partition("=")
        return {"driver": driver, "property": key, "value": text} if dot and equals else {}
    return properties


def properties_text(name: str, properties: Properties, *, as_json: bool) -> str:
    """An option's value of these properties."""
    if as_json:
        return json.dumps(properties)
    if name == "global":
        return ",".join(f"{key}={properties[key]}" for key in ("driver", "property", "value"))
    first = _PARTLY[name]
    rest = [f"{key}={_escaped(value)}" for key, value in properties.items() if key != first]
    head = [_escaped(properties[first])] if first in properties else []
    if name == "boot":
        head = [f"{first}={text}" for text in head]
    return ",".join(head + rest)


def _split(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options and their values; a value is never taken for the name of an option that has one."""
    at = 0
    while at < len(arguments):
        found = _NAME.fullmatch(arguments[at])
        at += 1
        if found is None:
            yield _OTHER, ""
            continue
        name = _SAME.get(found[1], found[1])
        if name in _FLAGS:
            yield name, ""
        elif name in _WHOLE or name in _PARTLY:
            yield name, arguments[at] if at < len(arguments) else ""
            at += 1
        else:
            yield name, ""
            while at < len(arguments) and not arguments[at].startswith("-"):
                at += 1


def _parts(value: str) -> list[str]:
    """Split at commas; two of them are one that belongs to a text."""
    return [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]


def _escaped(value: object) -> str:
    return str(value).replace(",", ",,")


def _is_plain(value: object) -> bool:
    if isinstance(value, bool | int):
        return True
    return isinstance(value, str) and bool(_VALUE.fullmatch(value))
