"""Checkpoints: a model directory plus what only training needs to go on exactly.

The random streams are no part of it: every one is a function of (seed, epoch, worker), drawn anew as an epoch begins,
and a checkpoint lies between epochs.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file

from trainables.errors import InputError
from trainables.recognizer import WEIGHTS, Recognizer

OPTIMIZER, TRAINING = "optimizer.safetensors", "training.json"


def save_checkpoint(
    folder: Path, recognizer: Recognizer, optimizer: torch.optim.Optimizer, history: list[dict[str, Any]]
) -> None:
    """Writes a checkpoint under a temporary name beside `folder`, then puts it in its place.

    Where writing fails (a full disk, say) the folder's previous content stays whole and the remains are removed.

    Args:
        history: the metrics of each finished epoch, in order.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        partial.mkdir()
        recognizer.save(partial)
        save_file(_optimizer_tensors(optimizer), str(partial / OPTIMIZER))
        (partial / TRAINING).write_text(json.dumps({"history": history}, indent=1), encoding="utf-8")
        _replace(folder, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _replace(folder: Path, new: Path) -> None:
    """Swaps a folder for a new one. Killed between the two renames, `previous` still holds the old one."""
    previous = folder.with_name(f".{folder.name}.previous")
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        os.rename(folder, previous)
    os.rename(new, folder)
    shutil.rmtree(previous, ignore_errors=True)


def find_checkpoint(folder: Path) -> Path | None:
    """The checkpoint at `folder`, or the one that a kill in the middle of a swap left beside it."""
    for place in (folder, folder.with_name(f".{folder.name}.previous")):
        if (place / TRAINING).is_file():
            return place
    return None


def load_checkpoint(
    folder: Path, recognizer: Recognizer, optimizer: torch.optim.Optimizer
) -> list[dict[str, Any]]:
    """Puts weights and optimiser state in place; returns the history, one entry for each finished epoch.

    Raises:
        InputError: the checkpoint is of another corpus, or of a model of another shape.
    """
    saved = Recognizer.load(folder)
    if saved.corpus_hash != recognizer.corpus_hash:
        raise InputError(
            f"{folder}: trained on corpus {saved.corpus_hash[:12]}, but the data is {recognizer.corpus_hash[:12]}",
            "Resume with the corpus that the training began with.",
        )
    if saved.config.model != recognizer.config.model:
        raise InputError(f"{folder}: the checkpoint's model section differs", "Resume with the same configuration.")
    load_model(recognizer.model, str(folder / WEIGHTS), device=str(recognizer.device))
    _restore_optimizer(optimizer, load_file(str(folder / OPTIMIZER), device=str(recognizer.device)))
    return json.loads((folder / TRAINING).read_text(encoding="utf-8"))["history"]


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
