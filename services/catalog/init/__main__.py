"""`python -m services.catalog.init`: schema, roles, logins, topics, bucket; may be repeated.

Runs before the services, as the owner of the schema. Order: schema → logins → topics → bucket. A
crash after any step leaves a set-up that the next run completes.
"""

import gc

if __name__ == "__main__":
    gc.disable()  # until `run_service`: what is imported stays

import asyncio
import logging
import sys

from psycopg.conninfo import conninfo_to_dict

from libs.catalogdb.migrate import SERVICE_ROLES, create_login, migrate
from libs.catalogdb.recovery.incarnation import doubt_new
from libs.errors import ConfigurationError
from libs.events.topics import TOPICS
from libs.kafka.topics import ensure_topics
from libs.keys.kek import KeyEncryptionKey
from libs.runtime.service import run_service
from libs.runtime.settings import Secret
from libs.runtime.signals import Stop
from libs.store.buckets import bucket_state, make_bucket
from libs.store.opening import bucket_of
from libs.store.probe import probe_s3
from services.catalog.init.settings import Settings

log = logging.getLogger("init")


def main(settings: Settings, _: Stop) -> None:
    """Set everything up."""
    kek = KeyEncryptionKey.parse(settings.kek.reveal())
    owner = settings.postgres.dsn.reveal()
    log.info("schema is up to date", extra={"version": migrate(owner)})
    doubt_new(owner)
    for service in SERVICE_ROLES:
        dsn: Secret | None = getattr(settings, f"{service}_dsn")
        if dsn:
            _create_login(owner, service, dsn)
    report = asyncio.run(ensure_topics(settings.kafka, TOPICS, settings.topic_replication_factor))
    for difference in report.differences:
        log.warning("topic is not as it should be", extra={"detail": difference})
    for store in filter(None, (settings.s3, settings.second_s3.store)):
        bucket = bucket_of(store)
        make_bucket(bucket)
        about = {
            "endpoint": store.endpoint,
            "bucket": store.bucket,
            "abilities": str(probe_s3(bucket)),
            "state": str(bucket_state(bucket)),
            "kek": kek.fingerprint.hex(),
        }
        log.info("store is usable", extra=about)


def _create_login(owner: str, service: str, dsn: Secret) -> None:
    parts = conninfo_to_dict(dsn.reveal())
    user, password = parts.get("user"), parts.get("password")
    if not user or not password:
        raise ConfigurationError(
            f"{service.upper()}_DSN_FILE: expected a user and a password in it"
        )
    create_login(owner, service, str(user), str(password))


if __name__ == "__main__":
    sys.exit(run_service("init", Settings, main))
