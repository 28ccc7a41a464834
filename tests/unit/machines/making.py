"""A definition for tests."""

from libs.machines.definition import Definition, Flash, MachineDisk

VARIABLES = b"variables" * 1000


def made(**changes: object) -> Definition:
    """A VM with two disks, one of which was plugged in later, and a store of variables."""
    fields: dict[str, object] = {
        "qemu": "7.2.22",
        "architecture": "x86_64",
        "machine": "pc-q35-7.2-machine",
        "memory_bytes": 64 << 20,
        "cpu_count": 2,
        "uuid": "00000000-0000-0000-0000-000000000000",
        "name": "web",
        "options": (("device", "virtio-blk-pci,id=vd0,drive=old"), ("nodefaults", "")),
        "withheld": ("netdev",),
        "disks": (disk("vd0"), disk("vd1")),
        "flash": (flash(1, "/srv/web/vars.fd"),),
        "tpm_state": None,
    }
    return Definition(**{**fields, **changes})  # type: ignore[arg-type]  # of tests


def disk(name: str, kind: str = "scsi-hd") -> MachineDisk:
    device = f"/machine/peripheral/{name}"
    return MachineDisk(device=device, kind=kind, size_bytes=1 << 20, format="raw", file="/d")


def flash(unit: int, file: str, *, is_kept: bool = True) -> Flash:
    return Flash(unit=unit, is_read_only=not is_kept, format="raw", file=file, is_kept=is_kept)
