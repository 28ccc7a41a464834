"""The licences of installed packages, as SPDX expressions, and which of them we allow.

Newer packages state an expression. Older ones have a classifier or a text of their own, so the
tables here say what these mean. What no table knows is refused: a person must look at it.
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution

#: Allowed for every package: they ask for a notice at most.
PERMISSIVE = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "CC0-1.0",
        "ISC",
        "MIT",
        "MIT-0",
        "PSF-2.0",
        "Unlicense",
    }
)

#: Package → the licence that is allowed for it alone, because we use it as it is: imported, not
#: changed, not copied into our code, and replaceable by whoever runs an image.
BY_NAME = {
    "certifi": "MPL-2.0",
    "hypothesis": "MPL-2.0",
    "pathspec": "MPL-2.0",
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
    "psycopg-pool": "LGPL-3.0-only",
}

#: Package → licence, of those whose metadata say none. Looked up in their repositories.
_UNSTATED = {"atheris": "Apache-2.0"}

_OF_CLASSIFIER = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
_OF_TEXT = {
    "Apache": "Apache-2.0",
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
}
_CLASSIFIER = "License :: OSI Approved :: "


def licence_of(package: Distribution) -> str:
    """The SPDX expression of a package; what it says itself if no table knows that; or ''."""
    if expression := _field(package, "License-Expression"):
        return expression
    if stated := _UNSTATED.get(name_of(package)):
        return stated
    text = _field(package, "License")
    if text and "\n" not in text:  # some put the whole text of the licence there
        return _OF_TEXT.get(text, text)
    classifiers = package.metadata.get_all("Classifier") or []
    said = [one.removeprefix(_CLASSIFIER) for one in classifiers if one.startswith(_CLASSIFIER)]
    return " AND ".join(_OF_CLASSIFIER.get(one, one) for one in said)


def name_of(package: Distribution) -> str:
    """The name of a package as the lock spells it."""
    return _field(package, "Name").lower().replace("_", "-").replace(".", "-")


def is_allowed(package: str, expression: str) -> bool:
    """Whether a package may be used under one of the licences that it offers."""
    allowed = PERMISSIVE | {BY_NAME.get(package, "")}
    return bool(expression) and any(
        all(one.strip() in allowed for one in alternative.split(" AND "))
        for alternative in expression.split(" OR ")
    )


def refused(packages: Iterable[Distribution]) -> Iterator[str]:
    """One line for each package whose licence we do not allow."""
    for package in packages:
        name, licence = name_of(package), licence_of(package)
        if not is_allowed(name, licence):
            yield (
                f"{name} {package.version}: licence {licence or 'not stated'!r}; leave the package "
                f"out, or allow its licence in deploy/sbom/licences.py with the reason"
            )


def _field(package: Distribution, name: str) -> str:
    metadata = package.metadata
    value: str = metadata[name] if name in metadata else ""  # noqa: SIM401 -- its type has no `get`
    return value.strip()
