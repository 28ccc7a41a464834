"""Endpoint of keys: which there are and what opens them, never their secrets."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI
from pydantic import BaseModel, Field

from libs.catalogdb.protected import require_tenant
from libs.copies.stores import Stores
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import unwrap, wrapped_by
from libs.reading.volume import VolumeReaders
from libs.rest.auth import Caller, Role, require
from libs.store.layout import KEYS_PREFIX, parse_domain_key_object

Reader = Annotated[Caller, Depends(require(Role.READER))]


class KeyAnswer(BaseModel):
    """A data key of the tenant's domain, as it lies in the bucket, wrapped.

    While the key-encryption key is changed, a data key is there once for each of the two.
    """

    domain: UUID
    key_id: UUID
    created_at: datetime = Field(description="When it was wrapped")
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
                    created_at=stat.modified_at,
                    in_use=name.key_id == found.key_id,
                    kek_fingerprint=wrapped_by(wrapped).hex(),
                )
            )
        return answers
