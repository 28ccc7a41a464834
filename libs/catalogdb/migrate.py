"""Bring a database to the newest schema; `python -m services.catalog.init` does it as the owner."""

from importlib import resources

from psycopg import sql

from libs.catalogdb.connecting import connect
from libs.catalogdb.pool import translated
from libs.errors import ConfigurationError
from libs.events.topics import RELAYED_TOPICS

#: Any number that only this migration uses: two `init` at once wait for each other.
_LOCK = 0x6261636B

#: Services that log in to the catalog; roles.sql has a role for each.
SERVICE_ROLES = ("coordinator", "chunker", "catalog", "restore")


def migrate(dsn: str) -> int:
    """Apply the migrations that a database lacks, then the roles' grants; return its version.

    Each migration and its version row are one transaction: a crash leaves the previous version.

    Raises:
        ConfigurationError: the database has a newer schema than this program knows.
        UnavailableError: Postgres does not answer.
    """
    schema = resources.files("libs.catalogdb") / "schema"
    migrations = sorted(f.name for f in schema.iterdir() if f.name[:3].isdigit())
    with translated(), connect(dsn, autocommit=True) as db:
        db.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        db.execute("SET search_path = public, pg_temp")  # functions keep it
        db.execute(
            """CREATE TABLE IF NOT EXISTS schema_version
               (version int PRIMARY KEY, at timestamptz DEFAULT now())"""
        )
        row = db.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
        version = int(row[0]) if row else 0
        newest = int(migrations[-1][:3])
        if version > newest:
            raise ConfigurationError(
                f"catalog schema is version {version}, this program knows up to {newest}: "
                f"run the newer release"
            )
        db.execute(schema.joinpath("roles.sql").read_bytes())
        for name in migrations[version:]:
            with db.transaction():
                db.execute(schema.joinpath(name).read_bytes())
                db.execute("INSERT INTO schema_version (version) VALUES (%s)", [int(name[:3])])
        with db.transaction():
            db.execute(schema.joinpath("grants.sql").read_bytes())
            for topic in RELAYED_TOPICS:
                db.execute(
                    "INSERT INTO log_position (topic) VALUES (%s) ON CONFLICT DO NOTHING", [topic]
                )
    return newest


def create_login(dsn: str, service: str, login: str, password: str) -> None:
    """Create or update a login that acts as a service's role (idempotent).

    Args:
        dsn: connection of the owner.
        service: one of `SERVICE_ROLES`.
        login: name of the login.
        password: its password, sent to the server and nowhere else.
    """
    role = f"backcast_{service}"
    with translated(), connect(dsn, autocommit=True) as db:
        exists = db.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [login]).fetchone()
        if not exists:
            db.execute(
                sql.SQL("CREATE ROLE {} IN ROLE {}").format(
                    sql.Identifier(login), sql.Identifier(role)
                )
            )
        db.execute(
            sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(
                sql.Identifier(login), sql.Literal(password)
            )
        )
        # Our queries are point look-ups. Statistics of a table that grows from nothing to millions
        # of rows within one session lag behind, and a plan made from them would scan the table for
        # every span. Settings of a role do not pass to its members, so each login gets them.
        for setting in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"):
            db.execute(
                sql.SQL("ALTER ROLE {} SET {} = off").format(
                    sql.Identifier(login), sql.Identifier(setting)
                )
            )
