"""Certificates for tests, in files as services read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deploy.local.certificates import Authority


@dataclass(frozen=True)
class Files:
    """Where a certificate and its key are."""

    certificate: Path
    key: Path


class Site:
    """A folder with an authority of its own.

    Args:
        folder: made if missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True, parents=True)
        self.folder = folder
        self._authority = Authority.new(f"authority in {folder.name}")
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_text(self._authority.own.certificate)

    def issue(
        self, names: Sequence[str], name: str = "server", until: datetime | None = None
    ) -> Files:
        """Write a certificate for ``names``; whatever the files ``name`` had before is replaced."""
        made = self._authority.issue(names, until)
        files = Files(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        files.certificate.write_text(made.certificate)
        files.key.write_text(made.key)
        return files
