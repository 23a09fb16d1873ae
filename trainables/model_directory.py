"""A trained model with what it needs around it, and the directory that holds it.

Three files are common to every kind: `config.json`, `tokenizer.model` and `model.safetensors`; a recogniser adds
`features.json` (recognizer.py), and may have the errors of its last validation, `errors.json` (utterance_errors.py).
While training may go on, `training.json` and `optimizer.safetensors` stand beside them (checkpoint.py). Nothing in a
directory is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from trainables.config import Config, parse_config
from trainables.data.tokenizer import Tokenizer
from trainables.errors import InputError
from trainables.folders import replaced
from trainables.models.speech_transformer import stacks
from trainables.utterance_errors import ERRORS

FORMAT = 2
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.model", "model.safetensors"
FEATURES = "features.json"  # a recogniser's
# In a registered model: the directory, and beside it MLflow's file and the language model that it listens to.
MODEL, MLMODEL, OWN_LANGUAGE_MODEL = "model", "MLmodel", "language_model"


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
        """Writes the model directory's files into an existing folder."""
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
    _require(folder, (CONFIG,))
    tree = read_json(folder / CONFIG, "config")["config"]
    return parse_config(tree, str(folder / CONFIG)).model.kind


def read_about(folder: Path, kind: str, files: tuple[str, ...]) -> tuple[Config, str]:
    """The configuration and the corpus hash of a model directory of this kind (`model.kind`).

    Raises:
        InputError: a file is missing, the directory is of another format or kind, or damaged.
    """
    _require(folder, (CONFIG,) if (folder / CONFIG).is_file() else files)
    format = read_json(folder / CONFIG, "format")["format"]
    if format != FORMAT:
        raise InputError(
            f"{folder / CONFIG}: model format {format!r}, but this version reads {FORMAT}",
            "Train the model again, or use the version that wrote it.",
        )
    about = read_json(folder / CONFIG, "config", "corpus_hash")
    config = parse_config(about["config"], str(folder / CONFIG))
    if config.model.kind != kind:
        raise InputError(
            f"{folder}: its model.kind is {config.model.kind}, but {kind} is needed here", "Give another model."
        )
    _require(folder, files)
    return config, about["corpus_hash"]


def _require(folder: Path, files: tuple[str, ...]) -> None:
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: not a whole model directory: {', '.join(missing)} missing",
            "Give the folder of a trained model, such as `platform leaderboard` lists.",
        )


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fills a model with a directory's weights.

    A checkpoint of progressive training may have layers that take no part yet: none do in the model then.

    Raises:
        InputError: the file is damaged, or of a model of another shape.
    """
    active = read_json(folder / CONFIG, "active_layers")["active_layers"]
    for name, stack in stacks(model).items():
        stack.active_layers = active[name]
    try:
        load_model(model, str(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{folder / WEIGHTS}: {error}", "The file is damaged or of another model.") from None


def with_own_language_model(config: Config, folder: Path) -> Config:
    """The configuration of a registered model, which has the language model that it listens to beside it.

    The path in it is that of the machine where it was trained.
    """
    if not (folder.with_name(MLMODEL).is_file() and folder.with_name(OWN_LANGUAGE_MODEL).is_dir()):
        return config
    decoding = config.decoding.model_copy(update={"language_model": str(folder.with_name(OWN_LANGUAGE_MODEL))})
    return config.model_copy(update={"decoding": decoding})


def copy_model(checkpoint: Path, folder: Path) -> Path:
    """Copies a checkpoint's model directory, without what only training needs, to `folder`; returns it.

    The errors of its validation go with it.

    A folder of an earlier model is replaced once the copy is whole.
    """
    with replaced(folder) as partial:
        for name in TrainedModel.FILES:
            shutil.copy2(checkpoint / name, partial / name)
        for name in (FEATURES, ERRORS):
            if (checkpoint / name).is_file():
                shutil.copy2(checkpoint / name, partial / name)
    return folder


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """A mapping that has these keys.

    Raises:
        InputError: the file is damaged.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in keys if key not in dict(tree)]
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON: {error}", "The file is damaged; use another copy.") from None
    if missing:
        raise InputError(f"{path}: without {', '.join(missing)}", "The file is damaged; use another copy.")
    return tree
