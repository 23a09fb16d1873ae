"""Which space suits a first sweep: by the hours of speech and the machine, or by the model that it begins with."""

from __future__ import annotations

from typing import NamedTuple

import yaml

from search_spaces.reader import parse_space
from search_spaces.space import Space
from trainables.config.tree import Config

SMALL, LARGE = "hour", "speech"
"""Shipped spaces: small models for little speech or CPUs, and models that fill the budget for a GPU."""
LEAST_HOURS = 5.0  # of speech for LARGE: with fewer, models of millions of parameters learn the texts by heart


class Selected(NamedTuple):
    """A shipped space by its name, and why it was chosen."""

    name: str
    reason: str


def select_space(hours: float, gpus: float) -> Selected:
    """The shipped space for a first sweep.

    Args:
        hours: length of the training split.
        gpus: number of GPUs that the sweep can use.
    """
    amount = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    if gpus and hours >= LEAST_HOURS:
        return Selected(LARGE, f"{amount} of speech and a GPU: models of up to 30 million parameters")
    if gpus:
        return Selected(SMALL, f"{amount} of speech, less than {LEAST_HOURS:g} hours: small models")
    return Selected(SMALL, f"{amount} of speech and no GPU: small models")


def fine_tuning_space(config: Config) -> Space:
    """A space for training a model further on another corpus: its shape is fixed, and how it is trained varies.

    Args:
        config: configuration of the model. Its tokenizer is replaced by characters, which any corpus can give.
    """
    base = config.model_dump(mode="json", include={"features", "model", "loss"})
    tree = {
        "base": {
            **base,
            "data": {"speed_perturbation": 0.1},
            "tokenizer": {"kind": "char"},
            "specaugment": {"frequency_masks": 2, "frequency_width": 15, "time_masks": 2, "time_width": 0.05},
            "optimizer": {"lr": 1.0e-3, "warmup": 0.1},
            "training": {"update_seconds": 60},
            "decoding": {"method": config.decoding.method},
        },
        "vary": {
            "model.dropout": {"float": [0.05, 0.3]},
            "specaugment.time_masks": {"int": [0, 4]},
            "optimizer.lr": {"log": [1.0e-4, 2.0e-3]},
            "training.update_seconds": {"choice": [30, 60]},
            "training.ema": {"choice": [0, 0.99]},
        },
        "start": [{}],
        "trials": 8,
        "epochs": 15,
    }
    return parse_space(yaml.safe_dump(tree, sort_keys=False), "fine_tuning.yaml")
