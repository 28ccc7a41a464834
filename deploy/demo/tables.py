"""The end of the demonstration: what each step cost, what came back, which events tell of it."""

from collections.abc import Callable, Mapping, Sequence

from rich.table import Table

from deploy.demo.story import Day, Story
from libs.sizes import human_bytes

_Figure = Callable[[Day], int]

_FIGURES: tuple[tuple[str, _Figure], ...] = (
    ("logical size", lambda day: day.taken["logical_bytes"]),
    ("data in it, without zeros", lambda day: day.data_bytes),
    ("read by the agent", lambda day: day.taken["read_bytes"]),
    ("changed since the snapshot before", lambda day: day.taken["changed_bytes"]),
    ("sent, because nobody had stored it", lambda day: day.taken["sent_bytes"]),
    ("stored, compressed and encrypted", lambda day: day.taken["stored_bytes"]),
    ("fetched again to restore", lambda day: day.restored["fetched_bytes"]),
)


def story_table(story: Story) -> Table:
    """A column for each recovery point, and one for both."""
    days = story.days
    table = Table(title="What it took", title_justify="left")
    table.add_column("")
    for heading in (*(day.taken["point"] for day in days), "together"):
        table.add_column(heading, justify="right")
    for name, figure in _FIGURES:
        counts = [figure(day) for day in days]
        table.add_row(name, *(human_bytes(count) for count in (*counts, sum(counts))))
    for name, seconds in (
        ("time of the snapshot", [day.taken["seconds"] for day in days]),
        ("time of the restore", [day.restored["seconds"] for day in days]),
    ):
        table.add_row(name, *(f"{one:.1f} s" for one in (*seconds, sum(seconds))))
    table.add_row("SHA-256 after the restore", *_verdicts(days))
    return table


def ratios(story: Story) -> str:
    """How much smaller the history is than what it can give back."""
    data, sent, stored = (
        sum(counts)
        for counts in zip(
            *(
                (day.data_bytes, day.taken["sent_bytes"], day.taken["stored_bytes"])
                for day in story.days
            ),
            strict=True,
        )
    )
    changed = sum(extent["length_bytes"] for extent in story.extents)
    return (
        f"deduplication {data / sent:.2f} : 1 (data of both points / sent), "
        f"compression {sent / stored:.2f} : 1 (sent / stored), "
        f"together {data / stored:.2f} : 1\n"
        f"the points differ in {len(story.extents)} extents, {human_bytes(changed)}"
    )


def topics_table(counts: Mapping[str, int]) -> Table:
    """The topics, with the number of events that each holds."""
    table = Table(title="What the events tell", title_justify="left")
    table.add_column("topic")
    table.add_column("events", justify="right")
    for topic, count in counts.items():
        table.add_row(topic, str(count))
    return table


def _verdicts(days: Sequence[Day]) -> list[str]:
    every = all(day.identical for day in days)
    return ["identical" if same else "DIFFERENT" for same in (*(d.identical for d in days), every)]
