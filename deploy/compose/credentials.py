"""`python3 -m deploy.compose.credentials`: makes the secrets of deploy/compose*.yaml, once.

Each is a file in deploy/compose/secrets; what is there is kept. Only Python's own modules are used,
and our modules that use no others, so that a workstation needs nothing but Docker and Python.
"""

import hashlib
import json
import secrets
import uuid
from pathlib import Path

from libs.keys.nodes import NodeKey

FOLDER = Path(__file__).parent / "secrets"
#: Name of the only node.
NODE = "workstation"
#: Services with a login of their own in the catalog.
LOGINS = ("catalog", "coordinator", "chunker", "restore")


def main() -> None:
    """Make what is missing."""
    for name in make(FOLDER):
        print(f"{FOLDER / name}: made")


def make(folder: Path) -> list[str]:
    """Make the secrets that ``folder`` lacks; their names.

    The folder is for its owner alone. The files in it can be read by anyone, because containers see
    a file without its folder, and read it as a user whom this machine does not know.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made: list[str] = []

    def secret(name: str, text: str) -> str:
        """The secret as it stands in its file, which holds ``text`` if it is new."""
        file = folder / name
        if not file.exists():
            file.write_text(text)
            file.chmod(0o444)
            made.append(name)
        return file.read_text()

    secret("kek", secrets.token_hex(32))
    secret("owner.dsn", _dsn("backcast", secret("postgres-password", _random())))
    for login in LOGINS:
        secret(f"{login}.dsn", _dsn(login, _random()))
    people = [
        _accepted("people", secret("token", _random()), "operator", "restore"),
        _accepted("deleting", secret("delete-token", _random()), "delete"),
        _accepted("admin", secret("admin-token", _random()), "admin", "release"),
    ]
    node_key = NodeKey(secret("node-key", secrets.token_hex(32)))
    for name in ("kafka-password", "kafka-controller-password"):
        secret(name, secrets.token_hex(32))
    secret("agent-credential", node_key.credential(NODE, uuid.uuid4()).text)
    for service in ("restore", "catalog", "coordinator"):
        secret(f"{service}-accepts.json", json.dumps(people))
    for store in ("", "second-"):
        access = secret(f"{store}s3-access-key", secrets.token_hex(10))
        key = secret(f"{store}s3-secret-key", _random())
        # Where the filer and the volume server look for what they ask for; see the local servers.
        secret(f"{store}seaweedfs-security.toml", _security())
        secret(f"{store}seaweedfs.json", json.dumps({"identities": [_administrator(access, key)]}))
    return made


def _security() -> str:
    sections = ("jwt.signing", "jwt.filer_signing", "jwt.filer_signing.read")
    keys = "".join(f'[{section}]\nkey = "{_random()}"\n' for section in sections)
    return f"{keys}[filer.expose_directory_metadata]\nenabled = false\n"


def _random() -> str:
    """24 random bytes as text that needs no quoting in a URL."""
    return secrets.token_urlsafe(24)


def _dsn(login: str, password: str) -> str:
    return f"postgresql://{login}:{password}@postgres/backcast"


def _accepted(name: str, token: str, *roles: str) -> dict[str, object]:
    """An entry of the tokens that a service accepts; see libs/rest/auth.py."""
    digest = hashlib.sha256(token.encode()).hexdigest()
    return {"name": name, "sha256": digest, "tenant": "*", "roles": roles}


def _administrator(access_key: str, secret_key: str) -> dict[str, object]:
    return {
        "name": "backcast",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }


if __name__ == "__main__":
    main()
