"""Checkpoints: a model directory plus the state that only training needs.

torch's random generators are seeded anew with (seed, epoch, worker) when an epoch begins. So their states are a part
only of a checkpoint that is written in the middle of an epoch. Nothing in a checkpoint is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.checksums import record_checksums, verify_checksums
from trainables.config.parsing import flatten
from trainables.errors import DamagedError, InputError
from trainables.evaluation.examples import ATTENTION, EXAMPLES, Examples
from trainables.folders import previous, replaced
from trainables.inference.model_directory import TrainedModel
from trainables.inference.model_files import ERRORS
from trainables.output import say
from trainables.training.checkpoint_files import AVERAGES, OPTIMIZER, RANDOM, TRAINING, TRAINING_FILES
from trainables.training.interruption import EpochState, WorkerState

RAY_TRAIN_NAMES = "checkpoint_[0-9][0-9][0-9][0-9]-*"  # date and time, so they sort in the order of writing
# Weights and optimizer state depend on these keys; a resumed run may change all others, such as the number of epochs.
FIXED_KEYS = ("model.", "tokenizer.", "features.", "optimizer.name")
UNFINISHED = "unfinished"  # key of the state of an unfinished epoch in TRAINING


class Checkpoint(NamedTuple):
    """Content of a checkpoint, except for the weights and the optimizer's state.

    Attributes:
        history: metrics of each finished epoch, in order.
        averages: tensors of `WeightAverages.tensors`, on the CPU; may be empty.
        examples: examples of the latest validation, if any.
        unfinished: state of the epoch after those of the history; None between epochs.
    """

    history: list[dict[str, Any]]
    averages: dict[str, Tensor]
    examples: Examples | None
    unfinished: EpochState | None


def save_checkpoint(
    folder: Path,
    trained: TrainedModel,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, Any]],
    averages: Mapping[str, Tensor] | None = None,
    examples: Examples | None = None,
    unfinished: EpochState | None = None,
) -> None:
    """Writes a checkpoint under a temporary name beside `folder`, then renames it.

    If writing fails, the folder's previous content stays, and partial files are removed.

    Args:
        trained: model with the validated weights.
        history, averages, examples, unfinished: see `Checkpoint`.
    """
    with replaced(folder) as partial:
        trained.save(partial)
        save_file(_optimizer_tensors(trained.model, optimizer), str(partial / OPTIMIZER))
        if averages:
            save_file(dict(averages), str(partial / AVERAGES))
        tree: dict[str, Any] = {"history": history}
        if unfinished is not None:
            tree[UNFINISHED] = unfinished._asdict() | {"workers": [worker.sums for worker in unfinished.workers]}
            save_file(_random_tensors(unfinished.workers), str(partial / RANDOM))
        (partial / TRAINING).write_text(json.dumps(tree, indent=1), encoding="utf-8")
        if examples is not None:
            examples.save(partial)
        record_checksums(partial, (*TRAINING_FILES, EXAMPLES, ATTENTION, ERRORS))


def load_latest(folder: Path, trained: TrainedModel, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Loads the checkpoint at `folder` or, if it is damaged, the latest whole one before it.

    Each damaged checkpoint is named on standard error.

    Raises:
        DamagedError: no checkpoint is whole; the message is about `folder`.
        InputError: the checkpoint is of another corpus, or of a model of another shape.
    """
    errors = []
    for place in checkpoints_from(folder) or [folder]:
        try:
            return load_checkpoint(place, trained, optimizer)
        except DamagedError as error:
            say(f"this checkpoint cannot be used: {error.problem}")
            errors.append(error)
    raise errors[0]


def checkpoints_from(folder: Path) -> list[Path]:
    """Checkpoints to resume from, the latest first.

    These are `folder`, a copy beside it of a process that was killed while replacing it, and earlier checkpoints of the
    run beside it, under Ray Train's names.
    """
    dated = folder.parent.glob(RAY_TRAIN_NAMES) if fnmatch(folder.name, RAY_TRAIN_NAMES) else ()
    earlier = [path for path in dated if path.name < folder.name]
    places = [folder, previous(folder), *sorted(earlier, reverse=True)]
    return [place for place in places if (place / TRAINING).is_file()]


def load_checkpoint(folder: Path, trained: TrainedModel, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Loads a checkpoint's weights into `trained` and its optimizer state into `optimizer`.

    Raises:
        DamagedError: a file is missing or damaged; model and optimizer are unchanged then.
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
        raise InputError(
            f"{folder}: a checkpoint of another configuration: {found}",
            "Resume with the configuration that the training began with.",
        )
    verify_checksums(folder, TRAINING_FILES)
    try:
        tensors = load_file(str(folder / OPTIMIZER), device=str(trained.device))
        state = _optimizer_state(trained.model, optimizer, tensors)
        tree = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
        history, unfinished = tree["history"], tree.get(UNFINISHED)
        if unfinished is not None:
            workers = _worker_states(unfinished["workers"], load_file(str(folder / RANDOM)))
            unfinished = EpochState(**(unfinished | {"workers": workers}))
        averages = load_file(str(folder / AVERAGES)) if (folder / AVERAGES).exists() else {}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder}: not a whole checkpoint: {error}", "Resume from another one.") from None
    trained.model.load_state_dict(saved.model.state_dict())
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return Checkpoint(history, averages, Examples.load(folder), unfinished)


def _random_tensors(workers: Sequence[WorkerState]) -> dict[str, Tensor]:
    """Random states of all workers by `RANK.DEVICE`, such as `0.cpu`."""
    states = [worker.random for worker in workers]
    return {f"{rank}.{device}": state for rank, own in enumerate(states) for device, state in own.items()}


def _worker_states(sums: Sequence[list[float]], tensors: Mapping[str, Tensor]) -> list[WorkerState]:
    """States of workers, given the sums of each, and the random states of all by `RANK.DEVICE`."""
    found = [WorkerState(own, {}) for own in sums]
    for name, state in tensors.items():
        rank, _, device = name.partition(".")
        found[int(rank)].random[device] = state
    return found


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state (momenta, step counts) by `PARAMETER.KEY`, such as `ctc_head.bias.exp_avg`.

    torch numbers parameters in the order of the groups, which a resumed run may change.
    """
    return {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> dict[int, dict[str, Tensor]]:
    """The inverse of `_optimizer_tensors`: an optimizer's state by torch's number of each parameter.

    Raises:
        ValueError: `model` has no parameter of such a name.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, part = key.rpartition(".")
        state.setdefault(order.index(name), {})[part] = value
    return state
