"""What we install from others: under which licence, with which digest, and that it is listed."""

import re
import tomllib
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

import pytest

from deploy.sbom.__main__ import with_licences
from deploy.sbom.licences import BY_NAME, is_allowed, name_of, refused

ROOT = Path(__file__).parents[2]


def locked() -> list[dict[str, Any]]:
    packages: list[dict[str, Any]] = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    return [one for one in packages if "editable" not in one["source"]]


def without_digest(packages: list[dict[str, Any]]) -> list[str]:
    return [
        one["name"]
        for one in packages
        for file in [*one.get("wheels", []), *([one["sdist"]] if "sdist" in one else [])] or [{}]
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", file.get("hash", ""))
    ]


class Package(Distribution):
    """One that says of itself what a case needs."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read_text(self, filename: str) -> str | None:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError("only the metadata is looked at")


def test_every_installed_package_has_a_licence_that_is_allowed() -> None:
    assert list(refused(distributions())) == []


def test_every_package_that_is_allowed_by_name_is_used() -> None:
    assert BY_NAME.keys() <= {one["name"] for one in locked()}


def test_every_package_of_the_lock_has_a_hash() -> None:
    assert locked()
    assert without_digest(locked()) == []


@pytest.mark.parametrize(
    "metadata",
    [
        "License-Expression: GPL-3.0-only",
        "License-Expression: MIT AND GPL-3.0-only",
        "License-Expression: (MIT OR GPL-2.0-only)",  # nobody has looked at it yet
        "License-Expression: LGPL-3.0-only",
        "License: Proprietary",
        "Classifier: License :: OSI Approved :: GNU Affero General Public License v3",
        "Summary: says nothing",
    ],
)
def test_a_licence_that_nobody_allowed_is_refused(metadata: str) -> None:
    (said,) = refused([Package(f"Name: Some_Package\nVersion: 1.0\n{metadata}\n")])
    assert said.startswith("some-package 1.0: licence")


@pytest.mark.parametrize(
    "metadata",
    [
        "License-Expression: GPL-3.0-only OR MIT",
        "License-Expression: Apache-2.0 AND BSD-2-Clause",
        "License: Apache 2.0",
        "Classifier: License :: OSI Approved :: MIT License",
    ],
)
def test_a_licence_that_is_allowed_is_found_wherever_it_is_stated(metadata: str) -> None:
    assert list(refused([Package(f"Name: a\nVersion: 1\n{metadata}\n")])) == []


def test_a_licence_is_allowed_for_the_named_package_alone() -> None:
    assert is_allowed("psycopg", "LGPL-3.0-only")
    assert not is_allowed("another", "LGPL-3.0-only")


def test_a_package_without_a_digest_is_found() -> None:
    bare = [{"name": "a", "wheels": [{"url": "a.whl"}]}, {"name": "b"}]
    assert without_digest(bare) == ["a", "b"]


def test_the_list_says_the_licence_of_each_component() -> None:
    bill = with_licences({"components": [{"name": "psycopg"}, {"name": "not-installed"}]})
    assert bill["components"] == [
        {"name": "psycopg", "licenses": [{"expression": "LGPL-3.0-only"}]},
        {"name": "not-installed"},
    ]
    assert name_of(Package("Name: Py_Yaml.x\n")) == "py-yaml-x"
