"""The learning rate, a function of the update (and, for one schedule, of how validation has gone)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainables.config import Optimizer

ONE_CYCLE_START = 1 / 25  # of the peak: the default of torch's OneCycleLR and of fastai


def learning_rate(config: Optimizer, update: int, total: int, losses: Sequence[float] = ()) -> float:
    """The rate of update `update` of `total`, counted from 0.

    All but `one_cycle`, for which `warmup` is the rising part of its cycle, begin with linear warm-up to the peak; it
    is the rising part of Noam's rate too. None falls below `final_lr` x peak after that.

    Args:
        losses: on validation, one for each finished epoch, for `plateau`.
    """
    if config.schedule == "one_cycle":
        return config.lr * _one_cycle(config, update, total)
    warmup = round(config.warmup * total)
    if update < warmup:
        return config.lr * (update + 1) / warmup
    after, rest = update - warmup, total - warmup
    match config.schedule:
        case "constant":
            return config.lr
        case "cosine":
            return config.lr * _cosine(1, config.final_lr, after / max(1, rest - 1))
        case "cosine_restarts":
            # Loshchilov and Hutter, section 3, with cycles of equal length; a cycle's last update is not quite the end.
            return config.lr * _cosine(1, config.final_lr, after * config.cycles % rest / rest)
        case "plateau":
            share = config.factor ** _reductions(losses, config.patience)
        case "noam":  # Vaswani et al. (2017, arXiv 1706.03762), equation 3, scaled to have its peak at `lr`
            share = math.sqrt(max(1, warmup) / (update + 1))
    return config.lr * max(config.final_lr, share)


def _cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine: Loshchilov and Hutter (2017, arXiv 1608.03983), equation 5."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _one_cycle(config: Optimizer, update: int, total: int) -> float:
    """Smith and Topin (2018, arXiv 1708.07120), as torch's OneCycleLR: up to the peak and down, both along cosines."""
    top = config.warmup * total - 1
    if top > 0 and update <= top:
        return _cosine(ONE_CYCLE_START, 1, update / top)
    top = max(top, 0)
    return _cosine(1, config.final_lr, (update - top) / max(1, total - 1 - top))


def _reductions(losses: Sequence[float], patience: int) -> int:
    """How often the rate has fallen: each time that more than `patience` epochs in a row brought no lower loss."""
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited > patience:
            waited, count = 0, count + 1
    return count
