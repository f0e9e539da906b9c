"""An upper bound on how well a model could tell the sides of pairs without looking at motion.

The audit has only the numbers that somebody thought of. A small network that sees patches of single
frames can find others. A few convolutions learn to score a winner's patch above its loser's at the
same place, and are judged on pairs of unseen sources. They measure texture and colour as training
could learn them. So the AUC is a bound and not a verdict: a generator that does not draw like a
camera can be told from one, however well the pairs were prepared.

With a frozen feature network (an open_clip image tower that you name), a linear score on its
features tells the patches apart instead. Only the score is learnt, so fewer pairs are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from realdpo import integrity
from realdpo.errors import UserError
from realdpo.openclip import load_openclip, split_openclip_name
from realdpo.pairs import audit
from realdpo.progress import progress_bar
from realdpo.rows import PairRow
from realdpo.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    Video = npt.NDArray[np.uint8]
    Features = Callable[[torch.Tensor], torch.Tensor]
    Patches = tuple[torch.Tensor, torch.Tensor]  # winner and loser, uint8 [P, 3, S, S]

_SIDE, _PATCHES = 48, 16  # pixels, and patches per loser
_MOST_PAIRS = 400
_STEPS, _BATCH = 150, 16
_FOLDS = 5


def judge_rows(workspace: Workspace, rows: Sequence[PairRow], network: str = "") -> dict[str, Any]:
    """`train_discriminator` for accepted rows of the pairs table, at most 400 of them.

    network: MODEL:WEIGHTS of open_clip, or local-dir:/folder or hf-hub:owner/name; if empty, a
    few convolutions are trained. Raises UserError if it cannot be loaded.
    """
    from realdpo.media.decode import read_clip

    features = load_features(network) if network else None
    chosen = sorted(rows, key=lambda row: str(row["pair_id"]))[:_MOST_PAIRS]
    found: list[list[Patches]] = []
    sources: list[str] = []
    with progress_bar("patches", len(chosen), "pairs") as advance:
        for row in chosen:
            win, *losers = (
                read_clip(integrity.read_pair_file(workspace, name))[0]
                for name in (row["win"], *row["lose"])
            )
            found.append(
                [draw_patches(win, lose, row["task"] == "i2v", len(found)) for lose in losers]
            )
            sources.append(str(row["source_id"]))
            advance()
    return train_discriminator(found, sources, features)


def load_features(name: str) -> Features:
    """The image tower of an open_clip model, frozen: uint8 [P, 3, S, S] to float32 [P, D].

    Raises UserError when it cannot be had, or when it would be left with random weights.
    """
    import torch
    from torchvision.transforms.functional import to_pil_image

    model, prepare, _ = load_openclip(*split_openclip_name(name))

    def features(patches: torch.Tensor) -> torch.Tensor:
        batch = torch.stack([prepare(to_pil_image(patch)) for patch in patches])
        with torch.inference_mode():
            found: torch.Tensor = model.encode_image(batch).float()
            return found

    return features


def draw_patches(win: Video, lose: Video, same_first_frame: bool, seed: int) -> Patches:
    """Patches of both sides [F, H, W, 3] at the same places and times, without given frames."""
    import numpy as np
    import torch

    random = np.random.default_rng(seed)
    frames, height, width = win.shape[:3]
    side = min(_SIDE, height, width)
    at = [
        (
            int(random.integers(int(same_first_frame and frames > 1), frames)),
            int(random.integers(0, height - side + 1)),
            int(random.integers(0, width - side + 1)),
        )
        for _ in range(_PATCHES)
    ]
    cut = [
        np.stack([video[t, y : y + side, x : x + side] for t, y, x in at]) for video in (win, lose)
    ]
    return tuple(torch.from_numpy(c).permute(0, 3, 1, 2).contiguous() for c in cut)  # type: ignore[return-value]  # two crops in, two out


def train_discriminator(
    pairs: Sequence[Sequence[Patches]], sources: Sequence[str], features: Features | None = None
) -> dict[str, Any]:
    """How well a small network tells winners from losers of unseen sources.

    pairs: the patches of every loser of each pair. sources: the film of each pair. features:
    function of a frozen network, on which a linear score is fitted; None trains convolutions.
    Returns auc with auc_low and auc_high (95 % by drawing sources; None for fewer than 8), the
    number of sources, and words. Deterministic. Raises UserError for pairs of fewer than two
    sources.
    """
    import numpy as np
    from sklearn.model_selection import GroupKFold

    names = sorted(set(sources))
    if len(names) < 2:
        raise UserError(
            "all pairs come from one source, so none is left to judge on",
            "make pairs of at least two sources for --strong",
        )
    groups = np.array([names.index(source) for source in sources])
    owner = np.repeat(np.arange(len(pairs)), [len(losers) for losers in pairs])
    flat = [loser for losers in pairs for loser in losers]
    scores = np.zeros(len(flat))
    apart = None
    if features is not None:  # difference of the winner from every loser, [L, D]
        apart = np.stack([(features(w) - features(x)).mean(0).numpy() for w, x in flat])
    folds = GroupKFold(min(_FOLDS, len(names)))
    with progress_bar("judges", folds.get_n_splits(), "folds") as advance:
        for train, test in folds.split(owner, groups=groups[owner]):
            if apart is not None:
                scores[test] = apart[test] @ _direction(apart[train])
            else:
                net = _trained([flat[k] for k in train])
                scores[test] = [_score(net, flat[k]) for k in test]
            advance()
    value = round(audit.difference_auc(scores), 4)
    low = high = None
    told = f"{len(names)} sources, too few for an interval"
    if len(names) >= audit.FEWEST:
        low, high = audit.auc_interval(scores, groups[owner])
        told = f"{low:.2f} to {high:.2f}, {len(names)} sources"
    return {
        "auc": value,
        "auc_low": low,
        "auc_high": high,
        "pairs": len(pairs),
        "sources": len(names),
        "words": (
            f"{'a small network' if features is None else 'a linear score on a frozen network'} "
            f"tells the sides of unseen sources apart with AUC {value:.2f} ({told}): "
            "an upper bound on how much training could learn without motion"
        ),
    }


def _direction(apart: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The direction along which winners lie above losers, from differences [L, D], at unit scale.

    Logistic regression without a constant on the differences and their opposites, because the sides
    can change places. The penalty is sklearn's default on features of unit spread, divided by their
    number.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    spread = np.sqrt(np.square(apart).mean(0)) + 1e-12
    both = np.concatenate([apart, -apart]) / spread
    side = np.repeat([1, 0], len(apart))
    fitted = LogisticRegression(C=1 / apart.shape[1], fit_intercept=False, max_iter=1000)
    return np.asarray(fitted.fit(both, side).coef_[0] / spread, np.float32)


def _network() -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(6, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 1),
    )


def _seen(patch: torch.Tensor) -> torch.Tensor:
    """Patches as the network's input: colour, and fine detail that is large enough to be learnt."""
    import torch

    colour = (patch.float() - 127.5) / 64
    smooth = torch.nn.functional.avg_pool2d(colour, 3, stride=1, padding=1, count_include_pad=False)
    return torch.cat([colour, 8 * (colour - smooth)], 1)


def _trained(pairs: Sequence[Patches]) -> Any:
    """Train a network that scores winners above losers on these pairs."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = _network()
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.01)
    win, lose = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    for _ in range(_STEPS):
        at = torch.randint(len(win), (_BATCH,), generator=random)
        flip = bool(torch.rand((), generator=random) < 0.5)
        both = torch.cat([win[at], lose[at]])
        above, below = net(_seen(both.flip(-1) if flip else both)).chunk(2)
        torch.nn.functional.softplus(below - above).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return net.eval()


def _score(net: Any, pair: Patches) -> float:
    """Above 0 where the winner was recognised."""
    import torch

    with torch.no_grad():
        above, below = (net(_seen(side)).mean() for side in pair)
    return float(above - below)
