"""The planted bugs: one or more for each rule that a scenario stands for, and others."""

from tests.faults.mutants.access import ACCESS
from tests.faults.mutants.barriers import BARRIERS
from tests.faults.mutants.beyond_scenarios import BEYOND_SCENARIOS
from tests.faults.mutants.copies import COPIES
from tests.faults.mutants.crowds import CROWDS
from tests.faults.mutants.domains import DOMAINS
from tests.faults.mutants.encryption import ENCRYPTION
from tests.faults.mutants.filter import FILTER
from tests.faults.mutants.gone import GONE
from tests.faults.mutants.machines import MACHINES
from tests.faults.mutants.mutant import Mutant, scenario
from tests.faults.mutants.nbd import NBD
from tests.faults.mutants.nodes import NODES
from tests.faults.mutants.notifications import NOTIFICATIONS
from tests.faults.mutants.qemu import QEMU
from tests.faults.mutants.reflink import REFLINK
from tests.faults.mutants.roots import ROOTS
from tests.faults.mutants.sharing import SHARING
from tests.faults.mutants.strangers import STRANGERS
from tests.faults.mutants.targets import TARGETS
from tests.faults.mutants.together import TOGETHER
from tests.faults.mutants.volumes import VOLUMES
from tests.faults.mutants.waiting import WAITING

_CATALOG = "libs/catalogdb"

MUTANTS: tuple[Mutant, ...] = (
    scenario(
        1,
        "a take-over leaves the older attempt open",
        f"{_CATALOG}/sessions/attempts.py",
        "        close_attempts(tx, session, volume_no)\n        # Those",
        "        # Those",
        "take-over closes the older attempt, and all its pins fall",
    ),
    scenario(
        2,
        "the base of an open session expires",
        f"{_CATALOG}/snapshots/expiry.py",
        "    if based:\n",
        "    if based and False:\n",
        "a session pins its base",
    ),
    scenario(
        2,
        "the seal believes in its base",
        f"{_CATALOG}/sessions/sealing.py",
        "\"SELECT 1 FROM snapshot WHERE session = %s AND state = 'l' FOR SHARE\"",
        '"SELECT 1 FROM snapshot WHERE session = %s FOR SHARE"',
        "the commit requires that the base is live",
    ),
    scenario(
        3,
        "map nodes are deduplicated",
        "services/chunker/parts/mapping.py",
        "        if not self._packs.ledger.claim([node_id]):\n            return\n",
        "        if not self._packs.ledger.claim([node_id]):\n            return\n"
        "        from libs.catalogdb.packs.index import count_by_pack\n"
        "        from libs.errors import InvariantViolation\n"
        "        try:\n"
        "            count_by_pack(self._around.catalog, self._packs.domains, [node_id])\n"
        "            return\n"
        "        except InvariantViolation:\n"
        "            pass\n",
        "nodes are shared only with the pinned base",
    ),
    scenario(
        4,
        "a rewrite never gives up",
        f"{_CATALOG}/deletion/rewriting.py",
        "        if not _may_commit(tx, token, list(old)):\n            return False\n",
        "        _may_commit(tx, token, list(old))\n",
        "under the packs' locks a rewrite looks again, and gives up",
    ),
    scenario(
        27,
        "a rewriter is not told of pins",
        f"{_CATALOG}/packs/index.py",
        '        "UPDATE marking SET token = NULL WHERE pack_no = ANY(%s) AND token IS NOT NULL",\n'
        "        [list(live)],",
        '        "UPDATE marking SET token = NULL WHERE pack_no = ANY(%s) AND token IS NOT NULL",\n'
        "        [[]],",
        "a rewrite gives up if a pin came since marking began",
    ),
    scenario(
        5,
        "who was second does not hear of the winner",
        f"{_CATALOG}/packs/registering.py",
        "winners = {n: winner for n, (winner, _) in found.items() if winner != pack_no}",
        "winners: dict[int, int] = {}",
        "register returns and pins the winner",
    ),
    scenario(
        5,
        "a closed attempt pins",
        f"{_CATALOG}/packs/index.py",
        "            if not require_open(tx, attempt):\n                return Stale(attempt)\n"
        "            refused",
        "            refused",
        "whatever an older attempt still does is refused",
    ),
    scenario(
        6,
        "a pin takes no lock",
        f"{_CATALOG}/packs/index.py",
        '               ORDER BY pack_no FOR SHARE""",',
        '               ORDER BY pack_no""",',
        "a pin takes FOR SHARE",
    ),
    scenario(
        6,
        "a collector does not look for pins",
        f"{_CATALOG}/deletion/condemning.py",
        '    """NOT EXISTS (SELECT FROM pin WHERE pin.pack_no = p.pack_no)\n'
        "       AND NOT EXISTS (SELECT FROM pack_use",
        '    """NOT EXISTS (SELECT FROM pack_use',
        "condemning locks, then checks pins",
    ),
    scenario(
        22,
        "a collector does not look for uses",
        f"{_CATALOG}/deletion/condemning.py",
        "       AND NOT EXISTS (SELECT FROM pack_use u WHERE u.pack_no = p.pack_no)\n",
        "",
        "a pack is in use while any row covers a live snapshot",
    ),
    scenario(
        7,
        "a dead pack is registered",
        f"{_CATALOG}/packs/registering.py",
        '        if state not in ("u", "l"):',
        "        if state is None:",
        "register takes only what is uploading",
    ),
    scenario(
        8,
        "fingerprints advance although the session was rejected",
        "services/change_capture/agent/captures.py",
        "settled.settle(sealed=sealed)",
        "settled.settle(sealed=True)",
        "fingerprints are kept until Sealed",
    ),
    Mutant(
        name="09 fingerprints of any session are used",
        file="services/change_capture/drivers/scan/fingerprints.py",
        old="(magic, version, owner, name) != (_MAGIC, _VERSION, session.bytes, identity.encode())",
        new="(magic, version, name) != (_MAGIC, _VERSION, identity.encode())",
        rule="fingerprints are tied to volume, base and device",
        tests="tests/unit/change_capture/test_fingerprints.py",
        chosen="another_session",
    ),
    scenario(
        10,
        "a capture goes on from another frozen view",
        f"{_CATALOG}/sessions/attempts.py",
        "        if part_boot not in (None, boot):",
        "        if part_boot is False:",
        "a capture is of one agent process",
    ),
    scenario(
        10,
        "missing batches are not missed",
        "services/chunker/parts/state.py",
        "        if (completed.batches, completed.batches_digest) != expected:",
        "        if completed.batches < 0:",
        "count and hash of all batches in CaptureCompleted",
    ),
    scenario(
        11,
        "each chunker sees only its own part",
        f"{_CATALOG}/sessions/attempts.py",
        "\"SELECT bool_and(state = 'f') FROM part WHERE session = %s\", [session]",
        "\"SELECT bool_and(state = 'f') FROM part WHERE attempt = %s\", [rows[0][0]]",
        "the transaction that adds the last part seals",
    ),
    scenario(
        12,
        "a catalog that fell back goes on",
        f"{_CATALOG}/recovery/incarnation.py",
        "    if not (row and row[0]):\n        raise NotReconciledError(_NOT_COMPARED)\n"
        "    if not row[1]:\n        raise NotReconciledError(_NOT_RECONCILED)\n",
        "    pass\n",
        "sessions, collection and sweeps wait for reconciliation",
    ),
    scenario(
        13,
        "a generation may come twice",
        f"{_CATALOG}/packs/registering.py",
        "ON CONFLICT (generation) DO NOTHING RETURNING pack_no",
        "ON CONFLICT (generation) DO UPDATE SET state = 'u' RETURNING pack_no",
        "generations are claimed in the catalog",
    ),
    scenario(
        14,
        "the catalog knows a domain before its keys are stored",
        "services/change_capture/coordinator/tenants.py",
        "    vault.put(keys)\n    return create_tenant(catalog, name, keys.domain, keys.key_id)",
        "    made = create_tenant(catalog, name, keys.domain, keys.key_id)\n"
        "    vault.put(keys)\n    return made",
        "wrapped keys are in the bucket before first use",
    ),
    scenario(
        15,
        "deadlines do not end sessions",
        f"{_CATALOG}/sessions/session.py",
        "WHERE state = 'o' AND deadline < now()",
        "WHERE state = 'o' AND deadline < now() - interval '30 days'",
        "a session past its deadline is rejected",
    ),
    scenario(
        15,
        "a position passes an open session",
        f"{_CATALOG}/sessions/positions.py",
        "WHERE s.state = 'o' AND p.partition = %s",
        "WHERE s.state = '-' AND p.partition = %s",
        "a stored offset never passes what is not applied",
    ),
    scenario(
        16,
        "positions are drawn without a lock",
        f"{_CATALOG}/log/log.py",
        '        """UPDATE log_position SET last = last + %s\n'
        "           WHERE topic = %s AND (SELECT life = catalog_life() FROM incarnation)\n"
        '           RETURNING last""",',
        '        "SELECT coalesce(max(position), 0) + %s FROM event_log WHERE topic = %s",',
        "gapless positions from a counter that is locked last",
    ),
    scenario(
        17,
        "two manifests continue one head",
        f"{_CATALOG}/sessions/sealing.py",
        "    if head is None or head[0] != head_sequence:",
        "    if head is None:",
        "the group's head moves by compare-and-set",
    ),
    scenario(
        18,
        "an ended session is ordered again",
        "services/change_capture/coordinator/conductor.py",
        'if isinstance(view, SessionView) and view.state == "open":',
        "if isinstance(view, SessionView):",
        "commands carry a session that is open",
    ),
    scenario(
        19,
        "the clock is believed",
        f"{_CATALOG}/snapshots/retention.py",
        "        halted = not -STEP_SECONDS_MAX <= step_seconds <= expected_seconds + "
        "STEP_SECONDS_MAX\n",
        "        halted = False\n",
        "expiry halts on a jump",
    ),
    scenario(
        19,
        "no floor by count",
        f"{_CATALOG}/snapshots/retention.py",
        "      AND r.keep_last <= (",
        "      AND 0 <= (",
        "a floor by count needs no clock",
    ),
    scenario(
        20,
        "shrinking keeps what was cut off",
        "libs/blockmap/writer.py",
        "        elif base_size_chunks > size_chunks:\n",
        "        elif base_size_chunks < 0:\n",
        "shrinking truncates the map",
    ),
    scenario(
        21,
        "events are not authenticated",
        "services/chunker/intake.py",
        "    if claimed != expected or not is_authentic(part.token, envelope, received.value):",
        "    if claimed != expected:",
        "batches are authenticated",
    ),
    scenario(
        21,
        "tenant and volume are believed",
        "services/chunker/intake.py",
        "    if claimed != expected or not is_authentic(part.token, envelope, received.value):",
        "    if not is_authentic(part.token, envelope, received.value):",
        "tenant and volume from the session's row",
    ),
    scenario(
        23,
        "rows stay open without a base",
        f"{_CATALOG}/sessions/sealing.py",
        "AND u.volume_no = p.volume_no AND u.last_sequence IS NULL\n",
        "AND u.volume_no = p.volume_no AND false\n",
        "without a base all open rows close and counts start anew",
    ),
    scenario(
        24,
        "departures do not follow a rewritten pack",
        f"{_CATALOG}/sessions/sealing.py",
        "        while (moved_to := packs[pack_no].moved_to) is not None:\n"
        "            pack_no = moved_to\n",
        "",
        "locations are resolved inside the seal; moved_to is followed",
    ),
    scenario(
        25,
        "an expiry does not shorten rows",
        f"{_CATALOG}/snapshots/expiry.py",
        "    tx.execute(_SHORTEN.format(ending=ending), wanted)\n",
        "",
        "expiry shortens rows to the newest live snapshot they cover",
    ),
    scenario(
        26,
        "the seal does not lock its packs",
        f"{_CATALOG}/sessions/sealing.py",
        '               WHERE pack_no = ANY(%s) ORDER BY pack_no FOR SHARE""",',
        '               WHERE pack_no = ANY(%s) ORDER BY pack_no""",',
        "the seal takes FOR SHARE on every pack it expects",
    ),
    scenario(
        26,
        "the seal does not require live packs",
        f"{_CATALOG}/sessions/sealing.py",
        "    if not all(pack_no in packs and packs[pack_no].live for _, pack_no in expected):",
        "    if not all(pack_no in packs for _, pack_no in expected):",
        "the commit checks `live`",
    ),
    scenario(
        27,
        "a rewriter asks only for pins that stand",
        f"{_CATALOG}/deletion/rewriting.py",
        "WHERE pack_no = ANY(%s) AND token = %s AND may_be_moved(pack_no)",
        "WHERE pack_no = ANY(%s) AND %s::uuid IS NOT NULL AND may_be_moved(pack_no)",
        "a rewrite gives up if a pin stood at marking or came since",
    ),
    scenario(
        28,
        "the sweep passes over what is dead",
        f"{_CATALOG}/deletion/sweeping.py",
        "CASE WHEN p.state = 'd' THEN 'dead'",
        "CASE WHEN p.state = 'd' THEN 'keep'",
        "every listing deletes what is dead",
    ),
    scenario(
        29,
        "a rewrite does not look for leases",
        f"{_CATALOG}/deletion/rewriting.py",
        '             AND NOT EXISTS (SELECT FROM pin WHERE pin.pack_no = m.pack_no)""",\n'
        "        [old, token],",
        '        """,\n        [old, token],',
        "leases pin each pack when resolved",
    ),
    scenario(
        29,
        "a lease does not keep its snapshot",
        f"{_CATALOG}/snapshots/expiry.py",
        "    if lease:\n",
        "    if lease and False:\n",
        "leases pin the snapshot",
    ),
    *BARRIERS,
    *BEYOND_SCENARIOS,
    *DOMAINS,
    *COPIES,
    *STRANGERS,
    *TOGETHER,
    *VOLUMES,
    *TARGETS,
    *ROOTS,
    *QEMU,
    *MACHINES,
    *REFLINK,
    *FILTER,
    *SHARING,
    *GONE,
    *NODES,
    *WAITING,
    *CROWDS,
    *ENCRYPTION,
    *ACCESS,
    *NOTIFICATIONS,
    *NBD,
)
