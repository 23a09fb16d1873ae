"""A trained model with what it needs around it, and the directory that holds it.

Three files are common to every kind: `config.json`, `tokenizer.model` and `model.safetensors`; a recogniser adds
`features.json` (recognizer.py), and may have the errors of its last validation, `errors.json` (utterance_errors.py).
`checksums.json` has the SHA-256 of each; it is written last, and checked at loading (checksums.py). While training may
go on, `training.json` and `optimizer.safetensors` stand beside them (checkpoint.py). Nothing in a directory is ever
unpickled.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

import torch
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from trainables.checksums import copy_checksums, record_checksums, verify_checksums
from trainables.config import Config
from trainables.config_parsing import problems
from trainables.data.text.tokenizer import Tokenizer
from trainables.errors import DamagedError, DivergedError, InputError
from trainables.folders import check_decodable, replaced
from trainables.models.shapes import shapes_only
from trainables.models.speech_transformer import stacks

FORMAT = 2
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.model", "model.safetensors"
FEATURES = "features.json"  # a recogniser's
ERRORS = "errors.json"  # those of its last validation, where they were kept
DAMAGED = "The file is damaged; use another copy."

Network = TypeVar("Network", bound=nn.Module)
ActiveLayers = dict[str, Annotated[int, Field(ge=1, strict=True)] | None]


class About(BaseModel):
    """Content of `config.json`.

    Attributes:
        corpus_hash: of the corpus that the model was trained on.
        active_layers: how many layers take part, by the name of the stack; None: all, as outside progressive training.
    """

    config: Config
    corpus_hash: str = Field(min_length=1)
    active_layers: ActiveLayers


@dataclass
class TrainedModel:
    """What every kind of trained model has.

    Args:
        corpus_hash: the corpus that it was trained on.
    """

    FILES: ClassVar[tuple[str, ...]] = (CONFIG, TOKENIZER, WEIGHTS)

    config: Config
    model: nn.Module
    tokenizer: Tokenizer
    corpus_hash: str

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def parameters(self) -> int:
        """The number of parameters, tied ones once."""
        return sum(p.numel() for p in self.model.parameters())

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bf16 where the configuration says so, or leaves it open and the GPU has it."""
        precision = self.config.training.precision
        native = self.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        enabled = precision == "bf16" or (precision == "auto" and native)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Reads a model directory; each kind knows how."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Writes the model directory's files into an existing folder, their checksums last.

        Raises:
            DivergedError: a weight is not a finite number.
        """
        self.write(folder)
        record_checksums(folder, self.FILES)

    def write(self, folder: Path) -> None:
        """Writes `FILES` into an existing folder, without their checksums."""
        broken = not_finite(self.model)
        if broken:
            raise DivergedError(f"the model has weights that are not finite numbers: {broken}")
        about = {
            "format": FORMAT,
            "corpus_hash": self.corpus_hash,
            "parameters": self.parameters,
            "active_layers": {name: stack.active_layers for name, stack in stacks(self.model).items()},
            "config": self.config.model_dump(mode="json"),
        }
        (folder / CONFIG).write_text(json.dumps(about, indent=2), encoding="utf-8")
        self.tokenizer.save(folder / TOKENIZER)
        save_model(self.model, str(folder / WEIGHTS))


def kind_of(folder: Path) -> str:
    """The kind of model (`model.kind`) in a model directory.

    Raises:
        InputError: it is none.
    """
    return _about(folder, (CONFIG,)).config.model.kind


def corpus_hash_of(folder: Path) -> str:
    """The hash of the corpus that the model in a model directory was trained on.

    Raises:
        InputError: it is no model directory.
    """
    return _about(folder, (CONFIG,)).corpus_hash


def read_about(folder: Path, kind: str, files: tuple[str, ...]) -> About:
    """What `config.json` says of a model directory, once all of the directory's `files` are known to be whole.

    Args:
        kind: the `model.kind` that is needed.

    Raises:
        InputError: the directory is of another format or kind.
        DamagedError: a file is missing or not what was saved.
    """
    about = _about(folder, files)
    if about.config.model.kind != kind:
        raise InputError(
            f"{folder}: its model.kind is {about.config.model.kind}, but {kind} is needed here", "Give another model."
        )
    _require(folder, files)
    verify_checksums(folder, files)
    return about


def _about(folder: Path, files: tuple[str, ...]) -> About:
    """The content of `config.json`; where that is missing, the error names all of `files` that are."""
    check_decodable(folder)
    path = folder / CONFIG
    _require(folder, (CONFIG,) if path.is_file() else files)
    tree = read_json(path, "format")
    if tree["format"] != FORMAT:
        raise InputError(
            f"{path}: model format {tree['format']!r}, but this version reads {FORMAT}",
            "Train the model again, or use the version that wrote it.",
        )
    try:
        return About.model_validate(tree)
    except ValidationError as error:
        raise DamagedError(f"{path}: " + "; ".join(problems(error, About)), DAMAGED) from None


def _require(folder: Path, files: tuple[str, ...]) -> None:
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise DamagedError(
            f"{folder}: not a whole model directory: {', '.join(missing)} missing",
            "Give the folder of a trained model, such as `platform leaderboard` lists.",
        )


def load_network(make: Callable[[], Network], folder: Path, active_layers: ActiveLayers) -> Network:
    """The network of a model directory on the CPU, with its weights.

    Nothing is allocated before the names and shapes in the weights' file are known to be those of the configuration.

    Args:
        make: builds the untrained network.
        active_layers: see `About`.

    Raises:
        DamagedError: the weights or `active_layers` do not fit the network, or weights are not finite numbers.
    """
    with shapes_only():
        shape = make()
    layers = {name: len(stack.layers) for name, stack in stacks(shape).items()}
    if active_layers.keys() != layers.keys() or any((active_layers[name] or 1) > layers[name] for name in layers):
        raise DamagedError(f"{folder / CONFIG}: active_layers: {active_layers}, but the layers are {layers}", DAMAGED)
    path = folder / WEIGHTS
    remedy = "The file is damaged or of another model: use another copy."
    try:
        differing = _differing(shape, path)
        if differing:
            raise DamagedError(f"{path}: not the weights of this configuration: {differing}", remedy)
        network = make()
        load_model(network, str(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise DamagedError(f"{path}: {error}", remedy) from None
    broken = not_finite(network)
    if broken:
        raise DamagedError(f"{path}: weights that are not finite numbers: {broken}", "Use another model.")
    for name, stack in stacks(network).items():
        stack.active_layers = active_layers[name]
    return network


def _differing(shape: nn.Module, path: Path) -> str:
    """The first tensor that a weights' file has otherwise than the network, in words; empty where all agree.

    Of names that share a tensor (tied embeddings) the file has one.
    """
    expected = shape.state_dict(keep_vars=True)
    with safe_open(str(path), "pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    held = {id(expected[name]) for name in found if name in expected}
    for name, size in found.items():
        if name not in expected:
            return f"{name} is not part of it"
        if size != tuple(expected[name].shape):
            return f"{name} is {size} there, but {tuple(expected[name].shape)} here"
    return next((f"{name} is missing" for name, tensor in expected.items() if id(tensor) not in held), "")


def not_finite(network: nn.Module) -> str:
    """The name of the first parameter that holds NaN or an infinity; empty where none does."""
    for name, parameter in network.named_parameters():
        # A sum is ten times faster, and finite only where all are; it may overflow where all are finite, too.
        if not parameter.sum().isfinite() and not parameter.isfinite().all():
            return name
    return ""


def copy_model(checkpoint: Path, folder: Path) -> Path:
    """Copies a checkpoint's model directory, without what only training needs, to `folder`; returns it.

    The errors of its validation and the checksums go with it. A folder of an earlier model is replaced once the copy
    is whole.
    """
    with replaced(folder) as partial:
        for name in TrainedModel.FILES:
            shutil.copy2(checkpoint / name, partial / name)
        for name in (FEATURES, ERRORS):
            if (checkpoint / name).is_file():
                shutil.copy2(checkpoint / name, partial / name)
        copy_checksums(checkpoint, partial)
    return folder


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """A mapping that has these keys.

    Raises:
        DamagedError: the file cannot be read, or holds something else.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in dict(tree)]
    except (OSError, TypeError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: not readable as JSON: {error}", DAMAGED) from None
    if missing:
        raise DamagedError(f"{path}: without {', '.join(missing)}", DAMAGED)
    return tree
