"""Object keys: every writer and its parser are inverse, and nothing else is accepted."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.errors import BadInputError
from libs.store import layout
from libs.store.port import check_key

PARSERS = [
    layout.parse_pack_object,
    layout.parse_manifest_object,
    layout.parse_domain_key_object,
    layout.parse_checkpoint_object,
]

GROUP = uuid.UUID("11111111-2222-3333-4444-555555555555")
SESSION = uuid.UUID("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
NAME = layout.ManifestName("acme", GROUP, 7, SESSION, "1f")

names = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", fullmatch=True)


@given(st.uuids())
def test_a_pack_key_reads_back(generation: uuid.UUID) -> None:
    key = check_key(layout.pack_object(generation))
    assert key.startswith(layout.PACKS_PREFIX)
    assert layout.parse_pack_object(key) == generation


@given(
    st.builds(
        layout.ManifestName,
        tenant=names,
        group=st.uuids(),
        sequence=st.integers(1, layout.SEQUENCE_MAX),
        session=st.uuids(),
        suffix=st.from_regex(r"[a-z0-9]{1,32}", fullmatch=True),
    )
)
def test_a_manifest_key_reads_back(name: layout.ManifestName) -> None:
    key = check_key(layout.manifest_object(name))
    assert key.startswith(layout.manifest_folder(name.tenant, name.group))
    assert layout.parse_manifest_object(key) == name


@given(st.uuids(), st.uuids())
def test_a_wrapped_key_reads_back(domain: uuid.UUID, key_id: uuid.UUID) -> None:
    name = layout.DomainKeyName(domain, key_id)
    assert layout.parse_domain_key_object(check_key(layout.domain_key_object(name))) == name


@given(
    st.integers(0, 10**10 - 1),
    st.integers(0, 10**20 - 1),
    st.none() | st.integers(0, 10**6 - 1),
)
def test_a_checkpoint_key_reads_back(incarnation: int, number: int, part: int | None) -> None:
    name = layout.CheckpointName(incarnation, number, part)
    assert layout.parse_checkpoint_object(check_key(layout.checkpoint_object(name))) == name


def test_keys_look_like_this() -> None:
    assert layout.pack_object(GROUP) == "packs/11/11111111222233334444555555555555"
    assert layout.manifest_object(NAME) == f"manifests/acme/{GROUP}/0000000007-{SESSION}-1f"
    assert layout.domain_key_object(layout.DomainKeyName(GROUP, SESSION)) == (
        f"keys/{GROUP}/{SESSION}"
    )
    assert layout.checkpoint_object(layout.CheckpointName(2, 30)) == (
        "checkpoints/0000000002/00000000000000000030"
    )


@given(st.lists(st.integers(1, layout.SEQUENCE_MAX), unique=True))
def test_manifests_of_a_group_list_in_order_of_sequence(sequences: list[int]) -> None:
    keys = sorted(
        layout.manifest_object(layout.ManifestName("acme", GROUP, sequence, SESSION, "1f"))
        for sequence in sequences
    )
    assert [layout.parse_manifest_object(key).sequence for key in keys] == sorted(sequences)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "packs/11/11111111-2222-3333-4444-555555555555",
        "packs/12/11111111222233334444555555555555",
        "packs/11/11111111222233334444555555555555x",
        f"manifests/acme/{GROUP}/7-{SESSION}-1f",
        f"manifests/../{GROUP}/0000000007-{SESSION}-1f",
        f"manifests/-acme/{GROUP}/0000000007-{SESSION}-1f",
        f"manifests/acme/{GROUP}/0000000000-{SESSION}-1f",
        f"keys/{GROUP}",
        "checkpoints/2/30",
        "probe/x",
    ],
)
def test_a_foreign_key_is_refused_by_every_parser(key: str) -> None:
    for parse in PARSERS:
        with pytest.raises(BadInputError):
            parse(key)


@pytest.mark.parametrize(
    "name",
    [
        layout.ManifestName("Acme", GROUP, 7, SESSION, "1f"),
        layout.ManifestName("a/b", GROUP, 7, SESSION, "1f"),
        layout.ManifestName("acme", GROUP, 0, SESSION, "1f"),
        layout.ManifestName("acme", GROUP, 10**10, SESSION, "1f"),
        layout.ManifestName("acme", GROUP, 7, SESSION, ""),
        layout.ManifestName("acme", GROUP, 7, SESSION, "a/b"),
    ],
)
def test_a_manifest_out_of_bounds_has_no_key(name: layout.ManifestName) -> None:
    with pytest.raises(BadInputError):
        layout.manifest_object(name)
