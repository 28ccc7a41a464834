"""Every parser that reads bytes from outside, by name."""

from tests.faults.fuzz.checkpoints import CHECKPOINTS
from tests.faults.fuzz.formats import FORMATS
from tests.faults.fuzz.messages import MESSAGES
from tests.faults.fuzz.nbd import NBD
from tests.faults.fuzz.sharing import SHARING
from tests.faults.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*FORMATS, *CHECKPOINTS, *MESSAGES, *NBD, *SHARING)
}
