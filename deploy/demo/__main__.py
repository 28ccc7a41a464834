"""``make demo``: everything on a fresh machine, then the story of one disk."""

import asyncio
import sys
from pathlib import Path

from rich.console import Console

from deploy.demo.command import Command
from deploy.demo.stage import Demonstration, show
from deploy.demo.story import VOLUME, play
from deploy.demo.tables import ratios, story_table, topics_table
from deploy.local.cluster import LocalCluster
from deploy.local.home import BackcastHome
from libs.errors import DamagedDataError
from libs.events.topics import TOPICS
from libs.kafka.topics import count_records

#: Image, its two originals, both restored, the store, Kafka's and PostgreSQL's own files.
_SPACE_BYTES = 6 << 30
_NEXT = f"""
Where to look next: `make demo ARGS=--keep` leaves all of this running, `make up` starts a place to
stay. Then, as .venv/bin/backcast or after `source .venv/bin/activate`:
  backcast volume add NAME PATH            protect an image, a partition, a disk of your own
  backcast snapshot list                   every recovery point, and what each cost
  backcast translate {VOLUME}@2 1048576        where one byte of it lies in the object store
  backcast events tail --follow            what happened, as it happens
README.md says the rest, docs/architecture.md how it works."""
_KEPT = f"""
Everything still runs. To look around:
  export BACKCAST_HOME={{home}} PATH=$PWD/.venv/bin:$PATH
  backcast snapshot list
  backcast translate {VOLUME}@2 1048576
  backcast events tail
  eval "$(backcast dev env)"               addresses and credentials for other programs
To end it: backcast dev down; rm -r {{folder}}"""


def _perform(folder: Path, console: Console) -> None:
    home = BackcastHome(folder / "home")
    backcast = Command(home.folder, lambda line: console.print(f"$ {line}", style="bold"))
    backcast("dev", "up", "--s3", "soonest")
    console.print(f"S3 server: {home.s3_server}")
    story = play(folder, backcast, console.print)
    settings = LocalCluster(home).kafka.client_settings
    counts = asyncio.run(count_records(settings, [topic.name for topic in TOPICS]))
    for part in ("", story_table(story), ratios(story), topics_table(counts)):
        console.print(part)
    if not all(day.identical for day in story.days):
        raise DamagedDataError(f"{folder}: a restored image is not what was protected")


if __name__ == "__main__":
    sys.exit(
        show(Demonstration("python -m deploy.demo", __doc__, _SPACE_BYTES, _perform, _NEXT, _KEPT))
    )
