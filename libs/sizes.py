"""Sizes as people read them; programs get exact numbers of bytes, in fields of their own."""

_KIB = 1024


def human_bytes(count: int) -> str:
    """A size with three digits that matter: ``0 B``, ``812 KiB``, ``1.31 GiB``."""
    if count < _KIB:
        return f"{count} B"
    units = iter(("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    size, unit = count / _KIB, next(units)
    while size >= 999.5:
        size, unit = size / _KIB, next(units)
    decimals = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{size:.{decimals}f} {unit}"
