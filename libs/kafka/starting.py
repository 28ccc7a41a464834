"""Starts a client of the brokers; where none takes it, says why: the library only logs that."""

import asyncio
from typing import Protocol

from aiokafka import errors as kafka  # type: ignore[import-untyped]  # no py.typed
from aiokafka.conn import create_conn  # type: ignore[import-untyped]  # no py.typed

from libs.errors import UnavailableError
from libs.kafka.clients import connection_arguments, translated
from libs.runtime.groups import KafkaSettings

#: To find out why no broker took a client.
_LOOK_SECONDS_MAX = 5.0


class Client(Protocol):
    """A producer, a consumer or an admin client."""

    async def start(self) -> None:
        """Connect to one of the brokers."""


async def start_client(client: Client, settings: KafkaSettings, doing: str) -> None:
    """Start a client.

    Args:
        client: made for the same settings.
        settings: how to reach the brokers.
        doing: what fails then, for the message.

    Raises:
        UnavailableError: no broker takes it. A wrong password is one of the reasons, and it is
            worth trying again: a broker that starts does not know its users at once, and an
            administrator may give the user this password yet.
    """
    try:
        with translated(doing):
            await client.start()
    except UnavailableError as err:
        if not isinstance(err.__cause__, kafka.KafkaConnectionError):
            raise
        reasons = [await _reason(settings, address) for address in settings.bootstrap.split(",")]
        raise UnavailableError(f"Kafka: could not {doing}: {'; '.join(reasons)}") from err


async def _reason(settings: KafkaSettings, address: str) -> str:
    """Why a broker does not take a client."""
    host, _, port = address.strip().rpartition(":")
    broker = f"broker {host}:{port}"
    try:
        async with asyncio.timeout(_LOOK_SECONDS_MAX):
            connection = await create_conn(host, int(port), **connection_arguments(settings))
        connection.close()
    except (kafka.SaslAuthenticationFailed, kafka.AuthenticationFailedError) as err:
        return (
            f"{broker} refuses the login of user {settings.sasl_username} "
            f"({settings.sasl_mechanism}): {err}; check KAFKA_SASL_USERNAME and the file of "
            f"KAFKA_SASL_PASSWORD_FILE, and that the brokers know this user"
        )
    except TimeoutError:
        return f"{broker} does not answer within {_LOOK_SECONDS_MAX:g} s"
    except (OSError, kafka.KafkaError) as err:
        return (
            f"{broker}: {str(err) or type(err).__name__}; check KAFKA_BOOTSTRAP and "
            f"KAFKA_SECURITY_PROTOCOL, which is {settings.security_protocol}"
        )
    return (
        f"{broker} takes connections, but no requests; does KAFKA_SECURITY_PROTOCOL "
        f"({settings.security_protocol}) fit that port?"
    )
