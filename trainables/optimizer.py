"""The optimiser, and the learning rate as a function of the update."""

from __future__ import annotations

import math

import torch
from torch import nn

from trainables.config import Optimizer


def build_optimizer(config: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD with weight decay on matrices alone: biases, norms and embeddings are spared."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed = [p for p in model.parameters() if p.dim() > 1 and id(p) not in embeddings]
    spared = [p for p in model.parameters() if p.dim() <= 1 or id(p) in embeddings]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.betas[0])
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas, eps=1e-9, fused=True)


def learning_rate(config: Optimizer, update: int, total: int) -> float:
    """The rate of update `update` of `total`, counted from 0: linear warm-up, then cosine or constant.

    Cosine: Loshchilov and Hutter (2017, arXiv 1608.03983), equation 5, from the peak down to `final_lr` x peak.
    """
    warmup = round(config.warmup * total)
    if update < warmup:
        return config.lr * (update + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (update - warmup) / max(1, total - 1 - warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * (1 + math.cos(math.pi * progress)) / 2)
