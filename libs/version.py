"""Which release this is; the image has no installed package to ask. A test compares pyproject."""

VERSION = "0.1.0"
