"""The token file of a service, which is read again whenever it changes."""

import logging
import time

from libs.errors import ConfigurationError
from libs.rest.auth import Authority, TokenEntry, Tokens
from libs.runtime.settings import Secret, read_secret

log = logging.getLogger(__name__)

#: The file is looked at this often at most; a look is one system call.
_LOOK_SECONDS = 1.0


class TokenFile:
    """Tokens of a file. What is added or taken away there counts within two seconds.

    A file that is gone or is no token file changes nothing: the log says so, and the tokens of
    before stay, because an editor's half-written file must lock nobody out. Write the file beside
    its place and rename it.

    Args:
        secret: the file, as the settings have read it.

    Raises:
        ConfigurationError: it is no token file.
    """

    def __init__(self, secret: Secret) -> None:
        self._file = secret.file
        self._seen = self._look()
        self._looked_at = time.monotonic()
        self._tokens = Tokens(secret.reveal())

    def find(self, token: str) -> TokenEntry | None:
        """The entry of a presented token, or None.

        Raises:
            UnauthenticatedError: it is known, and its time is over.
        """
        self._refresh()
        return self._tokens.find(token)

    def holds(self, entry: TokenEntry) -> bool:
        """Whether the entry still stands in the file as it was."""
        self._refresh()
        return self._tokens.holds(entry)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        seen = self._look()
        if seen == self._seen or self._file is None:
            return
        self._seen = seen
        try:
            self._tokens = Tokens(read_secret(str(self._file)).reveal())
        except (ConfigurationError, ValueError) as err:
            about = {"file": str(self._file), "detail": str(err)}
            log.error("token file not read; the tokens of before stay", extra=about)  # noqa: TRY400 -- `detail` says it
        else:
            log.info("token file read again", extra={"file": str(self._file)})

    def _look(self) -> object:
        """Something that differs after the file was written or replaced."""
        try:
            stat = self._file.stat() if self._file else None
        except OSError as err:
            return err.errno
        return stat and (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


_: type[Authority] = TokenFile
