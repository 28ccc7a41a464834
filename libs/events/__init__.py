"""Events: what was committed, as frozen dataclasses, and its form on the wire. Pure: no I/O."""
