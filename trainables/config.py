"""The configuration of a training run, as one typed tree.

The tree defines the configuration file, the keys that a search space may vary (`model.dropout`), the logged
parameters, and the reference in `docs/configuration.md`. Invalid values are refused when the tree is built, before
anything is loaded. `config_parsing.py` reads it from files.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainables.bounds import LARGEST_BEAM, LARGEST_SEED, LARGEST_WIDTH, MOST_EPOCHS, MOST_LAYERS, MOST_TOKENS

SMALLEST_FLEX_HEAD = 16  # what FlexAttention's kernels take


Width = Annotated[int, Field(ge=8, le=LARGEST_WIDTH)]
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
Share = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class ConfigSection(BaseModel):
    """Base of all sections: immutable; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(ConfigSection):
    """Splits and text to train on."""

    train: str | None = Field(None, description="training split; default: the only train*")
    validation: str | None = Field(None, description="validation split; default: dev-clean, or the only dev* or val*")
    speed_perturbation: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="0.1: in each epoch, an utterance has 0.9, 1.0 or 1.1 times its speed, drawn at random",
    )
    text: str | None = Field(
        None,
        description="more text for a language model: a file (one text a line) or a folder of .npy files",
    )


class Features(ConfigSection):
    """Preprocessing of the acoustic features."""

    normalization: Literal["global_mvn", "cepstral", "none"] = Field(
        "global_mvn",
        description="mean and variance per mel bin: of the training split, of the utterance, or none",
    )
    num_feats: int | None = Field(
        None, ge=1, le=LARGEST_WIDTH, description="mel bins to keep, lowest first; default: all"
    )


class SpecAugment(ConfigSection):
    """SpecAugment (Park et al., 2019): masks and time warping of the training features."""

    frequency_masks: int = Field(0, ge=0, le=1000, description="frequency masks per utterance")
    frequency_width: int = Field(27, ge=0, le=LARGEST_WIDTH, description="largest frequency mask, in mel bins")
    time_masks: int = Field(0, ge=0, le=1000, description="time masks per utterance")
    time_width: Share = Field(0.05, description="largest time mask, as a share of the utterance")
    time_warp: int = Field(0, ge=0, le=1_000_000, description="largest shift of the warped point, in frames; 0: none")


class Tokenizer(ConfigSection):
    """SentencePiece tokenizer, trained on the training transcripts."""

    kind: Literal["char", "bpe", "unigram"] = Field(
        "char", description="characters, byte-pair merges or a unigram model"
    )
    vocab_size: int | None = Field(
        None, ge=8, le=MOST_TOKENS, description="tokens, five special ones included; bpe and unigram only"
    )

    @model_validator(mode="after")
    def _size_belongs_to_subwords(self) -> Tokenizer:
        if self.kind == "char" and self.vocab_size is not None:
            raise ValueError(f"vocab_size={self.vocab_size} has no meaning with kind=char: leave it out")
        if self.kind != "char" and self.vocab_size is None:
            raise ValueError(f"kind={self.kind} needs a vocab_size, such as 1000")
        return self


class Model(ConfigSection):
    """Architecture of the network."""

    kind: Literal["encoder_decoder", "language_model"] = Field(
        "encoder_decoder",
        description="attention and CTC, or the decoder alone, without cross-attention, on text",
    )
    d_model: Width = Field(256, description="width of the residual stream")
    heads: int = Field(4, ge=1, le=1000, description="attention heads of each layer; must divide d_model")
    encoder_layers: Layers = Field(2, description="Transformer layers of the encoder")
    decoder_layers: Layers = Field(2, description="Transformer layers of the decoder")
    feed_forward: Width = Field(1024, description="inner width of the feed-forward sublayers")
    ff_expansion: float | None = Field(
        None,
        gt=0,
        le=LARGEST_WIDTH,
        description="feed_forward as a multiple of d_model, rounded down; replaces feed_forward",
    )
    activation: Literal["gelu", "relu", "silu"] = Field(
        "gelu", description="activation of the feed-forward sublayers; silu with gated is SwiGLU"
    )
    gated: bool = Field(
        False, description="feed-forward with a gate, act(W x) * (V x), one matrix more; with silu: SwiGLU"
    )
    norm: Literal["layer", "rms"] = Field("layer", description="LayerNorm or RMSNorm")
    qk_norm: Literal["none", "layer", "rms"] = Field("none", description="norm of each head's queries and keys")
    qkv_bias: bool = Field(True, description="bias in the query, key and value projections")
    attention: Literal["sdpa", "flex"] = Field(
        "sdpa", description="attention kernel of the encoder; flex: FlexAttention on a GPU, SDPA elsewhere"
    )
    reduction: Literal["conv", "conv2d", "lstm", "both", "pool", "stack"] = Field(
        "conv", description="subsampling in time before the encoder; both: a convolution, then an LSTM"
    )
    reduction_factor: Literal[2, 3, 4, 6, 8] = Field(2, description="feature frames per encoder frame")
    conv_channels: Width = Field(256, description="channels between the two convolutions of the subsampling")
    stack_norm: Literal["none", "layer", "rms"] = Field(
        "none", description="norm of the stacked frames with reduction=stack"
    )
    embedding_norm: bool = Field(False, description="norm between subsampling and the first encoder layer")
    encoder_positions: Literal["none", "sinusoidal", "rotary", "relative"] = Field(
        "sinusoidal", description="positions in the encoder"
    )
    decoder_positions: Literal["none", "sinusoidal"] = Field("sinusoidal", description="positions in the decoder")
    first_position: int = Field(
        0, ge=0, le=1_000_000, description="first sinusoidal position; Speech2Text: padding id + 1"
    )
    scale_states: bool = Field(False, description="scale the subsampled frames by sqrt(d_model), as Speech2Text does")
    scale_embeddings: bool = Field(True, description="scale the token embeddings by sqrt(d_model)")
    tied_embeddings: bool = Field(False, description="share the token embedding with the output projection")
    dropout: Probability = Field(0.1, description="dropout probability in all layers")
    layer_drop: Probability = Field(0.0, description="probability that an utterance skips a layer in training")

    @property
    def inner_width(self) -> int:
        """Inner width of the feed-forward sublayers."""
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


class Loss(ConfigSection):
    """Training loss: cross-entropy of the decoder + ctc_weight x CTC loss of the encoder."""

    label_smoothing: Probability = Field(0.1, description="label smoothing of the cross-entropy")
    ctc_weight: float = Field(0.2, ge=0, le=1000, description="weight of the CTC loss; cross-entropy has weight 1")


class ParameterGroup(ConfigSection):
    """Learning rate and weight decay of some parameters; of several matching groups, the first counts."""

    pattern: str = Field(min_length=1, description="parameter names, with * and ?: encoder.layers.0.*")
    lr_scale: float = Field(1.0, ge=0, description="multiple of the scheduled learning rate; 0: frozen")
    weight_decay: float | None = Field(None, ge=0, description="default: optimizer.weight_decay")


class Optimizer(ConfigSection):
    """Optimizer and learning rate schedule."""

    name: Literal["adamw", "adam", "sgd"] = Field("adamw", description="optimizer")
    lr: float = Field(4e-4, gt=0, description="peak learning rate")
    betas: tuple[Probability, Probability] = Field(
        (0.9, 0.98), description="decay of Adam's two running averages; sgd: momentum first"
    )
    weight_decay: float = Field(0.01, ge=0, description="weight decay of matrices; not of biases, norms or embeddings")
    warmup: Share = Field(0.1, description="share of the updates in which the learning rate rises from 0")
    schedule: Literal["cosine", "cosine_restarts", "plateau", "noam", "one_cycle", "constant"] = Field(
        "cosine", description="learning rate schedule after warm-up"
    )
    final_lr: Share = Field(0.01, description="lowest learning rate as a share of the peak")
    cycles: Epochs = Field(3, description="cosine_restarts: number of cycles of equal length")
    patience: int = Field(
        2, ge=0, le=MOST_EPOCHS, description="plateau: epochs without a lower validation loss before the rate falls"
    )
    factor: float = Field(0.5, gt=0, lt=1, description="plateau: factor by which the learning rate falls")
    layer_decay: float = Field(1.0, gt=0, le=1, description="a layer's learning rate as a multiple of the next layer's")
    groups: tuple[ParameterGroup, ...] = Field((), description="parameter groups: pattern, lr_scale, weight_decay")


class Pretrained(ConfigSection):
    """Pretrained weights of the decoder."""

    decoder: str | None = Field(None, description="model directory of a language model that initialises the decoder")
    frozen_epochs: int = Field(0, ge=0, le=MOST_EPOCHS, description="epochs in which the pretrained weights are frozen")
    lr_scale: float = Field(1.0, gt=0, description="multiple of the scheduled learning rate for pretrained weights")

    @model_validator(mode="after")
    def _needs_a_decoder(self) -> Pretrained:
        if self.decoder is None and (self.frozen_epochs or self.lr_scale != 1):
            raise ValueError("frozen_epochs and lr_scale need pretrained.decoder, a language model's directory")
        return self


class Stage(ConfigSection):
    """A stage of progressive training before the full model is trained; default: the run's own values."""

    epochs: Epochs = Field(1, description="length of the stage in epochs")
    encoder_layers: Layers | None = Field(None, description="number of encoder layers in use, from the first on")
    decoder_layers: Layers | None = Field(None, description="number of decoder layers in use, from the first on")
    freeze: tuple[str, ...] = Field((), description="frozen parameters, with * and ?: encoder.layers.0.*")
    dropout: Probability | None = Field(None, description="dropout probability in the stage")
    label_smoothing: Probability | None = Field(None, description="label smoothing in the stage")
    data: float = Field(1.0, gt=0, le=1, description="share of the training utterances in use")


class Training(ConfigSection):
    """Length, batches and precision of the training, and averaging of weights."""

    epochs: Epochs = Field(20, description="passes over the training split, stages included")
    batch_seconds: float = Field(
        200.0, gt=0, le=1e6, description="seconds of audio per forward pass of all workers, with padding"
    )
    accumulation: int = Field(1, ge=1, le=1_000_000, description="forward passes per update")
    clip_norm: float = Field(1.0, gt=0, description="gradient clipping: largest gradient norm")
    batch_tokens: int = Field(
        8192,
        ge=1,
        le=10**9,
        description="language model: tokens per forward pass of all workers, with padding",
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="float type of the forward pass; auto: bf16 on GPUs that have it"
    )
    ema: Probability = Field(
        0.0,
        description="decay per update of the moving average of the weights, after a gradual rise; 0: no average",
    )
    average: int = Field(
        1,
        ge=1,
        le=1000,
        description="number of best epochs of the full model whose weights are averaged into the final model",
    )
    stages: tuple[Stage, ...] = Field((), description="stages of progressive training before the full model")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of initialisation, batches and augmentation")

    @model_validator(mode="after")
    def _stages_end_before_training(self) -> Training:
        staged = sum(stage.epochs for stage in self.stages)
        if self.stages and staged >= self.epochs:
            raise ValueError(
                f"stages take {staged} epochs of {self.epochs}: at least one must be left for the full model"
            )
        return self


class Decoding(ConfigSection):
    """Decoding method in validation, evaluation and transcription."""

    method: Literal["greedy", "beam", "ctc", "ctc_beam", "joint"] = Field(
        "greedy",
        description="ctc: greedy; ctc_beam: prefix beam search; joint: beam search with attention and CTC",
    )
    beam: int = Field(5, ge=1, le=LARGEST_BEAM, description="beam size: hypotheses kept for each utterance")
    temperature: float = Field(1.0, gt=0, le=1000, description="temperature by which the decoder's logits are divided")
    repeat_penalty: float = Field(
        1.0, ge=1, le=1000, description="factor by which tokens already in the hypothesis are penalised; 1: none"
    )
    length_penalty: float = Field(0.0, ge=0, le=10, description="hypotheses are ranked by score / length ^ penalty")
    ctc_weight: Share = Field(0.3, description="joint: weight w in (1 - w) x attention + w x CTC")
    candidates: int = Field(20, ge=1, le=MOST_TOKENS, description="joint: tokens of each hypothesis scored by CTC")
    language_model: str | None = Field(None, description="model directory of a language model for shallow fusion")
    lm_weight: float = Field(0.0, ge=0, le=1e6, description="weight of the language model's score in shallow fusion")

    @model_validator(mode="after")
    def _weight_belongs_to_a_language_model(self) -> Decoding:
        if self.lm_weight and self.language_model is None:
            raise ValueError(f"lm_weight={self.lm_weight} needs decoding.language_model, a model directory")
        if self.lm_weight and self.method in ("ctc", "ctc_beam"):
            raise ValueError(f"lm_weight={self.lm_weight} has no meaning with method={self.method}: use joint or beam")
        return self


class Config(ConfigSection):
    """Configuration of one training run."""

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
