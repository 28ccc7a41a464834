import dataclasses
import uuid

import pytest

from libs.errors import BadInputError, ConfigurationError, DamagedDataError, WrongKeyError
from libs.keys.kek import KeyEncryptionKey
from libs.keys.keyring import (
    WRAPPED_SIZE_BYTES,
    DomainKeys,
    fingerprint_secret,
    rewrap,
    unwrap,
    wrap,
    wrapped_by,
)
from libs.keys.sheet import RecoverySheet, export_sheet, read_sheet
from libs.store.layout import DomainKeyName

KEK = KeyEncryptionKey(bytes(range(32)))
OTHER = KeyEncryptionKey(b"o" * 32)
KEYS = DomainKeys(uuid.UUID(int=1), uuid.UUID(int=2), b"i" * 32, b"d" * 32)
NAME = DomainKeyName(KEYS.domain, KEYS.key_id)
SHEET = RecoverySheet(KEK, "https://s3.example.org:9000", "backups")


def test_wrapped_keys_unwrap_with_the_same_kek_only() -> None:
    wrapped = wrap(KEYS, KEK)
    assert len(wrapped) == WRAPPED_SIZE_BYTES
    assert unwrap(wrapped, NAME, KEK) == KEYS
    with pytest.raises(WrongKeyError) as refused:
        unwrap(wrapped, NAME, OTHER)
    assert KEK.fingerprint.hex() in str(refused.value)
    assert OTHER.fingerprint.hex() in str(refused.value)


def test_every_flipped_bit_and_every_truncation_of_wrapped_keys_is_found() -> None:
    wrapped = wrap(KEYS, KEK)
    for bit in range(len(wrapped) * 8):
        flipped = bytearray(wrapped)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedDataError):
            unwrap(bytes(flipped), NAME, KEK)
    for length in range(len(wrapped)):
        with pytest.raises(DamagedDataError):
            unwrap(wrapped[:length], NAME, KEK)


def test_rewrapped_keys_need_the_new_kek_and_are_the_same_bytes_each_time() -> None:
    name, rewrapped = rewrap(KEYS, OTHER)
    assert name == DomainKeyName(KEYS.domain, KEYS.key_id, OTHER.fingerprint.hex())
    assert unwrap(rewrapped, name, OTHER) == KEYS
    assert rewrap(KEYS, OTHER) == (name, rewrapped)
    assert wrapped_by(rewrapped) == OTHER.fingerprint
    with pytest.raises(WrongKeyError):
        unwrap(rewrapped, name, KEK)
    with pytest.raises(DamagedDataError):  # as first stored, or by yet another key
        unwrap(rewrapped, dataclasses.replace(name, wrapped_by="0" * 16), OTHER)
    others = [
        KEYS.with_new_data_key(),
        dataclasses.replace(KEYS, domain=uuid.UUID(int=9)),
        dataclasses.replace(KEYS, key_id=uuid.UUID(int=9)),
        dataclasses.replace(KEYS, data_key=b"e" * 32),
    ]
    nonces = {rewrap(keys, OTHER)[1][56:68] for keys in (KEYS, *others)}
    assert len(nonces) == 1 + len(others)


def test_a_previous_kek_opens_and_wraps_nothing() -> None:
    both = KeyEncryptionKey(OTHER.secret, KEK)
    assert unwrap(wrap(KEYS, KEK), NAME, both) == KEYS
    assert wrapped_by(wrap(KEYS, both)) == OTHER.fingerprint
    with pytest.raises(WrongKeyError):
        unwrap(wrap(KEYS, KEK), NAME, both.alone)
    third = KeyEncryptionKey(b"t" * 32)
    with pytest.raises(WrongKeyError) as refused:
        unwrap(wrap(KEYS, third), NAME, both)
    for key in (third, OTHER, KEK):
        assert key.fingerprint.hex() in str(refused.value)
    assert KeyEncryptionKey.parse(OTHER.text(), KEK.text()).previous is not None
    with pytest.raises(ConfigurationError, match="the same"):
        KeyEncryptionKey.parse(KEK.text(), KEK.text())


def test_secrets_are_never_shown() -> None:
    for secret in (KEYS.id_key, KEYS.data_key):
        assert secret.decode() not in repr(KEYS)
        assert secret.hex() not in repr(KEYS)
    assert KEK.secret.hex() not in repr(KEK)
    assert KEYS.id_key not in wrap(KEYS, KEK)


def test_every_derived_key_is_another() -> None:
    keys = [
        KEYS.pack_key(uuid.UUID(int=1)),
        KEYS.pack_key(uuid.UUID(int=2)),
        KEYS.manifest_key(),
        fingerprint_secret(KEYS.id_key),
        KEYS.id_key,
        KEYS.data_key,
    ]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {32}


def test_new_data_key_keeps_the_identity_of_chunks() -> None:
    fresh = KEYS.with_new_data_key()
    assert (fresh.domain, fresh.id_key) == (KEYS.domain, KEYS.id_key)
    assert fresh.key_id != KEYS.key_id
    assert fresh.data_key != KEYS.data_key


def test_generated_keys_differ() -> None:
    one, two = (DomainKeys.generate(KEYS.domain) for _ in range(2))
    assert len({one.id_key, one.data_key, two.id_key, two.data_key, one.key_id, two.key_id}) == 6


def test_key_file_reads_back() -> None:
    generated = KeyEncryptionKey.generate()
    assert KeyEncryptionKey.parse(generated.text()).secret == generated.secret
    assert KeyEncryptionKey.parse(f"  {KEK.secret.hex().upper()}\n").secret == KEK.secret


@pytest.mark.parametrize("text", ["", "abc", "g" * 64, "a" * 63, "a" * 65, "é" * 64])
def test_bad_key_file_is_a_configuration_error_that_does_not_repeat_it(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        KeyEncryptionKey.parse(text)
    assert not text or text not in str(refused.value)


def test_recovery_sheet_reads_back_and_says_what_losing_it_means() -> None:
    text = export_sheet(SHEET)
    read = read_sheet(text)
    assert (read.kek.secret, read.endpoint, read.bucket) == (
        KEK.secret,
        SHEET.endpoint,
        SHEET.bucket,
    )
    assert "has lost the data" in text
    assert max(map(len, text.splitlines())) < 110


def test_recovery_sheet_typed_without_spaces_and_in_capitals_reads_back() -> None:
    text = export_sheet(SHEET)
    start = text.index("  1:")
    typed = text[:start] + text[start:].replace(" ", "").upper()
    assert read_sheet(typed).kek.secret == KEK.secret


def test_typing_errors_are_found_by_line() -> None:
    text = export_sheet(SHEET)
    with pytest.raises(BadInputError, match="line 2 of the key does not match"):
        read_sheet(text.replace("0809", "0890"))
    with pytest.raises(BadInputError, match="line 3 of the key has 15 characters"):
        read_sheet(text.replace("1011", "101"))
    with pytest.raises(BadInputError, match="line 4 of the key is missing"):
        read_sheet(text.replace("1e1f", "1e1g"))
    with pytest.raises(BadInputError, match="line 1 of the key does not match"):
        read_sheet(text.replace("  1:", "  9:").replace("  2:", "  1:").replace("  9:", "  2:"))
    with pytest.raises(BadInputError, match="'Bucket:' is missing"):
        read_sheet(text.replace("Bucket:      backups", ""))
    with pytest.raises(BadInputError, match="fingerprint"):
        read_sheet(text.replace(KEK.fingerprint.hex(), OTHER.fingerprint.hex()))
