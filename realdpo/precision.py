"""Names of number formats: one vocabulary for every command."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["auto", "bfloat16", "float16", "float32", "bf16", "fp16", "fp32"]
"""bfloat16, float16, float32 as torch calls them, or as trainers do: bf16, fp16, fp32."""

_LONG = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_SHORT = {long: short for short, long in _LONG.items()}


def long_name(dtype: str) -> Dtype:
    """The name as torch has it: bfloat16 for bf16."""
    return _LONG.get(dtype, dtype)  # type: ignore[return-value]  # the names are those of the Literal


def short_name(dtype: str) -> Dtype:
    """The name as accelerate has it: bf16 for bfloat16."""
    return _SHORT.get(dtype, dtype)  # type: ignore[return-value]  # the names are those of the Literal
