"""Device memory: the ladder of ways to save it in training, how much of it a computation takes, and
words for when it runs out. What a pipeline that generates can do beside is in `families.memory`.

`count_peak` runs anything with tensors that have shapes but no contents (PyTorch's FakeTensorMode), so
that what a 14B model needs is known on any machine in seconds.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from realdpo.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

GB = 1e9
"""Bytes of a gigabyte, as on a card's box: 80 GB is 80e9 bytes."""


class OutOfMemory(UserError):
    """Something did not fit into memory; the hint names what to try next."""


@dataclass(frozen=True)
class Rung:
    """One way to train in less memory than the one before it.

    together: winner and losers in one forward. checkpointing: activations are computed again in the
    backward pass. bits: of a frozen base's weights. blocks: the frozen base's blocks, and what is
    kept between them for the backward pass, wait in main memory.
    """

    name: str
    together: bool = True
    checkpointing: bool = False
    bits: int = 16
    blocks: bool = False

    @property
    def words(self) -> str:
        parts = ["branches side by side" if self.together else "one branch at a time"]
        if self.checkpointing:
            parts.append("gradient checkpointing")
        if self.bits < 16:
            parts.append(f"the frozen base in {self.bits} bits")
        if self.blocks:
            parts.append("blocks in main memory")
        return ", ".join(parts)


RUNGS = (
    Rung("side-by-side"),
    Rung("checkpointing", checkpointing=True),
    Rung("one-by-one", together=False, checkpointing=True),
    Rung("8bit", together=False, checkpointing=True, bits=8),
    Rung("4bit", together=False, checkpointing=True, bits=4),
    Rung("blocks", together=False, checkpointing=True, blocks=True),
)
"""How training saves memory, from the fastest to the leanest."""


def rung_of(name: str) -> Rung:
    return next(rung for rung in RUNGS if rung.name == name)


def next_rung(rung: Rung, allowed: Sequence[Rung] = RUNGS) -> Rung | None:
    """The next of the `allowed` rungs below `rung`; None at the end of the ladder."""
    later = RUNGS[RUNGS.index(rung) + 1 :]
    return next((other for other in later if other in allowed), None)


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on a GPU or in the machine."""
    import torch

    if isinstance(error, UserError):
        return False
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # a CPU's allocator raises a plain RuntimeError
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


@contextlib.contextmanager
def explain_out_of_memory(doing: Callable[[], str], hint: Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory within the block into one line: while `doing`, with a `hint`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own is a RuntimeError
        if not ran_out(error):
            raise
        raise OutOfMemory(f"memory ran out while {doing()}", hint()) from error


@contextlib.contextmanager
def reserve_memory(size: int, device: torch.device) -> Iterator[None]:
    """Hold `size` bytes of a GPU within the block, in place of what will be there later."""
    import torch

    held = torch.empty(size if device.type == "cuda" else 0, dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del held


def empty_cache() -> None:
    """Give what a GPU's allocator keeps for later back to the GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a diffusers transformer, in the order of its lists."""
    from torch import nn

    lists = [part for part in model.children() if isinstance(part, nn.ModuleList)]
    return [block for part in lists for block in part]


def keep_blocks_apart(model: nn.Module, device: torch.device) -> list[_Carrier]:
    """Keep the frozen weights of repeated blocks in main memory, and bring them for each use.

    What is trained stays on the device, so the optimizer steps as ever. A block's weights come when
    it is called, in the backward pass when a checkpointed block is called again, and the next
    block's come on a stream of their own meanwhile. The tensors that come are new ones and take the
    parameters' places for the call: what autograd keeps of them it keeps itself, and nothing can be
    put back stale. What checkpointing keeps between blocks waits in main memory as well.
    Call before the model is moved; `move_rest` moves the rest. Returns what carries each block.
    """
    blocks = blocks_of(model)
    carriers = [_Carrier(block, device) for block in blocks]
    for index, block in enumerate(blocks):
        block.forward = _brought(block.forward, carriers, index)
    kept = {id(p) for carrier in carriers for p in carrier.masters}
    model._kept_apart = kept  # type: ignore[assignment]  # modules take attributes that nn.Module does not declare
    # DDP would want every parameter on one device; these have no gradients to exchange.
    model._ddp_params_and_buffers_to_ignore = [  # type: ignore[assignment]  # modules take attributes that nn.Module does not declare
        name for name, p in model.named_parameters() if id(p) in kept
    ]
    real = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        import torch

        pinned = device.type == "cuda"
        with torch.autograd.graph.save_on_cpu(pin_memory=pinned):
            return real(*args, **kwargs)

    model.forward = forward
    return carriers


def move_rest(model: nn.Module, device: torch.device) -> nn.Module:
    """Move all of a model to `device` but the weights that are kept apart."""
    kept: set[int] = getattr(model, "_kept_apart", set())
    for part in model.modules():
        for parameter in part._parameters.values():
            if parameter is not None and id(parameter) not in kept:
                parameter.data = parameter.data.to(device)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device)
    return model


class _Carrier:
    """The frozen weights of one block: in main memory, and on the device while they are used."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        import torch

        self.device = device
        self.places = [
            (part, name, parameter)
            for part in block.modules()
            for name, parameter in part._parameters.items()
            if parameter is not None and not parameter.requires_grad
        ]
        self.masters = [parameter for _, _, parameter in self.places]
        self.coming: list[torch.Tensor] | None = None
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if device.type == "cuda":
            for parameter in self.masters:
                parameter.data = parameter.data.pin_memory()

    def fetch(self) -> None:
        """Begin to bring the weights; on a GPU this runs beside what it computes meanwhile."""
        import torch

        if self.coming is not None:
            return
        if self.stream is None:
            self.coming = [p.detach().to(self.device, copy=True) for p in self.masters]
            return
        with torch.cuda.stream(self.stream):
            self.coming = [p.detach().to(self.device, non_blocking=True) for p in self.masters]

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """The weights are on the device, in the parameters' places, within the block."""
        import torch

        self.fetch()
        here, self.coming = self.coming or [], None
        if self.stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for tensor in here:
                tensor.record_stream(current)
        for (part, name, _), tensor in zip(self.places, here, strict=True):
            part._parameters[name] = tensor  # type: ignore[assignment]  # modules take attributes that nn.Module does not declare
        try:
            yield
        finally:
            for part, name, parameter in self.places:
                part._parameters[name] = parameter


def _brought(
    forward: Callable[..., Any], carriers: Sequence[_Carrier], index: int
) -> Callable[..., Any]:
    """`forward` of block `index` with its weights brought, and the next block's on their way."""

    def call(*args: Any, **kwargs: Any) -> Any:
        import torch

        with carriers[index].here():
            # A backward pass calls its checkpointed blocks from the last to the first.
            backward = torch._C._current_graph_task_id() != -1
            following = index - 1 if backward else index + 1
            if 0 <= following < len(carriers):
                carriers[following].fetch()
            return forward(*args, **kwargs)

    return call


# How much a computation takes


def count_peak(work: Callable[[], Any]) -> int:
    """Most bytes of tensors that `work` makes and that are alive at once.

    Storages are counted when an operation returns them and dropped when they are freed; what lives
    inside one kernel is not seen. Works alike with real and with fake tensors.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    class Count(TorchDispatchMode):
        live = peak = 0

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # torch has no types there
            self.sizes: dict[int, int] = {}  # by storage; 0 for one that was there before

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            for storage in storages((args, kwargs)):
                self.note(storage, 0)
            made = func(*args, **(kwargs or {}))
            for storage in storages(made):
                self.note(storage, storage.nbytes())
            return made

        def note(self, storage: Any, size: int) -> None:
            key = storage._cdata
            if key not in self.sizes:
                self.sizes[key] = size
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.drop, key)

        def drop(self, key: int) -> None:
            self.live -= self.sizes.pop(key)

    def storages(tree: Any) -> Iterator[Any]:
        leaves = tree_iter(tree)
        return (leaf.untyped_storage() for leaf in leaves if isinstance(leaf, torch.Tensor))

    with Count() as counted:
        work()
    count: int = counted.peak
    return count
