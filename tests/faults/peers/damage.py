"""`python -m tests.faults.peers.damage [SECONDS]`: the same damage to repositories of others.

Takes the harms of `tests.faults.damage.harm`. After each one, the program's own full check is
asked, and both of its snapshots are restored. Writes `build/faults/peers-damage.json`. Outcomes:

* *silent*: bytes that are wrong, or a file that is missing, and every command said success,
* *wrong*: bytes that are wrong were written, with an exit status that tells of it,
* *refused*: no file, and the program said so,
* *right*: the bytes that were saved.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.damage.harm import HARMS
from tests.faults.peers.programs import PROGRAMS, Program

SEED = 20261122
_SIZE_BYTES = 2 << 20


def main() -> None:
    """Damage each program's repository for so many seconds."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 240.0
    results = {}
    for program in PROGRAMS:
        with tempfile.TemporaryDirectory() as folder:
            results[program.name] = attack(program(Path(folder)), seconds)
            print(program.name, json.dumps(results[program.name]))
    path = Path("build/faults/peers-damage.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


def attack(program: Program, seconds: float) -> dict[str, object]:
    """Damage one program's repository again and again; what came of it."""
    contents = saved(program)
    objects = {
        str(path.relative_to(program.repository)): path.read_bytes()
        for path in sorted(program.repository.rglob("*"))
        if path.is_file()
    }
    assert trial(program, contents) == Counter(right=2, checked=1), program.log.read_text()
    chance, weights = random.Random(SEED), [harm.weight for harm in HARMS]
    outcomes, silent, unnamed = Counter[str](), list[str](), list[str]()
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        changed = dict(objects)
        (harm,), key = chance.choices(HARMS, weights), chance.choice(sorted(objects))
        harm.inflict(changed, key, chance)
        if changed == objects:
            continue
        put(program, changed)
        outcome = trial(program, contents)
        outcomes += outcome
        outcomes["tried"] += 1
        case = f"{harm.inflict.__name__} of {key}"
        if outcome["silent"]:
            silent.append(case)
        if outcome["checked"] and outcome["right"] < len(contents):
            unnamed.append(case)
    outcomes["check_failed"] = outcomes["tried"] - outcomes.pop("checked", 0)
    return {
        "version": program.version,
        "seed": SEED,
        "outcomes": dict(outcomes),
        "silent": silent,
        "check_passed_but_restore_failed": unnamed,
    }


def saved(program: Program) -> dict[str, tuple[Path, bytes]]:
    """A repository with two snapshots of a file; the content of each, by label."""
    chance = random.Random(SEED)
    source = program.folder / "disk"
    text = b"".join(b"line %d of a log\n" % chance.randrange(10**6) for _ in range(30_000))
    content = chance.randbytes(_SIZE_BYTES - len(text)) + text
    assert program.init() == 0, program.log.read_text()
    contents = {}
    for label in ("first", "second"):
        source.write_bytes(content)
        assert program.backup(source, label) == 0, program.log.read_text()
        contents[label] = (source, content)
        content = b"changed" + content[7:]
    return contents


def trial(program: Program, contents: dict[str, tuple[Path, bytes]]) -> Counter[str]:
    """Check, then restore everything."""
    outcome = Counter(checked=int(program.check() == 0))
    for label, (source, content) in contents.items():
        status, restored = program.restored(source, label)
        if restored == content:
            outcome["right"] += 1
        elif status == 0:
            outcome["silent"] += 1
        else:
            outcome["refused" if restored is None else "wrong"] += 1
    return +outcome


def put(program: Program, objects: dict[str, bytes]) -> None:
    """Make the repository's files exactly these."""
    shutil.rmtree(program.repository)
    for name, content in objects.items():
        path = program.repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for cache in (program.folder / ".cache", program.folder / ".config"):
        shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    main()
