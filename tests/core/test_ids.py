"""Ids depend on content alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realdpo import ids


@dataclass(frozen=True)
class Settings:
    crf: int = 12


def test_file_hash_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "f").write_bytes(data)
    assert ids.file_hash(tmp_path / "f") == hashlib.sha256(data).hexdigest()
    assert ids.bytes_hash(data) == hashlib.sha256(data).hexdigest()


def test_content_id_ignores_order_and_sees_every_field() -> None:
    base = ids.content_id(a=1, b=Fraction(1, 3), c=Settings())
    assert base == ids.content_id(c=Settings(), b=Fraction(2, 6), a=1)
    assert len(base) == 32
    assert base != ids.content_id(a=1, b=Fraction(1, 3), c=Settings(crf=13))
    assert base != ids.content_id(a=1, b=Fraction(1, 4), c=Settings())


def test_content_id_refuses_what_has_no_stable_text() -> None:
    with pytest.raises(TypeError, match="object"):
        ids.content_id(a=object())


@given(st.lists(st.text() | st.integers(), max_size=4))
def test_seeds_are_stable_and_in_range(parts: list[str | int]) -> None:
    assert ids.seed_of(*parts) == ids.seed_of(*parts)
    assert 0 <= ids.seed_of(*parts) < 2**63
    assert 0 <= ids.unit_interval(*parts) < 1


def test_seeds_have_known_values_on_every_machine() -> None:
    # From sha256("pair" 0x1f "0"), first eight bytes, big endian, halved.
    digest = hashlib.sha256(b"pair\x1f0").digest()
    assert ids.seed_of("pair", 0) == int.from_bytes(digest[:8], "big") // 2
    assert ids.seed_of("a", "b") != ids.seed_of("ab")
