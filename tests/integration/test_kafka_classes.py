"""A broker maps the classes that an earlier one has loaded."""

from pathlib import Path

from deploy.local.cluster import LocalCluster
from deploy.local.servers.kafka_classes import kept_classes
from deploy.local.servers.kafka_jars import ensure_java, kafka_jars


def test_a_broker_maps_the_kept_classes(local_servers: LocalCluster) -> None:
    made = list[str]()
    option, *_ = kept_classes(kafka_jars(print), ensure_java(print), made.append, print)
    assert made == []  # whoever started the broker has kept them
    maps = Path(f"/proc/{local_servers.kafka.process.pid}/maps").read_text()
    assert f"{option.removeprefix('-XX:SharedArchiveFile=')}\n" in maps
