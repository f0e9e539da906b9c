"""Content ids: the same input and settings give the same id on every machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hex digits. Raises OSError when it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def bytes_hash(data: bytes) -> str:
    """SHA-256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def content_id(**fields: Any) -> str:
    """32 hex digits that name this combination of fields, whatever their order.

    Fields are JSON values, Fractions (written num/den), paths (as text) or dataclasses.
    Raises TypeError for anything else: a repr() would change between runs.
    """
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def seed_of(*parts: str | int) -> int:
    """A seed in [0, 2**63) derived from its parts, the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def unit_interval(*parts: str | int) -> float:
    """A number in [0, 1) derived from its parts: stable choices, such as a split by source."""
    return seed_of(*parts) / 2**63


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a content id cannot hold a {type(value).__name__}")
