"""The preference objective in a loop of your own, with any diffusers transformer.

python examples/objective_in_your_own_loop.py
"""

# %% A small Wan transformer stands for yours; `win` is a real clip's latents, `lose` the model's.
import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig

from realdpo.train import objective

torch.manual_seed(0)
model = WanTransformer3DModel(
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    text_dim=8,
    freq_dim=16,
    ffn_dim=32,
    num_layers=2,
    rope_max_seq_len=32,
)
model.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
win, lose = torch.randn(2, 1, 4, 3, 8, 8)  # [B, C, F, H, W]
prompt = torch.randn(1, 5, 8)


def squared_error(clean: torch.Tensor, noise: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Error [B] of the flow that the model predicts at noise level u [B]."""
    level = u.view(-1, 1, 1, 1, 1)
    noisy = (1 - level) * clean + level * noise
    return objective.error(model(noisy, u * 1000, prompt).sample, noise - clean)


# %% One noise and level for both sides, policy and reference alike; adapters off is the reference.
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
settings = objective.Objective(beta=500.0, sft_weight=125.0)
for step in range(3):
    noise, u = torch.randn_like(win), torch.rand(1)
    model.disable_adapters()
    with torch.no_grad():
        reference = squared_error(win, noise, u), squared_error(lose, noise, u)[:, None]
    model.enable_adapters()
    policy = squared_error(win, noise, u), squared_error(lose, noise, u)[:, None]  # [B], [B, N]
    errors = objective.Errors(*policy, *reference)
    loss = objective.loss(errors, settings)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}, {objective.diagnostics(errors, settings.beta)}")
