"""Whether Kafka answers this process now: what `/readyz` asks."""

import asyncio
import contextlib

from libs.errors import UnavailableError
from libs.kafka.clients import admin, translated
from libs.runtime.groups import KafkaSettings

#: Less than `libs.runtime.health.READY_SECONDS_MAX`, so that the reason is known in time.
_SECONDS_MAX = 2.0
_CLOSE_SECONDS_MAX = 0.5


def ask_kafka(settings: KafkaSettings) -> None:
    """Log in at a broker, and ask it for nothing.

    Raises:
        UnavailableError: no broker answers in time.
        ForbiddenError: the brokers refuse the user.
    """
    asyncio.run(_ask(settings))


async def _ask(settings: KafkaSettings) -> None:
    client = admin(settings)
    try:
        with translated("log in"):
            async with asyncio.timeout(_SECONDS_MAX):
                await client.start()
    except TimeoutError as err:
        raise UnavailableError(f"Kafka: no broker answered within {_SECONDS_MAX} s") from err
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.close(), _CLOSE_SECONDS_MAX)
