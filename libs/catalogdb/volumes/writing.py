"""How answers name the nodes that write a volume."""

from collections.abc import Sequence

from pydantic import BaseModel, Field


class WritingNode(BaseModel):
    """A node that writes a volume."""

    node: str
    path: str
    lead: bool = Field(description="Whether it captures the volume")


def writing_nodes(places: Sequence[tuple[str, str]]) -> list[WritingNode]:
    """What an answer says of them.

    Args:
        places: name of each node, and the volume's path there; the lead first.
    """
    return [
        WritingNode(node=node, path=path, lead=number == 0)
        for number, (node, path) in enumerate(places)
    ]
