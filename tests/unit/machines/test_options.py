"""What of a command line of QEMU is kept in a snapshot."""

import json

import pytest

from libs.machines.options import kept_options, kept_value

SECRET = "hush-hush"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-object", f"secret,id=s,data={SECRET}"],
        ["-object", json.dumps({"qom-type": "secret", "data": SECRET})],
        ["-vnc", f":1,password={SECRET}"],
        ["-spice", f"port=5900,password={SECRET}"],
        ["-append", f"root=/dev/vda token={SECRET}"],
        ["-append", f"-{SECRET}"],
        ["-fw_cfg", f"name=opt/ignition,string={SECRET}"],
        ["-smbios", f"type=11,value={SECRET}"],
        ["-drive", f"file=https://user:{SECRET}@example.org/disk"],
        ["-blockdev", json.dumps({"driver": "rbd", "key-secret": SECRET})],
        ["-netdev", f"user,id=n,guestfwd=cmd:{SECRET}"],
        ["-device", f"isa-applesmc,osk={SECRET}"],
        ["-device", f"virtio-blk-pci,id=a,drive=d,new-secret={SECRET}"],
        ["-device", json.dumps({"driver": "virtio-blk-pci", "id": "a", "token": SECRET})],
        ["-device", json.dumps({"driver": "virtio-blk-pci", "id": ["a", SECRET]})],
        ["-machine", f"q35,memory-encryption-key={SECRET}"],
        ["-global", f"isa-applesmc.osk={SECRET}"],
        ["-cpu", f"host,key={SECRET}"],
        ["-new-option", SECRET],
        ["-new-option", f"-{SECRET}"],
        [f"--{SECRET}"],
        [SECRET],
        ["-m", "64", SECRET],
    ],
)
def test_no_secret_is_kept(arguments: list[str]) -> None:
    options, withheld = kept_options(["-nodefaults", *arguments, "-smp", "2"])
    assert SECRET not in str((options, withheld))
    assert {("nodefaults", ""), ("smp", "2")} <= {*options}


def test_what_makes_the_vm_is_kept() -> None:
    arguments = [
        "-name", "guest=database,debug-threads=on", "-machine", "pc-q35-7.2,usb=off,accel=kvm",
        "-cpu", "host,migratable=on", "-m", "size=4194304k", "-global", "ICH9-LPC.disable_s3=1",
        "-boot", "strict=on", "-device", "pcie-root-port,port=8,chassis=1,id=pci.1,bus=pcie.0",
        "-device", "virtio-blk-pci,id=vd0,drive=d,iothread=io,serial=a,,b", "-boot", "c",
    ]  # fmt: skip
    options, withheld = kept_options(arguments)
    assert options == (
        ("name", "guest=database,debug-threads=on"),
        ("machine", "pc-q35-7.2,usb=off"),
        ("cpu", "host,migratable=on"),
        ("m", "size=4194304k"),
        ("global", "driver=ICH9-LPC,property=disable_s3,value=1"),
        ("boot", "strict=on"),
        ("device", "pcie-root-port,port=8,chassis=1,id=pci.1,bus=pcie.0"),
        ("device", "virtio-blk-pci,id=vd0,drive=d"),
        ("boot", "order=c"),
    )
    assert withheld == ("boot", "device", "global", "machine")


@pytest.mark.parametrize("kept", ["q35,usb=off", "q35"])
def test_what_was_kept_once_is_kept_again(kept: str) -> None:
    assert kept_value("machine", kept) == kept


@pytest.mark.parametrize(
    "value",
    [
        "virtio-net-pci,netdev=n", "vfio-pci,host=01:00.0", "loader,file=/etc/shadow",
        "virtio-serial,chardev=c", "",
    ],
)  # fmt: skip
def test_a_device_that_reaches_out_of_the_vm_is_not(value: str) -> None:
    assert kept_value("device", value) is None


def test_a_path_is_no_property() -> None:
    assert kept_value("device", "virtio-blk-pci,id=/etc/shadow,drive=d") == "virtio-blk-pci,drive=d"
