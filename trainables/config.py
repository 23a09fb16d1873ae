"""Everything that a training run can vary, as one typed tree.

The tree is the configuration file, the keys that a search space may vary (`model.dropout`), the
parameters that are logged, and the documentation: each field says what it does and in which unit.
A value that cannot work is refused here, before anything is loaded or started.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainables.errors import InputError


class Section(BaseModel):
    """A node of the tree: immutable, and closed to keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    train: str | None = Field(None, description="training split; default: the one named train*")
    validation: str | None = Field(None, description="validation split; default: the one named dev* or val*")


class Features(Section):
    normalization: Literal["global_mvn", "cepstral", "none"] = Field(
        "global_mvn", description="mean and variance per bin: over the training split, per utterance, or not at all"
    )
    num_feats: int | None = Field(None, ge=1, description="keep only the first bins; default: all of them")


class SpecAugment(Section):
    frequency_masks: int = Field(0, ge=0, description="frequency masks per utterance")
    frequency_width: int = Field(27, ge=0, description="widest frequency mask, in bins")
    time_masks: int = Field(0, ge=0, description="time masks per utterance")
    time_width: float = Field(0.05, ge=0, le=1, description="widest time mask, as a share of the utterance")


class Tokenizer(Section):
    kind: Literal["char", "bpe", "unigram"] = "char"
    vocab_size: int | None = Field(None, ge=8, description="tokens with the five special ones; subwords only")

    @model_validator(mode="after")
    def _size_belongs_to_subwords(self) -> Tokenizer:
        if self.kind == "char" and self.vocab_size is not None:
            raise ValueError(f"vocab_size={self.vocab_size} has no meaning with kind=char: leave it out")
        if self.kind != "char" and self.vocab_size is None:
            raise ValueError(f"kind={self.kind} needs a vocab_size, such as 1000")
        return self


class Model(Section):
    d_model: int = Field(256, ge=8, description="width of the residual stream")
    heads: int = Field(4, ge=1, description="attention heads; must divide d_model")
    encoder_layers: int = Field(2, ge=1)
    decoder_layers: int = Field(2, ge=1)
    feed_forward: int = Field(1024, ge=8, description="inner width of the feed-forward sublayers")
    reduction: Literal["conv"] = Field("conv", description="how frames are reduced in time")
    reduction_factor: Literal[2, 3, 4, 6, 8] = Field(2, description="input frames per encoder state")
    conv_channels: int = Field(256, ge=8, description="channels between the two convolutions")
    encoder_positions: bool = Field(True, description="add sinusoidal positions to the encoder's input")
    decoder_positions: bool = Field(True, description="add sinusoidal positions to the token embeddings")
    tied_embeddings: bool = Field(False, description="share the token embedding with the output projection")
    dropout: float = Field(0.1, ge=0, lt=1)
    layer_drop: float = Field(0.0, ge=0, lt=1, description="chance that an utterance skips a layer in training")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Model:
        if self.d_model % self.heads:
            raise ValueError(f"heads must divide d_model, but got heads={self.heads}, d_model={self.d_model}")
        if self.d_model % 2:
            raise ValueError(f"d_model must be even for sinusoidal positions, but got d_model={self.d_model}")
        return self


class Loss(Section):
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    ctc_weight: float = Field(0.2, ge=0, description="loss = cross-entropy + ctc_weight x CTC")


Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Section):
    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(4e-4, gt=0, description="peak learning rate")
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    weight_decay: float = Field(0.01, ge=0, description="on matrices only: biases, norms and embeddings are spared")
    warmup: float = Field(0.1, ge=0, le=1, description="share of all updates spent raising the rate from 0")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="what the rate does after warm-up")
    final_lr: float = Field(0.01, ge=0, le=1, description="rate at the last update, as a share of the peak")


class Training(Section):
    epochs: int = Field(20, ge=1)
    batch_seconds: float = Field(200.0, gt=0, description="audio per forward pass of all workers, padding included")
    accumulation: int = Field(1, ge=1, description="forward passes per update")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    precision: Literal["auto", "float32", "bf16"] = Field("auto", description="auto: bf16 on GPUs that have it")
    seed: int = Field(0, ge=0)


class Config(Section):
    """One training run, whole."""

    data: Data = Data()
    features: Features = Features()
    specaugment: SpecAugment = SpecAugment()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `("model.dropout", 0.1)` for every leaf of a nested mapping."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in leaves.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def problems(error: ValidationError) -> list[str]:
    """One line for each mistake that pydantic found: key, reason, value."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "configuration"
        reason = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            reason = f"unknown key; the keys here are {', '.join(known_keys(item['loc'][:-1]))}"
        elif item["type"] != "value_error":
            reason += f", but got {item['input']!r}"
        lines.append(f"{key}: {reason}")
    return lines


def known_keys(path: tuple[int | str, ...] = ()) -> list[str]:
    """The keys of the section at `path`, for messages; empty where there is no such section."""
    section: Any = Config
    for part in path:
        field = section.model_fields.get(part)
        section = field.annotation if field else None
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return []
    return list(section.model_fields)


def parse_config(tree: Mapping[str, Any], source: str) -> Config:
    """Checks a tree of plain values; `source` is the file or place to name in the error."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"{source}: " + "; ".join(problems(error)), "Correct the keys named above.") from None


def load_config(path: Path) -> Config:
    """Reads a YAML or JSON configuration file."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}", "Give a configuration file.") from None
    if not isinstance(tree, Mapping):
        raise InputError(f"{path}: a configuration is a mapping of sections", f"Start from: {', '.join(known_keys())}.")
    return parse_config(tree, str(path))
