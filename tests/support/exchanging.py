"""What a person or an attacker does to a bucket, who confuses two of its objects."""

from libs.store.port import ObjectStore


def exchange(store: ObjectStore, one: str, other: str) -> None:
    """Give each of two keys what the other had."""
    bodies = store.get(one), store.get(other)
    replace(store, other, bodies[0])
    replace(store, one, bodies[1])


def replace(store: ObjectStore, key: str, body: bytes) -> None:
    """Put other bytes under a key."""
    store.delete(key)
    store.put(key, body)
