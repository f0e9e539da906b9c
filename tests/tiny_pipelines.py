"""Small random-weight pipelines of the real diffusers classes, saved to a folder for tests.

`save(name, folder, seed)` writes the pipeline `name` (a key of `PIPELINES`) as a diffusers folder.
Each has 10k-200k parameters, makes 64x64 videos in about a second on a CPU, and keeps the traits
of the released model that bite: its scheduler settings, packing, conditioning and frame rule.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'"
HEIGHT = WIDTH = 64


def t5_tokenizer(length: int) -> Any:
    """A T5 tokenizer of letters and a few common words; needs no sentencepiece file."""
    from transformers import T5Tokenizer

    words = ["▁a", "▁the", "▁person", "▁man", "▁woman", "▁walking", "▁street", "▁bike", "▁red"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(w, -1.0) for w in words] + [("▁", -3.0)] + [(c, -4.0) for c in LETTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=100, model_max_length=length)


def t5_encoder(kind: str = "t5") -> Any:
    from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

    sizes = {
        "vocab_size": 256,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
    }
    if kind == "umt5":
        return UMT5EncoderModel(UMT5Config(**sizes))
    return T5EncoderModel(T5Config(**sizes))


def bpe(text: str, special: list[str], end_of_word: str | None, metaspace: bool) -> tuple[Any, Any]:
    """Vocabulary and merges of a byte-pair tokenizer trained on `text`, for the CLIP and Llama classes."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    suffix = {"end_of_word_suffix": end_of_word} if end_of_word else {}
    tokenizer = Tokenizer(models.BPE(unk_token=special[0], **suffix))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Metaspace() if metaspace else pre_tokenizers.Whitespace()
    )
    alphabet = list(LETTERS) + [c.upper() for c in LETTERS if c.isalpha()]
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
        **suffix,
    )
    tokenizer.train_from_iterator([text.lower(), text] * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def cogvideox_scheduler(dpm: bool) -> Any:
    from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "snr_shift_scale": 1.0 if dpm else 3.0,
        "clip_sample": False,
        "set_alpha_to_one": True,
    }
    return (CogVideoXDPMScheduler if dpm else CogVideoXDDIMScheduler)(**settings)


def cogvideox_vae(**extra: Any) -> Any:
    from diffusers import AutoencoderKLCogVideoX

    return AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=HEIGHT,
        sample_width=WIDTH,
        scaling_factor=0.7,
        **extra,
    )


def cogvideox_transformer(image: bool, version15: bool, rotary: bool) -> Any:
    from diffusers import CogVideoXTransformer3DModel

    extra: dict[str, Any] = {}
    if version15:
        extra = {"patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 8 if image else None}
    elif image:
        extra = {"use_learned_positional_embeddings": True}
    return CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8 if image else 4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=2,
        sample_width=WIDTH // 8,
        sample_height=HEIGHT // 8,
        sample_frames=9,
        patch_size=2,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=rotary,
        **extra,
    )


def cogvideox(image: bool = False, version15: bool = False, rotary: bool = True) -> Any:
    """CogVideoX: 2B text-to-video (`rotary=False`, DDIM), 5B, 5B image-to-video, and 1.5 of both."""
    from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline

    kind = CogVideoXImageToVideoPipeline if image else CogVideoXPipeline
    return kind(
        tokenizer=t5_tokenizer(16),
        text_encoder=t5_encoder(),
        # the released 1.5 image-to-video VAE divides where the others multiply
        vae=cogvideox_vae(invert_scale_latents=image and version15),
        transformer=cogvideox_transformer(image, version15, rotary),
        scheduler=cogvideox_scheduler(dpm=rotary),
    )


def wan_transformer(image: bool, clip_dim: int | None, channels: int = 16) -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=36 if image else channels,
        out_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
        image_dim=clip_dim,
        added_kv_proj_dim=24 if clip_dim else None,
    )


def wan(image: bool = False, two: bool = False, dense: bool = False) -> Any:
    """Wan 2.1 (image-to-video with its CLIP encoder), with `two` Wan 2.2's pair of transformers,
    with `dense` Wan 2.2 5B: its VAE, a timestep for every token, one folder for both tasks.
    """
    from diffusers import (
        AutoencoderKLWan,
        UniPCMultistepScheduler,
        WanImageToVideoPipeline,
        WanPipeline,
    )

    clip_dim = 16 if image and not two and not dense else None
    parts: dict[str, Any] = {
        "tokenizer": t5_tokenizer(64),
        "text_encoder": t5_encoder("umt5"),
        "transformer": wan_transformer(image, clip_dim),
        "transformer_2": wan_transformer(image, clip_dim) if two else None,
        "boundary_ratio": 0.875 if two else None,
        "vae": AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        # the released folders carry UniPC with flow sigmas, not FlowMatchEuler
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }
    if dense:
        parts["expand_timesteps"] = True
        parts["transformer"] = wan_transformer(False, None, channels=48)
        parts["vae"] = AutoencoderKLWan(
            base_dim=3,
            decoder_base_dim=3,
            z_dim=48,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            in_channels=12,
            out_channels=12,
            patch_size=2,
            is_residual=True,
            scale_factor_spatial=16,
            scale_factor_temporal=4,
            latents_mean=[0.0] * 48,
            latents_std=[1.5] * 48,
        )
        parts["scheduler"] = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
        )
    if not image:
        return WanPipeline(**parts)
    if clip_dim:
        from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

        parts["image_encoder"] = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=clip_dim,
                projection_dim=clip_dim,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=32,
                intermediate_size=16,
                patch_size=8,
            )
        )
        parts["image_processor"] = CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
    return WanImageToVideoPipeline(**parts)


def ltx(image: bool = False, condition: bool = False) -> Any:
    """LTX-Video: 32x spatial and 8x temporal compression, packed tokens, dynamic shift.

    With `condition` as 0.9.5 and newer: pictures as conditions, a decoder that is told a timestep.
    """
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXConditionPipeline,
        LTXImageToVideoPipeline,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    kind = LTXImageToVideoPipeline if image else LTXPipeline
    kind = LTXConditionPipeline if condition else kind
    return kind(
        tokenizer=t5_tokenizer(32),
        text_encoder=t5_encoder(),
        vae=AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            timestep_conditioning=condition,
        ),
        transformer=LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=not condition,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=1024,
            max_image_seq_len=4096,
            shift_terminal=0.1,
        ),
    )


def hunyuan_clip() -> tuple[Any, Any]:
    """Text encoder and tokenizer of the pooled prompt."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    special = ["<|endoftext|>", "<|startoftext|>"]
    vocab, merges = bpe("a person walking on the street", special, "</w>", metaspace=False)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=512,
            hidden_size=8,
            projection_dim=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=1,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    return encoder, CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def hunyuan_parts(condition: str | None = None) -> dict[str, Any]:
    """What text-to-video and image-to-video share. `condition`: how the first frame is given."""
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoTransformer3DModel,
    )

    text_encoder_2, tokenizer_2 = hunyuan_clip()
    return {
        "text_encoder_2": text_encoder_2,
        "tokenizer_2": tokenizer_2,
        "transformer": HunyuanVideoTransformer3DModel(
            in_channels=9 if condition == "latent_concat" else 4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            text_embed_dim=16,
            pooled_projection_dim=8,
            rope_axes_dim=(2, 4, 4),
            image_condition_type=condition,
            # the released model that concatenates was not distilled
            guidance_embeds=condition != "latent_concat",
        ),
        "vae": AutoencoderKLHunyuanVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def hunyuan() -> Any:
    """HunyuanVideo: Llama and CLIP text encoders, embedded guidance."""
    from diffusers import HunyuanVideoPipeline
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
    from transformers import LlamaConfig, LlamaModel, LlamaTokenizer

    # trained on the template, else it fills the sequence and every prompt is truncated away
    text = DEFAULT_PROMPT_TEMPLATE["template"]
    vocab, merges = bpe(text, ["<unk>", "<s>", "</s>", "<pad>"], None, metaspace=True)
    return HunyuanVideoPipeline(
        text_encoder=LlamaModel(
            LlamaConfig(
                vocab_size=512,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=3,
                num_attention_heads=2,
                pad_token_id=3,
            )
        ),
        tokenizer=LlamaTokenizer(vocab=vocab, merges=merges, pad_token="<pad>"),
        **hunyuan_parts(),
    )


def hunyuan_image(condition: str) -> Any:
    """HunyuanVideo image-to-video: Llava sees the first frame; `condition` as in its transformer."""
    from diffusers import HunyuanVideoImageToVideoPipeline
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video_image2video import (
        DEFAULT_PROMPT_TEMPLATE,
    )
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlamaTokenizer,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    template = DEFAULT_PROMPT_TEMPLATE
    marks = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]
    text = template["template"]
    for mark in marks:
        text = text.replace(mark, " ")
    vocab, merges = bpe(text, ["<unk>", "<s>", "</s>", "<pad>"], None, metaspace=True)
    tokenizer = LlamaTokenizer(vocab=vocab, merges=merges, pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    size = 2 * int(template["image_emb_len"] ** 0.5)  # a token for every patch of 2x2 pixels
    vision = CLIPVisionConfig(
        hidden_size=8,
        projection_dim=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=size,
        patch_size=2,
    )
    llama = LlamaConfig(
        vocab_size=600,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=1024,
        pad_token_id=3,
    )
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    return HunyuanVideoImageToVideoPipeline(
        text_encoder=LlavaForConditionalGeneration(
            LlavaConfig(
                vision_config=vision,
                text_config=llama,
                image_token_index=image_token,
                pad_token_id=3,
            )
        ),
        tokenizer=tokenizer,
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ),
        **hunyuan_parts(condition),
    )


def mochi() -> Any:
    """Mochi: 8x8x6 compression, a schedule that runs from noise at 0 to the video at 1."""
    from diffusers import (
        AutoencoderKLMochi,
        FlowMatchEulerDiscreteScheduler,
        MochiPipeline,
        MochiTransformer3DModel,
    )

    return MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=AutoencoderKLMochi(
            latent_channels=12,
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
        ),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(32),
        transformer=MochiTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=2,
            pooled_projection_dim=16,
            in_channels=12,
            text_embed_dim=32,
            time_embed_dim=4,
        ),
    )


def skyreels(image: bool = False) -> Any:
    """SkyReels-V2: Wan's parts, a transformer class of its own, CLIP for image-to-video."""
    from diffusers import (
        SkyReelsV2ImageToVideoPipeline,
        SkyReelsV2Pipeline,
        SkyReelsV2Transformer3DModel,
    )

    parts = dict(wan(image).components)
    parts = {n: p for n, p in parts.items() if n != "transformer_2" and p is not None}
    config = {k: v for k, v in parts["transformer"].config.items() if not k.startswith("_")}
    parts["transformer"] = SkyReelsV2Transformer3DModel(**config)
    return (SkyReelsV2ImageToVideoPipeline if image else SkyReelsV2Pipeline)(**parts)


CHAT = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\\n'}}{% endif %}"
)


def hunyuan15(image: bool = False) -> Any:
    """HunyuanVideo-1.5: Qwen2.5-VL's text model, ByT5 for glyphs, SigLIP, a guider."""
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15ImageToVideoPipeline,
        HunyuanVideo15Pipeline,
        HunyuanVideo15Transformer3DModel,
    )
    from tokenizers import pre_tokenizers
    from transformers import (
        ByT5Tokenizer,
        Qwen2_5_VLTextConfig,
        SiglipImageProcessor,
        SiglipVisionConfig,
        SiglipVisionModel,
        T5Config,
        T5EncoderModel,
    )
    from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *special]
    parts: dict[str, Any] = {
        "tokenizer": Qwen2Tokenizer(
            vocab={token: i for i, token in enumerate(letters)},
            merges=[],
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            additional_special_tokens=special,
            chat_template=CHAT,
        ),
        "text_encoder": Qwen2_5_VLTextModel(
            Qwen2_5_VLTextConfig(
                vocab_size=len(letters),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=3,
                num_attention_heads=2,
                num_key_value_heads=2,
                rope_parameters={"type": "mrope", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
            )
        ),
        "tokenizer_2": ByT5Tokenizer(),
        "text_encoder_2": T5EncoderModel(
            T5Config(vocab_size=384, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        ),
        "transformer": HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=2,
            num_refiner_layers=1,
            text_embed_dim=16,
            text_embed_2_dim=8,
            image_embed_dim=8,
            rope_axes_dim=(2, 4, 4),
            target_size=64,
            task_type="i2v" if image else "t2v",
        ),
        "vae": AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }
    if not image:
        return HunyuanVideo15Pipeline(**parts)
    parts["image_encoder"] = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=27,
            patch_size=1,
        )
    )
    parts["feature_extractor"] = SiglipImageProcessor(size={"height": 27, "width": 27})
    return HunyuanVideo15ImageToVideoPipeline(**parts)


def qwen(text: str, **sizes: Any) -> tuple[Any, Any]:
    """Qwen2.5-VL and its processor; the words of `text` are one token each, else a prompt's template
    fills the sequence.
    """
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )
    from transformers.models.qwen2.tokenization_qwen2 import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        [text] * 2,
        trainers.BpeTrainer(
            vocab_size=1000, special_tokens=special, initial_alphabet=letters, show_progress=False
        ),
    )
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(m) for m in model["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=special,
    )
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": len(model["vocab"]),
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "rope_parameters": {"type": "mrope", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
                **sizes,
            },
            vision_config={
                "depth": 1,
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_heads": 2,
                "out_hidden_size": 16,
                "fullatt_block_indexes": [0],
            },
        )
    )
    pictures = (Qwen2VLImageProcessor(), Qwen2VLVideoProcessor())
    return encoder, Qwen2VLProcessor(pictures[0], tokenizer, pictures[1])


def kandinsky5(image: bool = False, attention: str = "regular") -> Any:
    """Kandinsky 5: channels last, prompts without padding, HunyuanVideo's VAE."""
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        Kandinsky5I2VPipeline,
        Kandinsky5T2VPipeline,
        Kandinsky5Transformer3DModel,
    )

    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=8,
        time_dim=16,
        model_dim=24,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 4, 4),
        visual_cond=True,
        attention_type=attention,
    )
    for name, parameter in transformer.named_parameters():
        if "modulation" in name:  # zero before training: nothing of a block would come out
            torch.nn.init.normal_(parameter, std=0.1)
    clip, clip_tokenizer = hunyuan_clip()
    parts: dict[str, Any] = {
        "transformer": transformer,
        "vae": AutoencoderKLHunyuanVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        ),
        "text_encoder": None,
        "tokenizer": None,
        "text_encoder_2": clip,
        "tokenizer_2": clip_tokenizer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=10.0),
    }
    kind = Kandinsky5I2VPipeline if image else Kandinsky5T2VPipeline
    encoder, processor = qwen(kind(**parts).prompt_template)
    return kind(**{**parts, "text_encoder": encoder, "tokenizer": processor})


def gemma_tokenizer(text: str = "a person walking on the street") -> Any:
    from transformers import GemmaTokenizer

    special = ["<unk>", "<bos>", "<eos>", "<pad>", "<mask>"]
    vocab, merges = bpe(text, special, None, metaspace=True)
    return GemmaTokenizer(vocab=vocab, merges=merges, model_max_length=1024)


def ltx2(newer: bool = False) -> Any:
    """LTX-2: Gemma and connectors for text, video and sound in one transformer; with `newer` as 2.3."""
    from diffusers import (
        AutoencoderKLLTX2Audio,
        AutoencoderKLLTX2Video,
        FlowMatchEulerDiscreteScheduler,
        LTX2Pipeline,
        LTX2VideoTransformer3DModel,
    )
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    config = Gemma3Config(
        text_config={
            "vocab_size": 520,
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 4,
            "pad_token_id": 3,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "layer_types": ["full_attention"],
        },
        vision_config={
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
        mm_tokens_per_image=4,
    )
    width = {"video_hidden_dim": 24, "audio_hidden_dim": 8} if newer else {}
    return LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True,
            base_shift=0.95,
            max_shift=2.05,
            base_image_seq_len=1024,
            max_image_seq_len=4096,
            shift_terminal=0.1,
        ),
        vae=AutoencoderKLLTX2Video(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_block_out_channels=(8, 16, 32),
            decoder_layers_per_block=(1, 1, 1, 1),
            spatial_compression_ratio=32,
            temporal_compression_ratio=8,
        ),
        audio_vae=AutoencoderKLLTX2Audio(
            base_channels=8, ch_mult=(1, 1, 1), num_res_blocks=1, latent_channels=2, mel_bins=16
        ),
        text_encoder=Gemma3ForConditionalGeneration(config),
        tokenizer=gemma_tokenizer(),
        connectors=LTX2TextConnectors(
            caption_channels=8,
            text_proj_in_factor=2,
            video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=12 if newer else 4,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=8,
            audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=4,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=8,
            per_modality_projections=newer,
            **width,
        ),
        transformer=LTX2VideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=12,
            cross_attention_dim=24,
            audio_in_channels=8,
            audio_out_channels=8,
            audio_num_attention_heads=2,
            audio_attention_head_dim=4,
            audio_cross_attention_dim=8,
            caption_channels=8,
            num_layers=2,
            cross_attn_mod=newer,
            audio_cross_attn_mod=newer,
            use_prompt_embeddings=not newer,
        ),
        vocoder=LTX2Vocoder(
            in_channels=32,
            hidden_channels=8,
            upsample_kernel_sizes=[4, 4],
            upsample_factors=[2, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3, 5]],
        ),
    )


def sana_video() -> Any:
    """Sana-Video: linear attention, Gemma 2 behind an instruction, Wan's VAE, DPM-Solver of flows."""
    import inspect

    from diffusers import (
        AutoencoderKLWan,
        DPMSolverMultistepScheduler,
        SanaVideoPipeline,
        SanaVideoTransformer3DModel,
    )
    from transformers import Gemma2Config, Gemma2Model

    call = inspect.signature(SanaVideoPipeline.__call__).parameters
    return SanaVideoPipeline(
        # trained on the instruction, else it is thousands of letters
        tokenizer=gemma_tokenizer(" ".join(call["complex_human_instruction"].default)),
        text_encoder=Gemma2Model(
            Gemma2Config(
                vocab_size=520,
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=4,
                pad_token_id=3,
                bos_token_id=1,
                eos_token_id=2,
            )
        ),
        vae=AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        transformer=SanaVideoTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=2,
            num_cross_attention_heads=2,
            cross_attention_head_dim=12,
            cross_attention_dim=24,
            caption_channels=8,
        ),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
        ),
    )


LISTS = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n'}}{% for c in m['content'] %}"
    "{{ c['text'] }}{% endfor %}{{'<|im_end|>\\n'}}{% endfor %}"
)


class Unguarded:
    """In place of NVIDIA's guardrail, whose weights are gated: lets all pass, as diffusers' own tests do."""

    def to(self, device: Any) -> Unguarded:
        return self

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def cosmos25() -> Any:
    """Cosmos-Predict2.5: a level for each frame, all layers of Qwen2.5-VL, Wan's VAE, UniPC."""
    from diffusers import (
        AutoencoderKLWan,
        Cosmos2_5_PredictBasePipeline,
        CosmosTransformer3DModel,
        UniPCMultistepScheduler,
    )
    from diffusers.pipelines.cosmos import pipeline_cosmos2_5_predict

    pipeline_cosmos2_5_predict.CosmosSafetyChecker = Unguarded
    encoder, processor = qwen("You are a helpful assistant who will provide prompts")
    processor.tokenizer.chat_template = LISTS
    return Cosmos2_5_PredictBasePipeline(
        text_encoder=encoder,
        tokenizer=processor.tokenizer,
        transformer=CosmosTransformer3DModel(
            in_channels=17,
            out_channels=16,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            mlp_ratio=2,
            text_embed_dim=16,
            adaln_lora_dim=4,
            max_size=(4, 32, 32),
            extra_pos_embed_type=None,
            use_crossattn_projection=True,
            crossattn_proj_in_channels=32,
            encoder_hidden_states_channels=16,
        ),
        vae=AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            use_karras_sigmas=True,
            sigma_max=200.0,
            sigma_min=0.01,
        ),
        safety_checker=Unguarded(),
    )


def wan_vace() -> Any:
    """Wan VACE, which no family here knows: a video pipeline like any other."""
    from diffusers import WanVACEPipeline, WanVACETransformer3DModel

    like = wan()
    return WanVACEPipeline(
        tokenizer=like.tokenizer,
        text_encoder=like.text_encoder,
        vae=like.vae,
        scheduler=like.scheduler,
        transformer=WanVACETransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            cross_attn_norm=True,
            rope_max_seq_len=32,
            vace_layers=[0, 1],
            vace_in_channels=96,
        ),
    )


def allegro() -> Any:
    """Allegro, which no family here knows; its VAE decodes in tiles only."""
    from diffusers import (
        AllegroPipeline,
        AllegroTransformer3DModel,
        AutoencoderKLAllegro,
        EulerAncestralDiscreteScheduler,
    )

    return AllegroPipeline(
        tokenizer=t5_tokenizer(512),
        text_encoder=t5_encoder(),
        transformer=AllegroTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            cross_attention_dim=24,
            sample_width=8,
            sample_height=8,
            sample_frames=8,
            caption_channels=32,
        ),
        vae=AutoencoderKLAllegro(
            in_channels=3,
            out_channels=3,
            down_block_types=("AllegroDownBlock3D",) * 4,
            up_block_types=("AllegroUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        ),
        scheduler=EulerAncestralDiscreteScheduler(),
    )


# Pipelines that no family knows.
STRANGERS = {"wan-vace": wan_vace, "allegro": allegro}

PIPELINES = {
    "cogvideox-2b": lambda: cogvideox(rotary=False),
    "cogvideox-5b": lambda: cogvideox(),
    "cogvideox-5b-i2v": lambda: cogvideox(image=True),
    "cogvideox1.5-t2v": lambda: cogvideox(version15=True),
    "cogvideox1.5-i2v": lambda: cogvideox(image=True, version15=True),
    "wan2.1-t2v": lambda: wan(),
    "wan2.1-i2v": lambda: wan(image=True),
    "wan2.2-t2v": lambda: wan(two=True),
    "wan2.2-i2v": lambda: wan(image=True, two=True),
    "wan2.2-5b-t2v": lambda: wan(dense=True),
    "wan2.2-5b-i2v": lambda: wan(image=True, dense=True),
    "ltx-t2v": lambda: ltx(),
    "ltx-i2v": lambda: ltx(image=True),
    "ltx-condition-t2v": lambda: ltx(condition=True),
    "hunyuan-t2v": lambda: hunyuan(),
    "hunyuan-i2v": lambda: hunyuan_image("token_replace"),
    "hunyuan-i2v-concat": lambda: hunyuan_image("latent_concat"),
    "mochi-t2v": lambda: mochi(),
    "skyreels-t2v": lambda: skyreels(),
    "skyreels-i2v": lambda: skyreels(image=True),
    "hunyuan15-t2v": lambda: hunyuan15(),
    "hunyuan15-i2v": lambda: hunyuan15(image=True),
    "kandinsky5-t2v": lambda: kandinsky5(),
    "kandinsky5-i2v": lambda: kandinsky5(image=True),
    "ltx2-t2v": lambda: ltx2(),
    "ltx2.3-t2v": lambda: ltx2(newer=True),
    "sana-video-t2v": lambda: sana_video(),
    "cosmos2.5-t2v": lambda: cosmos25(),
}


def unpacked(pipe: Any, tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Tokens [B, S, C] of LTX's kinds, or channels last, as latents in the shape of `like`."""
    if tokens.ndim == 5:
        return tokens.permute(0, 4, 1, 2, 3)
    return pipe._unpack_latents(tokens, *like.shape[2:])


def save(name: str, folder: Path | str, seed: int = 0) -> Path:
    """Write the pipeline `name` with random weights to `folder` as safetensors; returns the folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        (PIPELINES | STRANGERS)[name]().save_pretrained(folder)
    return Path(folder)
