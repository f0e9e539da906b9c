"""Device memory: the ladder of ways to save it, how much of it a computation takes, and words for
when it runs out. `train` and `pairs` climb the same way, each with its own rungs.

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

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # a CPU's allocator raises a plain RuntimeError
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


@contextlib.contextmanager
def told(doing: Callable[[], str], hint: Callable[[], str]) -> Iterator[None]:
    """Turn running out of memory within the block into one line: while `doing`, with a `hint`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch's own is a RuntimeError
        if isinstance(error, UserError) or not ran_out(error):
            raise
        raise OutOfMemory(f"memory ran out while {doing()}", hint()) from error


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
            super().__init__()
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
    return counted.peak
