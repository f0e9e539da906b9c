"""Run by `test_sharded.py` in two processes: a reference and a checkpoint of FSDP2 weights."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from realdpo.cli.processes import leave_process
from realdpo.train import checkpoint
from realdpo.train.reference import Reference, whole_tensor


class Small(nn.Module):
    """Two layers in shards of their own, and a weight of the root, which stays gathered."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) * self.scale


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    plain, model = Small(), Small()
    for layer in (model.layers[0], model.layers[2], model):
        fully_shard(layer, mesh=mesh)
    for mode in ("frozen", "ema"):
        ours, expected = Reference(model, mode, 0.5, 1), Reference(plain, mode, 0.5, 1)
        before = model(x)
        before.sum().backward()  # the gathered weights are let go before they change
        with torch.no_grad():
            for parameter in (*model.parameters(), *plain.parameters()):
                parameter.mul_(1.1)
        after = model(x)
        assert not torch.allclose(before, after)
        for reference in (ours, expected):
            reference.update(1)
        with ours.active(), expected.active():
            torch.testing.assert_close(model(x), plain(x))
        torch.testing.assert_close(model(x), after, rtol=0, atol=0)
        for name, weight in ours.weights.items():
            torch.testing.assert_close(whole_tensor(weight), expected.weights[name])
        assert abs(ours.distance() - expected.distance()) < 1e-5
        # gathered, and put back after being spoilt
        kept = {
            n: whole_tensor(p.detach()).clone() for n, p in checkpoint.trained_parameters(model)
        }
        with torch.no_grad():
            for name, parameter in checkpoint.trained_parameters(model):
                parameter.zero_()
                parameter.copy_(checkpoint._like(parameter, kept[name]))
        torch.testing.assert_close(model(x), after, rtol=0, atol=0)
    model(x).square().mean().backward()  # gradients still reach the shards
    assert all(p.grad is not None for p in model.parameters())
    one_tensor_at_a_time(model)
    dist.destroy_process_group()


def one_tensor_at_a_time(model: nn.Module) -> None:
    """What a checkpoint holds at its peak on a process that does not write: one whole tensor."""
    from realdpo import memory

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    optimizer.step()

    def gather() -> None:
        main = dist.get_rank() == 0
        checkpoint.whole_weights(model, main)
        checkpoint._gathered(checkpoint._moments(model, optimizer), main)

    peak = memory.count_peak(gather)
    whole = [p.numel() * p.element_size() for p in Small().parameters()]
    if dist.get_rank():
        # a gathered tensor, and the pieces it was put together from
        assert peak <= 3 * max(whole), (peak, whole)
    assert sum(whole) * 3 > 3 * max(whole)


if __name__ == "__main__":
    main()
    leave_process(0)
