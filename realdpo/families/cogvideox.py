"""CogVideoX 2B and 5B, 5B image-to-video, and both of 1.5. Latents [B, F, C, H, W].

Settings: the model cards of THUDM/CogVideoX-* (50 steps, guidance 6, 8 frames a second; 16 for
1.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from realdpo.families.base import Family, Traits

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class CogVideoX(Family):
    NAME = "cogvideox"
    TASKS: ClassVar = {"CogVideoXPipeline": "t2v", "CogVideoXImageToVideoPipeline": "i2v"}
    TIME_AXIS = 1

    @cached_property
    def traits(self) -> Traits:
        factor = 2 ** (len(self.spec.vae["block_out_channels"]) - 1)
        transformer = self.spec.transformer
        width, height = (transformer[f"sample_{side}"] * factor for side in ("width", "height"))
        dpm = self.spec.get("scheduler", "_class_name") == "CogVideoXDPMScheduler"
        return Traits(
            task=self.task,
            # the pipeline checks the VAE's factor only, but the transformer cuts patches as well
            size_step=factor * transformer["patch_size"],
            # The decoder treats a first frame apart only in an odd number of latent frames:
            # 5 frames become 2 latent frames, and those come back as 8 frames.
            frame_step=2 * int(self.spec.vae["temporal_compression_ratio"]),
            width=width,
            height=height,
            frames=transformer["sample_frames"],
            fps=16 if transformer.get("patch_size_t") else 8,
            steps=50,
            guidance=6.0,
            # diffusers' example of image-to-video and the authors' cli_demo, for the DPM scheduler
            call={"use_dynamic_cfg": True} if self.task == "i2v" and dpm else {},
            # positions that were learned are there for one size
            sizes=((width, height),)
            if transformer.get("use_learned_positional_embeddings")
            else (),
        )

    @property
    def _tokens(self) -> int:
        # learned positions exist for exactly this many tokens
        return int(self.spec.get("transformer", "max_text_seq_length", 226))

    def told(self) -> dict[str, Any]:
        return {} if self._tokens == 226 else {"max_sequence_length": self._tokens}

    @classmethod
    def clear_caches(cls) -> None:
        _rotary_of.cache_clear()

    def arguments(self, settings: Any) -> dict[str, Any]:
        return {**super().arguments(settings), "max_sequence_length": self._tokens}

    def prompt_shapes(self) -> dict[str, tuple[int, ...]]:
        config = self.spec.transformer
        return {"prompt_embeds": (config["max_text_seq_length"], config["text_embed_dim"])}

    def embed(self, pipe: Any, prompt: str, image: Tensor | None) -> dict[str, Tensor]:
        embeds, _ = pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=self._tokens
        )
        return {"prompt_embeds": embeds[0]}

    def encode(self, vae: Any, video: Tensor) -> Tensor:
        return super().encode(vae, video).permute(0, 2, 1, 3, 4)

    def decode(self, vae: Any, latents: Tensor) -> Tensor:
        return super().decode(vae, latents.permute(0, 2, 1, 3, 4))

    def padded(self, latents: Tensor) -> Tensor:
        import torch

        # 1.5 cuts patches over time: it wants an even number of latent frames, and its pipeline
        # drops the surplus from the front when it decodes
        surplus = -latents.shape[1] % (self.spec.transformer.get("patch_size_t") or 1)
        return torch.cat([latents[:, :1]] * surplus + [latents], dim=1)

    def pack(self, pipe: Any, latents: Tensor) -> Tensor:
        # this pipeline does not cast what it is given
        return self.padded(latents).to(pipe.transformer.dtype)

    def condition(self, vae: Any, image: Tensor, frames: int) -> dict[str, Tensor]:
        latents = (
            vae.encode(image.to(vae.device, vae.dtype).unsqueeze(2)).latent_dist.mode().float()
        )
        scale = self.spec.vae["scaling_factor"]
        # CogVideoX1.5 image-to-video was trained with its first frame scaled the wrong way round
        scale = 1 / scale if self.spec.vae.get("invert_scale_latents") else scale
        return {"image_latents": latents[:, :, 0] * scale}

    def condition_noise(self) -> tuple[float, float] | None:
        # CogVideoX (arXiv 2408.06072, section on image-to-video) noised its first frames like this
        return (-3.0, 0.5) if self.task == "i2v" else None

    def forward(
        self, transformer: Any, noisy: Tensor, timestep: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        import torch

        _, frames, _, height, width = noisy.shape
        if self.task == "i2v":
            held = torch.zeros_like(noisy)
            held[:, 0] = inputs["image_latents"]
            noisy = torch.cat([noisy, held], dim=2)
        ofs = self.spec.transformer.get("ofs_embed_dim")
        made: Tensor = transformer(
            hidden_states=noisy,
            encoder_hidden_states=inputs["prompt_embeds"].to(noisy.dtype),
            timestep=timestep,
            ofs=noisy.new_full((1,), 2.0) if ofs else None,
            image_rotary_emb=self._rotary(frames, height, width, noisy.device),
            return_dict=False,
        )[0]
        return made

    def _rotary(self, frames: int, height: int, width: int, device: torch.device) -> Any:
        """The rotary embedding of a latent grid. Without it a 5B model runs, and predicts nonsense."""
        config = self.spec.transformer
        if not config["use_rotary_positional_embeddings"]:
            return None
        patch = config["patch_size"]
        return _rotary_of(
            config["attention_head_dim"],
            (height // patch, width // patch),
            (config["sample_height"] // patch, config["sample_width"] // patch),
            frames,
            config.get("patch_size_t"),
            device,
        )


@lru_cache(maxsize=4)  # the same for every forward of a run, and made by one thread
def _rotary_of(
    head: int,
    grid: tuple[int, int],
    base: tuple[int, int],
    frames: int,
    per_patch: int | None,
    device: torch.device,
) -> Any:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    if per_patch is None:
        crop = get_resize_crop_region_for_grid(grid, base[1], base[0])
        return get_3d_rotary_pos_embed(head, crop, grid, frames, device=device)
    return get_3d_rotary_pos_embed(
        head, None, grid, -(-frames // per_patch), grid_type="slice", max_size=base, device=device
    )
