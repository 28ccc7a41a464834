"""Text of others for a terminal: names, paths and messages that must not move the cursor.

What somebody else named or sent may hold control characters. A terminal obeys them: they colour,
overwrite or forge lines. This is for people; programs get JSON, which escapes them anyway.
"""

from typing import Any


def printable(text: str) -> str:
    """The text in one line: a character that is not printable becomes its escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def printable_lines(text: str) -> str:
    """The same of each line of a text that has several of its own, such as a traceback."""
    return "\n".join(map(printable, text.split("\n")))


def printable_document(value: Any) -> Any:
    """A copy of a JSON document with printable strings, also those in its lists and objects."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_document(key): printable_document(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [printable_document(one) for one in value]
    return value
