"""Everything that a training run can vary, as one typed tree.

The tree is the configuration file, the keys that a search space may vary (`model.dropout`), the
parameters that are logged, and the documentation: each field says what it does and in which unit.
A value that cannot work is refused here, before anything is loaded or started.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainables.bounds import LARGEST_BEAM, LARGEST_SEED, LARGEST_WIDTH, MOST_EPOCHS, MOST_LAYERS, MOST_TOKENS
from trainables.document import Document
from trainables.errors import InputError

SMALLEST_FLEX_HEAD = 16  # what FlexAttention's kernels take


class Section(BaseModel):
    """A node of the tree: immutable, and closed to keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    train: str | None = Field(None, description="training split; default: the one named train*")
    validation: str | None = Field(None, description="validation split; default: the one named dev* or val*")
    speed_perturbation: float = Field(
        0.0, ge=0, le=0.9, description="0.1: each utterance plays at 0.9, 1.0 or 1.1 of its speed, drawn every epoch"
    )
    text: str | None = Field(
        None, description="more text for a language model: a file of lines, or a folder of the course's .npy"
    )


class Features(Section):
    normalization: Literal["global_mvn", "cepstral", "none"] = Field(
        "global_mvn", description="mean and variance per bin: over the training split, per utterance, or not at all"
    )
    num_feats: int | None = Field(
        None, ge=1, le=LARGEST_WIDTH, description="keep only the first bins; default: all of them"
    )


class SpecAugment(Section):
    frequency_masks: int = Field(0, ge=0, le=1000, description="frequency masks per utterance")
    frequency_width: int = Field(27, ge=0, le=LARGEST_WIDTH, description="widest frequency mask, in bins")
    time_masks: int = Field(0, ge=0, le=1000, description="time masks per utterance")
    time_width: float = Field(0.05, ge=0, le=1, description="widest time mask, as a share of the utterance")
    time_warp: int = Field(
        0, ge=0, le=1_000_000, description="how far a point inside the utterance may move, in frames"
    )


class Tokenizer(Section):
    kind: Literal["char", "bpe", "unigram"] = "char"
    vocab_size: int | None = Field(
        None, ge=8, le=MOST_TOKENS, description="tokens with the five special ones; subwords only"
    )

    @model_validator(mode="after")
    def _size_belongs_to_subwords(self) -> Tokenizer:
        if self.kind == "char" and self.vocab_size is not None:
            raise ValueError(f"vocab_size={self.vocab_size} has no meaning with kind=char: leave it out")
        if self.kind != "char" and self.vocab_size is None:
            raise ValueError(f"kind={self.kind} needs a vocab_size, such as 1000")
        return self


class Model(Section):
    kind: Literal["encoder_decoder", "language_model"] = Field(
        "encoder_decoder", description="language_model: the decoder alone, without cross-attention, on text"
    )
    d_model: int = Field(256, ge=8, le=LARGEST_WIDTH, description="width of the residual stream")
    heads: int = Field(4, ge=1, le=1000, description="attention heads; must divide d_model")
    encoder_layers: int = Field(2, ge=1, le=MOST_LAYERS)
    decoder_layers: int = Field(2, ge=1, le=MOST_LAYERS)
    feed_forward: int = Field(1024, ge=8, le=LARGEST_WIDTH, description="inner width of the feed-forward sublayers")
    ff_expansion: float | None = Field(
        None,
        gt=0,
        le=LARGEST_WIDTH,
        description="inner width as a multiple of d_model, rounded down; in place of feed_forward",
    )
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    gated: bool = Field(False, description="feed-forward with a gate: act(W x) * (V x), one matrix more")
    norm: Literal["layer", "rms"] = Field("layer", description="LayerNorm or RMSNorm")
    qk_norm: Literal["none", "layer", "rms"] = Field("none", description="norm of each head's queries and keys")
    qkv_bias: bool = Field(True, description="bias in the projections to queries, keys and values")
    attention: Literal["sdpa", "flex"] = Field(
        "sdpa", description="the encoder's kernel; flex: FlexAttention on a GPU, SDPA elsewhere"
    )
    reduction: Literal["conv", "conv2d", "lstm", "both", "pool", "stack"] = Field(
        "conv", description="how frames are reduced in time; both: a convolution, then an LSTM"
    )
    reduction_factor: Literal[2, 3, 4, 6, 8] = Field(2, description="input frames per encoder state")
    conv_channels: int = Field(256, ge=8, le=LARGEST_WIDTH, description="channels between the two convolutions")
    stack_norm: Literal["none", "layer", "rms"] = Field("none", description="norm of the stacked frames (stack)")
    embedding_norm: bool = Field(False, description="norm between time reduction and the first encoder layer")
    encoder_positions: Literal["none", "sinusoidal", "rotary", "relative"] = "sinusoidal"
    decoder_positions: Literal["none", "sinusoidal"] = "sinusoidal"
    first_position: int = Field(
        0, ge=0, le=1_000_000, description="number of the first sinusoidal position; Speech2Text: pad id + 1"
    )
    scale_states: bool = Field(False, description="scale the reduced frames by sqrt(d_model), as Speech2Text does")
    scale_embeddings: bool = Field(True, description="scale the token embeddings by sqrt(d_model)")
    tied_embeddings: bool = Field(False, description="share the token embedding with the output projection")
    dropout: float = Field(0.1, ge=0, lt=1)
    layer_drop: float = Field(0.0, ge=0, lt=1, description="chance that an utterance skips a layer in training")

    @property
    def inner_width(self) -> int:
        """Of the feed-forward sublayers."""
        return self.feed_forward if self.ff_expansion is None else int(self.ff_expansion * self.d_model)

    @model_validator(mode="after")
    def _parts_fit(self) -> Model:
        mistakes = []
        if self.d_model % self.heads:
            mistakes.append(f"heads must divide d_model, but got heads={self.heads}, d_model={self.d_model}")
        if self.d_model % 2:
            mistakes.append(f"d_model must be even for sinusoidal positions, but got d_model={self.d_model}")
        head = self.d_model // self.heads
        if self.encoder_positions == "rotary" and head % 2:
            mistakes.append(f"rotary positions need an even head size, but d_model / heads = {head}")
        if self.attention == "flex" and head < SMALLEST_FLEX_HEAD:
            mistakes.append(f"flex needs a head size of {SMALLEST_FLEX_HEAD} or more, but d_model / heads = {head}")
        if not 1 <= self.inner_width <= LARGEST_WIDTH:
            width = f"ff_expansion={self.ff_expansion} of d_model={self.d_model}"
            mistakes.append(f"{width} is {'less than 1' if self.inner_width < 1 else f'more than {LARGEST_WIDTH}'}")
        if self.stack_norm != "none" and self.reduction != "stack":
            mistakes.append(f"stack_norm={self.stack_norm} has no meaning with reduction={self.reduction}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


class Loss(Section):
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    ctc_weight: float = Field(0.2, ge=0, le=1000, description="loss = cross-entropy + ctc_weight x CTC")


Beta = Annotated[float, Field(ge=0, lt=1)]


class ParameterGroup(Section):
    """Parameters that are trained in their own way; of several patterns that match a name, the first counts."""

    pattern: str = Field(min_length=1, description="of parameter names, with * and ?: encoder.layers.0.*")
    lr_scale: float = Field(1.0, ge=0, description="their rate, as a multiple of the schedule's; 0 freezes them")
    weight_decay: float | None = Field(None, ge=0, description="default: as everywhere")


class Optimizer(Section):
    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(4e-4, gt=0, description="peak learning rate")
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    weight_decay: float = Field(0.01, ge=0, description="on matrices only: biases, norms and embeddings are spared")
    warmup: float = Field(0.1, ge=0, le=1, description="share of all updates spent raising the rate from 0")
    schedule: Literal["cosine", "cosine_restarts", "plateau", "noam", "one_cycle", "constant"] = Field(
        "cosine", description="what the rate does after warm-up"
    )
    final_lr: float = Field(0.01, ge=0, le=1, description="lowest rate, as a share of the peak")
    cycles: int = Field(3, ge=1, le=MOST_EPOCHS, description="cosine_restarts: cosines of equal length after warm-up")
    patience: int = Field(
        2, ge=0, le=MOST_EPOCHS, description="plateau: epochs without a lower validation loss before the rate falls"
    )
    factor: float = Field(0.5, gt=0, lt=1, description="plateau: what the rate is multiplied by")
    layer_decay: float = Field(1.0, gt=0, le=1, description="each layer's rate, as a multiple of the one above it")
    groups: tuple[ParameterGroup, ...] = ()


class Pretrained(Section):
    decoder: str | None = Field(None, description="model directory of a language model: the decoder begins with it")
    frozen_epochs: int = Field(
        0, ge=0, le=MOST_EPOCHS, description="epochs in which the weights from there do not change"
    )
    lr_scale: float = Field(1.0, gt=0, description="their rate after that, as a multiple of the schedule's")

    @model_validator(mode="after")
    def _needs_a_decoder(self) -> Pretrained:
        if self.decoder is None and (self.frozen_epochs or self.lr_scale != 1):
            raise ValueError("frozen_epochs and lr_scale need pretrained.decoder, a language model's directory")
        return self


class Stage(Section):
    """Epochs of progressive training, before the full model; what a stage leaves out is as in the full model."""

    epochs: int = Field(1, ge=1, le=MOST_EPOCHS)
    encoder_layers: int | None = Field(None, ge=1, le=MOST_LAYERS, description="the first so many take part")
    decoder_layers: int | None = Field(None, ge=1, le=MOST_LAYERS, description="the first so many take part")
    freeze: tuple[str, ...] = Field((), description="patterns of parameter names, such as encoder.layers.0.*")
    dropout: float | None = Field(None, ge=0, lt=1)
    label_smoothing: float | None = Field(None, ge=0, lt=1)
    data: float = Field(1.0, gt=0, le=1, description="share of the training utterances")


class Training(Section):
    epochs: int = Field(20, ge=1, le=MOST_EPOCHS)
    batch_seconds: float = Field(
        200.0, gt=0, le=1e6, description="audio per forward pass of all workers, padding included"
    )
    accumulation: int = Field(1, ge=1, le=1_000_000, description="forward passes per update")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    batch_tokens: int = Field(
        8192,
        ge=1,
        le=10**9,
        description="tokens per forward pass of a language model on all workers, padding included",
    )
    precision: Literal["auto", "float32", "bf16"] = Field("auto", description="auto: bf16 on GPUs that have it")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay per update of a running average of the weights, to which it rises; 0: no average",
    )
    average: int = Field(
        1,
        ge=1,
        le=1000,
        description="the model of the last epoch is the mean of so many best epochs' weights, stages left out",
    )
    stages: tuple[Stage, ...] = ()
    seed: int = Field(0, ge=0, le=LARGEST_SEED)

    @model_validator(mode="after")
    def _stages_end_before_training(self) -> Training:
        staged = sum(stage.epochs for stage in self.stages)
        if self.stages and staged >= self.epochs:
            raise ValueError(
                f"stages take {staged} epochs of {self.epochs}: at least one must be left for the full model"
            )
        return self


class Decoding(Section):
    """How validation, evaluation and transcription search for text."""

    method: Literal["greedy", "beam", "ctc", "ctc_beam", "joint"] = Field(
        "greedy", description="ctc: greedy; ctc_beam: prefix beam search; joint: attention and CTC in one beam search"
    )
    beam: int = Field(5, ge=1, le=LARGEST_BEAM, description="hypotheses kept for each utterance")
    temperature: float = Field(1.0, gt=0, le=1000, description="the decoder's logits are divided by it")
    repeat_penalty: float = Field(1.0, ge=1, le=1000, description="tokens already said lose by this factor; 1: none")
    length_penalty: float = Field(0.0, ge=0, le=10, description="a hypothesis is ranked by its score / length ^ this")
    ctc_weight: float = Field(0.3, ge=0, le=1, description="joint: (1 - w) x attention + w x CTC")
    candidates: int = Field(20, ge=1, le=MOST_TOKENS, description="joint: tokens of each hypothesis that CTC scores")
    language_model: str | None = Field(None, description="model directory of a language model to add (shallow fusion)")
    lm_weight: float = Field(0.0, ge=0, le=1e6, description="its weight")

    @model_validator(mode="after")
    def _weight_belongs_to_a_language_model(self) -> Decoding:
        if self.lm_weight and self.language_model is None:
            raise ValueError(f"lm_weight={self.lm_weight} needs decoding.language_model, a model directory")
        if self.lm_weight and self.method in ("ctc", "ctc_beam"):
            raise ValueError(f"lm_weight={self.lm_weight} has no meaning with method={self.method}: use joint or beam")
        return self


class Config(Section):
    """One training run, whole."""

    data: Data = Data()
    features: Features = Features()
    specaugment: SpecAugment = SpecAugment()
    tokenizer: Tokenizer = Tokenizer()
    model: Model = Model()
    pretrained: Pretrained = Pretrained()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    training: Training = Training()
    decoding: Decoding = Decoding()

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        mistakes = []
        frozen, epochs = self.pretrained.frozen_epochs, self.training.epochs
        if frozen >= epochs:
            mistakes.append(f"pretrained.frozen_epochs={frozen} of training.epochs={epochs}: one must be left at least")
        if self.model.kind == "language_model":
            if self.pretrained.decoder is not None:
                mistakes.append("pretrained.decoder has no meaning with model.kind=language_model")
            if any(stage.encoder_layers is not None for stage in self.training.stages):
                mistakes.append("a stage's encoder_layers have no meaning with model.kind=language_model")
        elif self.data.text is not None:
            mistakes.append(f"data.text={self.data.text} has no meaning with model.kind={self.model.kind}")
        for number, stage in enumerate(self.training.stages):
            for key in ("encoder_layers", "decoder_layers"):
                active, layers = getattr(stage, key), getattr(self.model, key)
                if active is not None and active > layers:
                    mistakes.append(f"training.stages.{number}: {key}={active} of model.{key}={layers}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


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


def problems(error: ValidationError, tree: type[BaseModel] | None = None) -> list[str]:
    """One line for each mistake that pydantic found: key, reason, value; `tree` is what was read, if not a Config."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "configuration"
        reason = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            reason = f"unknown key; the keys here are {', '.join(known_keys(item['loc'][:-1], tree))}"
        elif item["type"] != "value_error":
            reason += f", but got {item['input']!r}"
        lines.append(f"{key}: {reason}")
    return lines


def known_keys(path: tuple[int | str, ...] = (), tree: type[BaseModel] | None = None) -> list[str]:
    """The keys of the section at `path`, for messages; empty where there is no such section."""
    section: Any = tree or Config
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
    """Reads a YAML or JSON configuration file.

    Raises:
        InputError: it cannot be read, or holds mistakes; the message names their lines or keys.
    """
    try:
        document = Document(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}", "Give a configuration file.") from None
    document.check()
    if not isinstance(document.tree, Mapping):
        raise InputError(f"{path}: a configuration is a mapping of sections", f"Start from: {', '.join(known_keys())}.")
    return parse_config(document.tree, str(path))
