"""Captions from a local video-language model through transformers' own classes.

Any model that AutoModelForImageTextToText knows: Qwen2-VL to Qwen3-VL, LLaVA-OneVision,
LLaVA-NeXT-Video, InternVL, SmolVLM. Models that take no video are shown the frames as images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realdpo import ids
from realdpo.curate.caption.answers import CaptionAnswer
from realdpo.curate.caption.config import CaptionConfig
from realdpo.curate.caption.show import ShownClip
from realdpo.errors import UserError

if TYPE_CHECKING:
    import torch

    from realdpo.curate.caption.run import Asker


def model_identity(name: str) -> str:
    """What the answers are filed under: a Hub id as it is; a folder by name and content.

    The content is the configuration and the names and sizes of the weight files, which is read
    in no time and changes with any retraining that anybody would file under the same name.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(
            f"{folder} holds no config.json, so it is not a transformers model",
            "give the folder that save_pretrained() wrote, or a Hub id",
        )
    weights = sorted((p.name, p.stat().st_size) for p in folder.glob("*.safetensors"))
    mark = ids.content_id(config=ids.file_hash(config), weights=[list(w) for w in weights])
    return f"{folder.resolve().name}@{mark[:12]}"


def load_asker(name: str, config: CaptionConfig) -> Asker:
    """Load the model once; returns a function from a batch of clips to their answers.

    bfloat16 on a GPU, float32 elsewhere. A batch that does not fit into memory is halved.
    Raises UserError when the model or its processor cannot be loaded.
    """
    import torch

    processor, model = load_vlm(name, config.device)
    known_as = model_identity(name).partition("@")[0]

    def ask(batch: Sequence[ShownClip]) -> list[CaptionAnswer]:
        try:
            return answer_batch(processor, model, known_as, config, batch)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        if len(batch) == 1:
            return [CaptionAnswer(model=known_as, error="one clip does not fit into GPU memory")]
        half = len(batch) // 2
        return [*ask(batch[:half]), *ask(batch[half:])]

    return ask


def load_vlm(name: str, device: str = "auto") -> tuple[Any, Any]:
    """Processor and model in evaluation mode, weights from safetensors only."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    place = resolve_device(device)
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    try:
        processor = AutoProcessor.from_pretrained(name)
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(
            f"cannot load the captioner {name}: {str(error).strip().splitlines()[0]}",
            "give a folder or Hub id of a video-language model, e.g. Qwen/Qwen2.5-VL-7B-Instruct",
        ) from None
    if getattr(processor, "chat_template", None) is None and (
        getattr(getattr(processor, "tokenizer", None), "chat_template", None) is None
    ):
        raise UserError(
            f"{name} has no chat template, so realdpo cannot ask it", "use an -Instruct"
        )
    processor.tokenizer.padding_side = "left"  # answers of a batch must start side by side
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    placed: Any = model  # transformers wraps .to in a way that hides its arguments
    return processor, placed.to(place).eval()


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU when there is one."""
    import torch

    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def answer_batch(
    processor: Any, model: Any, known_as: str, config: CaptionConfig, batch: Sequence[ShownClip]
) -> list[CaptionAnswer]:
    """One forward-and-generate over a batch; greedy when the temperature is 0."""
    import torch

    began = time.monotonic()
    inputs = encode_batch(processor, batch).to(model.device)
    for key, value in inputs.items():
        if torch.is_tensor(value) and value.is_floating_point() and key.startswith("pixel"):
            inputs[key] = value.to(model.dtype)
    asked = inputs["input_ids"].shape[1]
    sampling: dict[str, Any] = {"do_sample": False}
    if config.temperature > 0:
        sampling = {"do_sample": True, "temperature": config.temperature}
        torch.manual_seed(ids.seed_of(*(shown.clip_id for shown in batch)))
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=config.max_tokens,
            repetition_penalty=config.repetition_penalty,
            pad_token_id=processor.tokenizer.pad_token_id,
            **sampling,
        )
    new = output[:, asked:].cpu()
    ends = _end_tokens(model, processor)
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    seconds = round((time.monotonic() - began) / len(batch), 3)
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    return [
        CaptionAnswer(
            raw=text.strip(),
            finish="stop" if ends & set(tokens) else "length",
            model=known_as,
            tokens_in=int(length),
            tokens_out=next((i for i, t in enumerate(tokens) if t in ends), len(tokens)),
            seconds=seconds,
            asked_at=time.time(),
        )
        for text, tokens, length in zip(texts, new.tolist(), lengths, strict=True)
    ]


def encode_batch(processor: Any, batch: Sequence[ShownClip]) -> Any:
    """Clips and their questions as the model's tensors, padded on the left."""
    as_video = getattr(processor, "video_processor", None) is not None
    texts = []
    for shown in batch:
        pictures = [{"type": "video"}] if as_video else [{"type": "image"}] * len(shown.frames)
        turn = {"role": "user", "content": [*pictures, {"type": "text", "text": shown.question}]}
        texts.append(processor.apply_chat_template([turn], add_generation_prompt=True))
    media: dict[str, Any]
    if as_video:
        media = {
            "videos": [shown.frames for shown in batch],
            "video_metadata": [_metadata(shown) for shown in batch],
            "do_sample_frames": False,
        }
    else:
        from PIL import Image

        media = {"images": [[Image.fromarray(f) for f in shown.frames] for shown in batch]}
    return processor(text=texts, padding=True, return_tensors="pt", **media)


def _metadata(shown: ShownClip) -> dict[str, Any]:
    """Frames that are not sampled again need their own rate: Qwen counts seconds from it."""
    count = len(shown.frames)
    rate = (count - 1) / shown.seconds if count > 1 and shown.seconds > 0 else 1.0
    return {
        "total_num_frames": count,
        "fps": rate,
        "duration": count / rate,
        "frames_indices": list(range(count)),
    }


def _end_tokens(model: Any, processor: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    found = set(ends) if isinstance(ends, (list, tuple)) else {ends}
    return {t for t in (*found, processor.tokenizer.eos_token_id) if t is not None}
