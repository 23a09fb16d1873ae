"""Trained models of every kind, and the model directory that holds one.

Every kind has `config.json`, `tokenizer.model` and `model.safetensors`; a recogniser adds `features.json`
(recognizer.py), and may have the errors of its last validation in `errors.json` (utterance_errors.py). The SHA-256 of
each file is in `checksums.json`, which is written last and checked at loading (checksums.py). Beside them a recogniser
may have decoding options of its own in `decoding.json` (decoding_options.py) and the calibration of its words'
confidence in `confidence.json` (words.py), which can be changed or deleted at any time. A checkpoint is a model
directory with the state of the training beside it (checkpoint.py). No file is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

import torch
from pydantic import BaseModel, Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from trainables.checksums import copy_checksums, record_checksums, verify_checksums
from trainables.config.parsing import problems, with_former_values
from trainables.config.tree import Config
from trainables.data.text.normalization import TextRule
from trainables.data.text.tokenizer import Tokenizer
from trainables.errors import DamagedError, DivergedError, InputError
from trainables.folders import check_decodable, replaced, written_whole
from trainables.inference.decoding_options import DECODING, OwnDecoding, checked
from trainables.inference.model_files import CONFIDENCE, CONFIG, ERRORS, FEATURES, TOKENIZER, WEIGHTS
from trainables.models.speech_transformer import stacks
from trainables.shapes import shapes_only

FORMAT = 2
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # buffers of batch norm
DAMAGED = "The file is damaged; use another copy."

Network = TypeVar("Network", bound=nn.Module)
Tree = TypeVar("Tree", bound=BaseModel)
ActiveLayers = dict[str, Annotated[int, Field(ge=1, strict=True)] | None]


class ModelInfo(BaseModel):
    """Content of `config.json`, with the decoding options of `decoding.json` where the directory has one.

    Attributes:
        corpus_hash: content hash of the corpus that the model was trained on.
        text: normalisation of that corpus's texts; models from before it was recorded have none.
        active_layers: number of active layers by the name of the stack; None: all, except in progressive training.
    """

    config: Config
    corpus_hash: str = Field(min_length=1)
    text: TextRule = TextRule()
    active_layers: ActiveLayers

    @field_validator("config", mode="before")
    @classmethod
    def _complete(cls, tree: Any) -> Any:
        return with_former_values(tree) if isinstance(tree, dict) else tree


@dataclass
class TrainedModel:
    """A trained network with its configuration and tokenizer: the base of every kind of model.

    Args:
        corpus_hash: content hash of the corpus that the model was trained on.
        text: normalisation of that corpus's texts, for references.
    """

    FILES: ClassVar[tuple[str, ...]] = (CONFIG, TOKENIZER, WEIGHTS)

    config: Config
    model: nn.Module
    tokenizer: Tokenizer
    corpus_hash: str
    text: TextRule = field(default_factory=TextRule, kw_only=True)

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return next(self.model.parameters()).device

    @property
    def parameters(self) -> int:
        """Number of parameters; tied parameters count once."""
        return sum(p.numel() for p in self.model.parameters())

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context that computes in bf16 if `training.precision` is bf16, or is auto and the GPU supports bf16."""
        precision = self.config.training.precision
        native = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        enabled = precision == "bf16" or (precision == "auto" and native)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Loads a model directory; implemented by each kind of model."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Writes the files of a model directory into an existing folder, and then their checksums.

        Raises:
            DivergedError: a weight is not a finite number.
        """
        self.write(folder)
        record_checksums(folder, self.FILES)

    def write(self, folder: Path) -> None:
        """Writes `FILES` into an existing folder, without checksums.

        Raises:
            DivergedError: a weight is not a finite number.
        """
        if broken := not_finite(self.model):
            raise DivergedError(f"the model has weights that are not finite numbers: {broken}")
        info = {
            "format": FORMAT,
            "corpus_hash": self.corpus_hash,
            "text": self.text.model_dump(),
            "parameters": self.parameters,
            "active_layers": {name: stack.active_layers for name, stack in stacks(self.model).items()},
            "config": self.config.model_dump(mode="json"),
        }
        (folder / CONFIG).write_text(json.dumps(info, indent=2), encoding="utf-8")
        self.tokenizer.save(folder / TOKENIZER)
        save_model(self.model, str(folder / WEIGHTS))


def read_info(folder: Path) -> ModelInfo:
    """Content of `config.json` of a model directory, with the directory's own decoding options if it has any.

    Raises:
        InputError: the directory is of another format.
        DamagedError: the file is missing or damaged, or the decoding options do not fit the model.
    """
    check_decodable(folder)
    _require(folder, (CONFIG,))
    tree = read_json(folder / CONFIG, "format")
    if tree["format"] != FORMAT:
        raise InputError(
            f"{folder / CONFIG}: model format {tree['format']!r}, but this version reads {FORMAT}",
            "Train the model again, or use the version that wrote it.",
        )
    info = validated(tree, ModelInfo, folder / CONFIG)
    own = read_decoding(folder)
    if own is None:
        return info
    try:
        decoding = checked(info.config, own.decoding.model_dump(), str(folder / DECODING))
    except InputError as error:
        raise DamagedError(error.problem, f"Correct or delete {folder / DECODING}.") from None
    return info.model_copy(update={"config": info.config.model_copy(update={"decoding": decoding})})


def read_decoding(folder: Path) -> OwnDecoding | None:
    """Content of `decoding.json` of a model directory; None if it has no decoding options of its own.

    Raises:
        DamagedError: the file cannot be read, or has mistakes.
    """
    path = folder / DECODING
    return validated(read_json(path), OwnDecoding, path) if path.is_file() else None


def write_decoding(folder: Path, own: OwnDecoding) -> None:
    """Makes decoding options a model directory's own, in place of earlier ones."""
    with written_whole(folder / DECODING) as file:
        file.write(own.model_dump_json(indent=2) + "\n")


def read_checked_info(folder: Path, kinds: Sequence[str], files: tuple[str, ...]) -> ModelInfo:
    """What `read_info` gives of a model directory, after a check of its kind and of all its files.

    Args:
        kinds: the values of `model.kind` that are allowed.
        files: names of the files that this kind of model needs.

    Raises:
        InputError: the path is not UTF-8, or the directory is of another format or kind.
        DamagedError: a file is missing, or differs from its checksum.
    """
    check_decodable(folder)
    if not (folder / CONFIG).is_file():
        _require(folder, files)  # one message names all that are missing
    info = read_info(folder)
    if info.config.model.kind not in kinds:
        raise InputError(
            f"{folder}: its model.kind is {info.config.model.kind}, but {' or '.join(kinds)} is needed here",
            "Give another model.",
        )
    _require(folder, files)
    verify_checksums(folder, files)
    return info


def stored_parameters(folder: Path) -> int:
    """Number of parameters in a model directory's file of weights, from its header; tied parameters count once.

    The running statistics of batch norm, which are in the file too, are not counted.

    Raises:
        DamagedError: the file is missing or damaged.
    """
    path = folder / WEIGHTS
    try:
        with safe_open(str(path), "pt") as file:
            names = [name for name in file.keys() if not name.endswith(STATISTICS)]  # noqa: SIM118
            return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path}: {error}", DAMAGED) from None


def _require(folder: Path, files: tuple[str, ...]) -> None:
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise DamagedError(
            f"{folder}: not a whole model directory: {', '.join(missing)} missing",
            "Give the folder of a trained model, such as `platform leaderboard` lists.",
        )


def load_network(make: Callable[[], Network], folder: Path, active_layers: ActiveLayers) -> Network:
    """Builds the network of a model directory on the CPU and loads its weights.

    Memory for the network is allocated only after names and shapes in the file of weights were found to fit.

    Args:
        make: builds the untrained network.
        active_layers: see `ModelInfo`.

    Raises:
        DamagedError: the weights or `active_layers` do not fit the network, or weights are not finite numbers.
    """
    with shapes_only():
        shapes = make()
    layers = {name: len(stack.layers) for name, stack in stacks(shapes).items()}
    if active_layers.keys() != layers.keys() or any((active_layers[name] or 1) > layers[name] for name in layers):
        raise DamagedError(f"{folder / CONFIG}: active_layers: {active_layers}, but the layers are {layers}", DAMAGED)
    path = folder / WEIGHTS
    remedy = "The file is damaged or of another model: use another copy."
    try:
        if difference := _difference(shapes, path):
            raise DamagedError(f"{path}: not the weights of this configuration: {difference}", remedy)
        network = make()
        load_model(network, str(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise DamagedError(f"{path}: {error}", remedy) from None
    if broken := not_finite(network):
        raise DamagedError(f"{path}: weights that are not finite numbers: {broken}", "Use another model.")
    for name, stack in stacks(network).items():
        stack.active_layers = active_layers[name]
    return network


def _difference(shapes: nn.Module, path: Path) -> str:
    """First difference between a network and the tensors in a file of weights, in words; empty if there is none.

    Tied parameters have several names in the network and one in the file.
    """
    expected = shapes.state_dict(keep_vars=True)
    with safe_open(str(path), "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    for name, size in found.items():
        if name not in expected:
            return f"{name} is not part of it"
        if size != tuple(expected[name].shape):
            return f"{name} is {size} there, but {tuple(expected[name].shape)} here"
    stored = {id(expected[name]) for name in found}
    return next((f"{name} is missing" for name, tensor in expected.items() if id(tensor) not in stored), "")


def not_finite(network: nn.Module) -> str:
    """Name of the first parameter with a NaN or infinite value; empty if all values are finite."""
    for name, parameter in network.named_parameters():
        # The sum is ten times faster and finite only if all values are; it may also overflow, so all values decide.
        if not parameter.sum().isfinite() and not parameter.isfinite().all():
            return name
    return ""


def copy_model(checkpoint: Path, folder: Path) -> Path:
    """Copies the model directory of a checkpoint to `folder` and returns `folder`.

    The state of the training is left out. An existing folder is replaced once the copy is complete.
    """
    with replaced(folder) as partial:
        for name in TrainedModel.FILES:
            shutil.copy2(checkpoint / name, partial / name)
        for name in (FEATURES, ERRORS, DECODING, CONFIDENCE):
            if (checkpoint / name).is_file():
                shutil.copy2(checkpoint / name, partial / name)
        copy_checksums(checkpoint, partial)
    return folder


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Content of a JSON file that holds a mapping with at least these keys.

    Raises:
        DamagedError: the file cannot be read, or has other content.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in dict(tree)]
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: not readable as JSON: {error}", DAMAGED) from None
    if missing:
        raise DamagedError(f"{path}: without {', '.join(missing)}", DAMAGED)
    return tree


def validated(tree: dict[str, Any], model: type[Tree], path: Path) -> Tree:
    """The content `tree` of the JSON file `path` as a pydantic `model`.

    Raises:
        DamagedError: values are missing or wrong.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise DamagedError(f"{path}: " + "; ".join(problems(error, model)), DAMAGED) from None
