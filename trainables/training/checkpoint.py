"""Checkpoints: a model directory plus what only training needs to go on exactly.

The random streams are no part of it: every one is a function of (seed, epoch, worker), drawn anew as an epoch begins,
and a checkpoint lies between epochs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from trainables.checksums import record_checksums, verify_checksums
from trainables.config_parsing import flatten
from trainables.errors import DamagedError, InputError
from trainables.evaluation.examples import ATTENTION, EXAMPLES, Examples
from trainables.evaluation.utterance_errors import ERRORS
from trainables.folders import previous, replaced
from trainables.inference.model_directory import TrainedModel
from trainables.output import say
from trainables.training.checkpoint_files import AVERAGES, OPTIMIZER, TRAINING, TRAINING_FILES

DATED = "checkpoint_[0-9][0-9][0-9][0-9]-*"  # Ray Train's names of a run's checkpoints: the date and the time
# What weights and optimiser state depend on; a resumed run may change the rest, such as the number of epochs.
FIXED_KEYS = ("model.", "tokenizer.", "features.", "optimizer.name")


def save_checkpoint(
    folder: Path,
    trained: TrainedModel,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
    averages: Mapping[str, torch.Tensor] | None = None,
    examples: Examples | None = None,
) -> None:
    """Writes a checkpoint under a temporary name beside `folder`, then puts it in its place.

    Where writing fails (a full disk, say) the folder's previous content stays whole and the remains are removed.

    Args:
        trained: with the weights that were validated.
        history: the metrics of each finished epoch, in order.
        averages: what is trained, and averages of it (`WeightAverages.tensors`), where that is something else.
        examples: what the latest validation saw.
    """
    with replaced(folder) as partial:
        trained.save(partial)
        save_file(_optimizer_tensors(trained.model, optimizer), str(partial / OPTIMIZER))
        if averages:
            save_file(dict(averages), str(partial / AVERAGES))
        (partial / TRAINING).write_text(json.dumps({"history": history}, indent=1), encoding="utf-8")
        if examples is not None:
            examples.save(partial)
        record_checksums(partial, (*TRAINING_FILES, EXAMPLES, ATTENTION, ERRORS))


def find_checkpoint(folder: Path) -> Path | None:
    """The checkpoint at `folder`, or the one that a kill in the middle of a swap left beside it."""
    for place in (folder, previous(folder)):
        if (place / TRAINING).is_file():
            return place
    return None


def resume(folder: Path, trained: TrainedModel, optimizer: torch.optim.Optimizer) -> tuple[Path, list[dict[str, Any]]]:
    """Loads the checkpoint at `folder` or, where that is damaged, the latest whole one before it.

    Earlier checkpoints are what a kill in the middle of a swap left beside it, and Ray Train's others of the run, which
    lie in the same place under names that sort by time. Each damaged one is named on standard error.

    Returns:
        The folder that was loaded, and the history: one entry for each finished epoch.

    Raises:
        DamagedError: none is whole; the error is that of the one at `folder`.
        InputError: the checkpoint is of another corpus, or of a model of another shape.
    """
    damage = None
    for place in _candidates(folder):
        try:
            return place, load_checkpoint(place, trained, optimizer)
        except DamagedError as error:
            say(f"this checkpoint cannot be used: {error.problem}")
            damage = damage or error
    raise damage or DamagedError(f"{folder}: no checkpoint", "Resume from another one.")


def _candidates(folder: Path) -> list[Path]:
    """Folders to resume from, the latest first."""
    latest = find_checkpoint(folder) or folder
    earlier = [path for path in folder.parent.glob(DATED) if path.name < folder.name and fnmatch(folder.name, DATED)]
    others = [previous(folder), *sorted(earlier, reverse=True)]
    return [latest, *(place for place in others if place != latest and (place / TRAINING).is_file())]


def load_checkpoint(folder: Path, trained: TrainedModel, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Puts weights and optimiser state in place; returns the history, one entry for each finished epoch.

    Raises:
        DamagedError: a file is missing or not what was saved; nothing has been put in place then.
        InputError: the checkpoint is of another corpus, or of a model of another shape.
    """
    saved = type(trained).load(folder)
    if saved.corpus_hash != trained.corpus_hash:
        raise InputError(
            f"{folder}: trained on corpus {saved.corpus_hash[:12]}, but the data is {trained.corpus_hash[:12]}",
            "Resume with the corpus that the training began with.",
        )
    there, here = (dict(flatten(one.config.model_dump())) for one in (saved, trained))
    differing = [key for key in here if key.startswith(FIXED_KEYS) and there[key] != here[key]]
    if differing:
        found = "; ".join(f"{key} is {there[key]} there and {here[key]} here" for key in differing)
        raise InputError(f"{folder}: a checkpoint of another configuration: {found}", "Resume with the same one.")
    verify_checksums(folder, TRAINING_FILES)
    try:
        tensors = load_file(str(folder / OPTIMIZER), device=str(trained.device))
        state = _optimizer_state(trained.model, optimizer, tensors)
        history: list[dict[str, Any]] = json.loads((folder / TRAINING).read_text(encoding="utf-8"))["history"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder}: not a whole checkpoint: {error}", "Resume from another one.") from None
    trained.model.load_state_dict(saved.model.state_dict())
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return history


def load_averages(folder: Path) -> dict[str, torch.Tensor]:
    """What `save_checkpoint` was given as `averages`, on the CPU; empty where it was nothing.

    Raises:
        DamagedError: the file is not what was saved.
    """
    if not (folder / AVERAGES).exists():
        return {}
    try:
        return load_file(str(folder / AVERAGES))
    except (OSError, SafetensorError) as error:
        raise DamagedError(f"{folder}: not a whole checkpoint: {error}", "Resume from another one.") from None


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimiser's per-parameter state by `"<parameter's name>.<its name>"`: momenta and step counts, all tensors.

    By name, for the order of parameters depends on groups and rates, which a resumed run may change.
    """
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> dict[int, dict[str, torch.Tensor]]:
    """An optimiser's per-parameter state by the number that torch gives each parameter of `model`.

    Args:
        tensors: the state by `"<parameter's name>.<its name>"`, as `_optimizer_tensors` returns it.

    Raises:
        KeyError: `model` has no parameter of such a name.
    """
    listed = (parameter for group in optimizer.param_groups for parameter in group["params"])
    numbers = {id(parameter): number for number, parameter in enumerate(listed)}
    parameters = dict(model.named_parameters())
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        name, _, part = key.rpartition(".")
        state.setdefault(numbers[id(parameters[name])], {})[part] = value
    return state
