"""Learning-rate schedules: functions of the update's number and, for `plateau`, of the validation losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainables.config.tree import Optimizer

ONE_CYCLE_START = 1 / 25  # of the peak: the default of torch's OneCycleLR and of fastai


def learning_rate(config: Optimizer, update: int, total: int, losses: Sequence[float] = ()) -> float:
    """The learning rate of update number `update` of `total`, counted from 0.

    All schedules begin with linear warm-up to the peak, except `one_cycle`, for which `warmup` is the rising part of
    the cycle. After the peak, the rate stays at or above `final_lr` x peak.

    Args:
        losses: the validation loss of each finished epoch, for `plateau`.
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
            # Loshchilov and Hutter, section 3, with cycles of equal length; a cycle ends one update above its minimum.
            return config.lr * _cosine(1, config.final_lr, after * config.cycles % rest / rest)
        case "plateau":
            share = config.factor ** _reductions(losses, config.patience)
        case "noam":  # Vaswani et al. (2017, arXiv 1706.03762), equation 3, scaled to have its peak at `lr`
            share = math.sqrt(max(1, warmup) / (update + 1))
    return config.lr * max(config.final_lr, share)


def _cosine(start: float, end: float, progress: float) -> float:
    """The value between `start` and `end` at `progress` (0 to 1) along half a cosine.

    Source: Loshchilov and Hutter (2017, arXiv 1608.03983), equation 5.
    """
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _one_cycle(config: Optimizer, update: int, total: int) -> float:
    """The rate of a single cycle, as a share of its peak: up and down along cosines, as in torch's OneCycleLR.

    Source: Smith and Topin (2018, arXiv 1708.07120).
    """
    top = config.warmup * total - 1
    if top > 0 and update <= top:
        return _cosine(ONE_CYCLE_START, 1, update / top)
    top = max(top, 0)
    return _cosine(1, config.final_lr, (update - top) / max(1, total - 1 - top))


def _reductions(losses: Sequence[float], patience: int) -> int:
    """Number of reductions of the rate: one each time more than `patience` epochs in a row have no lower loss."""
    best, waited, count = math.inf, 0, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited > patience:
            waited, count = 0, count + 1
    return count
