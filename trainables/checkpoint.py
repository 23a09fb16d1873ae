"""Checkpoints: a model directory plus what only training needs to go on exactly.

The random streams are no part of it: every one is a function of (seed, epoch, worker), drawn anew as an epoch begins,
and a checkpoint lies between epochs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file

from trainables.config import flatten
from trainables.errors import InputError
from trainables.examples import Examples
from trainables.folders import previous, replaced
from trainables.recognizer import WEIGHTS, Recognizer

OPTIMIZER, TRAINING = "optimizer.safetensors", "training.json"
# What weights and optimiser state depend on; a resumed run may change the rest, such as the number of epochs.
FIXED_KEYS = ("model.", "tokenizer.", "features.", "optimizer.name")


def save_checkpoint(
    folder: Path,
    recognizer: Recognizer,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
    examples: Examples | None = None,
) -> None:
    """Writes a checkpoint under a temporary name beside `folder`, then puts it in its place.

    Where writing fails (a full disk, say) the folder's previous content stays whole and the remains are removed.

    Args:
        history: the metrics of each finished epoch, in order.
        examples: what the latest validation saw.
    """
    with replaced(folder) as partial:
        recognizer.save(partial)
        save_file(_optimizer_tensors(optimizer), str(partial / OPTIMIZER))
        (partial / TRAINING).write_text(json.dumps({"history": history}, indent=1), encoding="utf-8")
        if examples is not None:
            examples.save(partial)


def find_checkpoint(folder: Path) -> Path | None:
    """The checkpoint at `folder`, or the one that a kill in the middle of a swap left beside it."""
    for place in (folder, previous(folder)):
        if (place / TRAINING).is_file():
            return place
    return None


def load_checkpoint(folder: Path, recognizer: Recognizer, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Puts weights and optimiser state in place; returns the history, one entry for each finished epoch.

    Raises:
        InputError: the checkpoint is damaged, of another corpus, or of a model of another shape.
    """
    saved = Recognizer.load(folder)
    if saved.corpus_hash != recognizer.corpus_hash:
        raise InputError(
            f"{folder}: trained on corpus {saved.corpus_hash[:12]}, but the data is {recognizer.corpus_hash[:12]}",
            "Resume with the corpus that the training began with.",
        )
    there, here = (dict(flatten(one.config.model_dump())) for one in (saved, recognizer))
    differing = [key for key in here if key.startswith(FIXED_KEYS) and there[key] != here[key]]
    if differing:
        found = "; ".join(f"{key} is {there[key]} there and {here[key]} here" for key in differing)
        raise InputError(f"{folder}: a checkpoint of another configuration: {found}", "Resume with the same one.")
    try:
        tensors = load_file(str(folder / OPTIMIZER), device=str(recognizer.device))
        history: list[dict[str, Any]] = json.loads((folder / TRAINING).read_text(encoding="utf-8"))["history"]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: not a whole checkpoint: {error}", "Resume from another one.") from None
    load_model(recognizer.model, str(folder / WEIGHTS), device=str(recognizer.device))
    _restore_optimizer(optimizer, tensors)
    return history


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The per-parameter state as `"<number>.<name>"`: momenta and step counts are all tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
