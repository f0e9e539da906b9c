"""Length of a caption in the tokens of the text encoder that will read it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from realdpo.errors import UserError


def token_counter(tokenizer: str) -> Callable[[str], int]:
    """Text -> number of tokens, the end mark included.

    `tokenizer` is a folder or Hub id of a tokenizer (a pipeline's `tokenizer` folder, say), or
    "" for `estimate_tokens`. Raises UserError when it cannot be loaded.
    """
    if not tokenizer:
        return estimate_tokens
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    except Exception as error:  # whatever transformers finds wrong with a name the user gave
        raise UserError(
            f"cannot load the tokenizer {tokenizer}: {str(error).splitlines()[0]}",
            "give a folder with tokenizer files or a Hub id, e.g. google/t5-v1_1-xxl",
        ) from None
    return lambda text: len(loaded(text)["input_ids"])


def estimate_tokens(text: str) -> int:
    """A guess at T5's count without its vocabulary: a token per six letters of each word, one
    per mark of punctuation, one for the end. Meant to warn, not to prove.
    """
    words = re.findall(r"\w+", text)
    marks = re.findall(r"[^\w\s]", text)
    return sum(math.ceil(len(word) / 6) for word in words) + len(marks) + 1
