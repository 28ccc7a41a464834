"""What a process tells systemd, if that has started it (`sd_notify(3)`)."""

import contextlib
import os
import socket


def tell_supervisor(state: str) -> None:
    """Send a state such as READY=1; nothing happens where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.sendto(state.encode(), address.replace("@", "\0", 1))
