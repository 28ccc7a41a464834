"""The script that starts a restored VM."""

import json
import os
import subprocess
from pathlib import Path

from libs.machines.starting import start_script
from tests.unit.machines.making import disk, flash, made

IMAGES = {"/machine/peripheral/vd0": "web-vd0.img", "/machine/peripheral/vd1": "web-vd1.img"}


def words_of(script: str, folder: Path) -> list[str]:
    """What the script would start, as a shell takes it apart."""
    program = folder / "qemu-system-x86_64"
    program.write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done\n')
    program.chmod(0o700)
    (folder / "start").write_text(script)
    path = {"PATH": f"{folder}:{os.environ['PATH']}"}
    run = ["sh", str(folder / "start"), "-S"]
    said = subprocess.run(run, env=path, check=True, capture_output=True).stdout
    return said.decode().split("\0")[:-1]


def values(words: list[str], option: str) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == f"-{option}"]


def test_disks_and_flash_are_those_beside_it(tmp_path: Path) -> None:
    words = words_of(start_script("web@3", made(), IMAGES), tmp_path)
    nodes = [json.loads(one) for one in values(words, "blockdev")]
    assert [one["file"]["filename"] for one in nodes] == ["flash1", "web-vd0.img", "web-vd1.img"]
    assert values(words, "device") == [
        "virtio-blk-pci,id=vd0,drive=disk0",
        "scsi-hd,drive=disk1,id=vd1",
    ]
    assert values(words, "machine") == ["pc-q35-7.2,pflash1=flash1"]
    assert values(words, "nic") == ["none"]
    assert (values(words, "m"), values(words, "smp")) == (["size=65536K"], ["2"])
    assert words[-1] == "-S"


def test_a_disk_without_bytes_is_left_out_and_said(tmp_path: Path) -> None:
    images = {"/machine/peripheral/vd1": "web-vd1.img"}
    script = start_script("web@3", made(), images)
    assert "no bytes of /machine/peripheral/vd0" in script
    assert values(words_of(script, tmp_path), "device") == ["scsi-hd,drive=disk0,id=vd1"]


def test_options_are_judged_again(tmp_path: Path) -> None:
    """Whoever made the definition may have lied."""
    options = (
        ("device", "virtio-net-pci,netdev=n"),
        ("device", "loader,file=/etc/shadow"),
        ("chardev", "file,id=c,path=/etc/cron.d/x"),
        ("drive", "file=/etc/shadow"),
        ("machine", "q35,kernel=/etc/shadow"),
        ("name", "'; touch /tmp/x; '"),
    )
    words = words_of(start_script("web@3", made(options=options), IMAGES), tmp_path)
    assert "shadow" not in str(words)
    assert not {"-chardev", "-drive", "-netdev", "-name"} & {*words}


def test_nothing_that_was_told_is_run_by_the_shell(tmp_path: Path) -> None:
    evil = f"$(touch {tmp_path}/evil)\ntouch {tmp_path}/evil\n`touch {tmp_path}/evil`"
    definition = made(
        qemu=evil, name=evil, options=(("cpu", "host,x=$(touch evil)"), ("rtc", "base=;x"))
    )
    words_of(start_script(evil, definition, IMAGES), tmp_path)
    assert not (tmp_path / "evil").exists()


def test_a_device_of_an_unknown_type_is_one_that_any_vm_has(tmp_path: Path) -> None:
    definition = made(disks=(disk("vd0", "vfio-pci"),), options=())
    words = words_of(start_script("web@3", definition, IMAGES), tmp_path)
    assert values(words, "device") == ["virtio-blk-pci,drive=disk0,id=vd0"]


def test_firmware_of_the_distribution_is_where_it_was(tmp_path: Path) -> None:
    firmware = flash(0, "/usr/share/OVMF/OVMF_CODE.fd", is_kept=False)
    words = words_of(start_script("web@3", made(flash=(firmware,)), IMAGES), tmp_path)
    node = json.loads(values(words, "blockdev")[0])
    assert (node["file"]["filename"], node["read-only"]) == (firmware.file, True)
