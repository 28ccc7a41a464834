"""Endpoint of keys: which there are and what opens them, never their secrets."""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.catalogdb.protected import require_tenant
from libs.copies.stores import Stores
from libs.ids import time_of_uuid7
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import unwrap, wrapped_by
from libs.reading.volume import VolumeReaders
from libs.rest.auth import Caller, Role, require
from libs.store.layout import KEYS_PREFIX, DomainKeyName, parse_domain_key_object

#: No key of ours is older.
_EARLIEST = datetime(2025, 1, 1, tzinfo=UTC)
_CLOCKS_APART = timedelta(days=1)

Reader = Annotated[Caller, Depends(require(Role.READER))]


class KeyAnswer(BaseModel):
    """A data key of the tenant's domain, as it lies in the bucket, wrapped.

    While the key-encryption key is changed, a data key is there once for each of the two.
    """

    domain: UUID
    key_id: UUID
    created_at: datetime | None = Field(
        description="When the data key was made; null: it was wrapped anew since, and is of a "
        "release whose keys do not say it"
    )
    wrapped_at: datetime = Field(
        description="When the store got this object: a change of the key-encryption key writes it "
        "anew"
    )
    in_use: bool = Field(description="Whether new packs are sealed under it")
    kek_fingerprint: str = Field(description="Which key-encryption key opens it")


def add_key_routes(
    app: FastAPI, readers: VolumeReaders, stores: Stores, kek: KeyEncryptionKey
) -> None:
    """Add the endpoint to the application."""

    @app.get("/v1/tenants/{tenant}/keys", tags=["listing"], summary="Keys, without their secrets")
    def keys(tenant: str, _: Reader) -> list[KeyAnswer]:
        found = require_tenant(readers.catalog, tenant)
        answers = []
        store = stores.objects
        for stat in store.list(f"{KEYS_PREFIX}{found.domain}/"):
            name = parse_domain_key_object(stat.key)
            wrapped = store.get(stat.key)
            unwrap(wrapped, name, kek)  # proves that the key-encryption key at hand opens it
            answers.append(
                KeyAnswer(
                    domain=name.domain,
                    key_id=name.key_id,
                    created_at=created_at(name, stat.modified_at),
                    wrapped_at=stat.modified_at,
                    in_use=name.key_id == found.key_id,
                    kek_fingerprint=wrapped_by(wrapped).hex(),
                )
            )
        return answers


def created_at(name: DomainKeyName, wrapped_at: datetime) -> datetime | None:
    """When a data key was made: its id says it, or else the object as it was first stored."""
    said = time_of_uuid7(name.key_id)
    # The clocks of two machines may differ, but an id that was drawn by chance, as those of
    # earlier releases were, names a time of any year.
    if said is not None and _EARLIEST <= said <= wrapped_at + _CLOCKS_APART:
        return said
    return wrapped_at if name.wrapped_by is None else None
