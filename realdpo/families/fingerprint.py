"""One rule for when weights are the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SAMPLES, _SAMPLE_BYTES = 16, 1 << 20


def fingerprint_weights(path: Path) -> str:
    """32 hex digits that change when the weights do, without reading all of them.

    Small files count whole; of large ones, the size and 16 evenly spaced blocks of 1 MiB.
    Every fine-tuning changes nearly every weight, so a sample sees it.
    """
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        if file.suffix in (".md", ".txt") and path.is_dir():
            continue
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
        with open(file, "rb") as handle:
            if size <= _SAMPLES * _SAMPLE_BYTES:
                digest.update(handle.read())
                continue
            for k in range(_SAMPLES):
                handle.seek((size - _SAMPLE_BYTES) * k // (_SAMPLES - 1))
                digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]
