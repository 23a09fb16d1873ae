"""The section `model` of a configuration: the architecture of the network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainables.bounds import LARGEST_WIDTH, MOST_EPOCHS, MOST_LAYERS

LARGEST_CAUSAL_KERNEL = 2  # of a conformer's convolution, which sees (kernel - 1) // 2 states ahead
SMALLEST_FLEX_HEAD = 16  # what FlexAttention's kernels take
STRIDES = {1: (1, 1), 2: (2, 1), 3: (3, 1), 4: (2, 2), 6: (3, 2), 8: (4, 2)}
"""Strides of the two steps of a convolutional or recurrent subsampling, by its factor."""
ANY_FACTOR = ("pool", "stack")  # kinds of subsampling in one step

RECOGNISERS = ("encoder_decoder", "transcript_editor")
"""Kinds of model that transcribe speech: ranked by CER, where language models are ranked by perplexity."""

Width = Annotated[int, Field(ge=1, le=LARGEST_WIDTH)]
Layers = Annotated[int, Field(ge=1, le=MOST_LAYERS)]
Epochs = Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
Share = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Multiplier = Annotated[float, Field(gt=0, le=1e6)]


class ConfigSection(BaseModel):
    """Base of all sections: immutable; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Blocks(ConfigSection):
    """Shape of a stack of Transformer layers, and of the embeddings around it."""

    d_model: Width = Field(256, description="width of the residual stream")
    heads: int = Field(
        4, ge=1, le=1000, description="attention heads of each layer; must divide d_model, unless head_size is set"
    )
    head_size: int | None = Field(None, ge=1, le=LARGEST_WIDTH, description="width of a head; default: d_model / heads")
    kv_heads: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="heads of keys and values in self-attention, shared by groups of queries; default: heads",
    )
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
    gated: bool = Field(False, description="feed-forward with a gate, act(W x) * (V x); with silu: SwiGLU")
    norm: Literal["layer", "rms"] = Field("layer", description="LayerNorm or RMSNorm")
    norm_epsilon: float = Field(1e-5, gt=0, le=1, description="epsilon of the norms")
    qk_norm: Literal["none", "layer", "rms"] = Field("none", description="norm of each head's queries and keys")
    qkv_bias: bool = Field(True, description="bias in the query, key and value projections")
    bias: bool = Field(True, description="bias in the attention's output projection and in the feed-forward sublayers")
    scale_embeddings: bool = Field(True, description="scale the token embeddings by sqrt(d_model)")
    tied_embeddings: bool = Field(False, description="share the token embedding with the output projection")
    embedding_multiplier: Multiplier = Field(1.0, description="factor of the input of the layers over tokens")
    attention_multiplier: Multiplier | None = Field(
        None, description="factor of the attention scores; default: 1 / sqrt(head size)"
    )
    residual_multiplier: Multiplier = Field(1.0, description="factor of each sublayer's output")
    logits_scaling: Multiplier = Field(1.0, description="divisor of the logits over tokens")
    rotary_base: float = Field(10_000.0, gt=1, le=1e12, description="base of the wavelengths of rotary positions")
    sinusoids: Literal["interleaved", "concatenated"] = Field(
        "interleaved",
        description="layout of sinusoidal positions; interleaved: each rate's sine and cosine side by side, as in the "
        "first Transformer; concatenated: all sines, then all cosines, as in Speech2Text",
    )
    dropout: Probability = Field(0.1, description="dropout probability in all layers")
    layer_drop: Probability = Field(0.0, description="probability that an utterance skips a layer in training")

    @property
    def inner_width(self) -> int:
        """Inner width of the feed-forward sublayers."""
        return self.feed_forward if self.ff_expansion is None else int(self.ff_expansion * self.d_model)

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.head_size or self.d_model // self.heads

    def conflicts(self, *positions: str) -> list[str]:
        """Reasons why the keys do not go together with these kinds of positions; empty if they do."""
        found = []
        if self.head_size is None and self.d_model % self.heads:
            found.append(f"heads must divide d_model, but got heads={self.heads}, d_model={self.d_model}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            found.append(f"kv_heads must divide heads, but got kv_heads={self.kv_heads}, heads={self.heads}")
        if self.d_model % 2 and (waves := {"sinusoidal", "transformer_xl"}.intersection(positions)):
            names = " and ".join(sorted(waves))
            found.append(f"d_model must be even for {names} positions, but got d_model={self.d_model}")
        if "rotary" in positions and self.head_width % 2:
            found.append(f"rotary positions need an even head size, but it is {self.head_width}")
        if not 1 <= self.inner_width <= LARGEST_WIDTH:
            width = f"ff_expansion={self.ff_expansion} of d_model={self.d_model}"
            found.append(f"{width} is {'less than 1' if self.inner_width < 1 else f'more than {LARGEST_WIDTH}'}")
        return found


class MidHead(ConfigSection):
    """Transcript editor: the head over characters after a middle layer of the encoder (self-conditioning)."""

    layer: Layers | None = Field(None, description="encoder layer after which it reads; default: half of the layers")
    dropout: Probability = Field(0.1, description="dropout before this head and before the head of the draft")


class Pooling(ConfigSection):
    """Transcript editor: pooling of encoder states before the draft, weighted by the mid head."""

    window: int = Field(4, ge=1, le=1000, description="encoder states per state of the draft")
    epsilon: float = Field(
        0.0, ge=0, le=1, description="added to the sum of the weights; Granite Speech: 1e-8; 0: exact means"
    )


class Projector(ConfigSection):
    """Transcript editor: windows of encoder states to the editor's audio positions, by cross-attention."""

    d_model: Width | None = Field(None, description="width; default: that of the editor")
    heads: int | None = Field(None, ge=1, le=1000, description="attention heads; default: those of the editor")
    layers: Layers = Field(2, description="layers of cross-attention and feed-forward")
    window: int = Field(15, ge=1, le=1000, description="encoder states per window; a multiple of reduction_factor")
    reduction_factor: int = Field(5, ge=1, le=1000, description="encoder states per audio position of the editor")
    ff_expansion: float = Field(
        2.0, gt=0, le=1000, description="inner width of the feed-forward sublayers, as a multiple of d_model"
    )
    norm_epsilon: float = Field(1e-6, gt=0, le=1, description="epsilon of the norms")
    states: tuple[Annotated[int, Field(ge=0, le=MOST_LAYERS)], ...] | None = Field(
        None,
        min_length=1,
        description="encoder layers whose states are read, 0 for the input of the first; default: a quarter, half, "
        "three quarters, all",
    )
    qkv_bias: bool = Field(True, description="bias in the attention's projections")
    bias: bool = Field(True, description="bias in the feed-forward sublayers")
    last_window: Literal["mask", "drop"] = Field(
        "mask",
        description="states behind the last whole audio position: masked in one more, or dropped, as Granite Speech "
        "does, with zeros seen in the last window",
    )
    undo_multiplier: bool = Field(False, description="divide the output by editor.embedding_multiplier")


class Editor(Blocks):
    """Transcript editor: the bidirectional transformer over audio and text positions."""

    layers: Layers = Field(2, description="Transformer layers of the editor")
    positions: Literal["none", "sinusoidal", "rotary"] = Field("rotary", description="positions in the editor")
    attention: Literal["sdpa", "flex"] = Field(
        "sdpa", description="attention kernel; flex: FlexAttention on a GPU, whose block mask skips other utterances"
    )
    d_model: Width = Field(256, description="width of the residual stream")
    activation: Literal["gelu", "relu", "silu"] = Field(
        "silu", description="activation of the feed-forward sublayers; silu with gated is SwiGLU"
    )
    gated: bool = Field(
        True, description="feed-forward with a gate, act(W x) * (V x), one matrix more; with silu: SwiGLU"
    )
    norm: Literal["layer", "rms"] = Field("rms", description="LayerNorm or RMSNorm")
    qkv_bias: bool = Field(False, description="bias in the query, key and value projections")
    bias: bool = Field(False, description="bias in the attention's output projection and in the feed-forward sublayers")
    tied_embeddings: bool = Field(True, description="share the token embedding with the output projection")

    @model_validator(mode="after")
    def _parts_fit(self) -> Editor:
        if mistakes := self.conflicts(self.positions):
            raise ValueError("; ".join(mistakes))
        return self

    def language_model(self) -> Model:
        """The language model with the editor's shape and parameter names, from which an editor can begin."""
        shape: dict[str, Any] = self.model_dump()
        layers, positions, _kernel = (shape.pop(key) for key in ("layers", "positions", "attention"))
        return Model(kind="language_model", decoder_layers=layers, decoder_positions=positions, **shape)


class Slots(ConfigSection):
    """Transcript editor: the editor's text positions, a slot before, between and after the tokens of the draft."""

    minimum: int = Field(8, ge=1, le=10_000, description="smallest number of text positions; slots fill the end")


class Model(Blocks):
    """Architecture of the network."""

    kind: Literal["encoder_decoder", "transcript_editor", "language_model"] = Field(
        "encoder_decoder",
        description="attention and CTC; or a CTC draft, edited in one pass without autoregression; or the decoder "
        "alone, without cross-attention, on text",
    )
    encoder_layers: Layers = Field(2, description="layers of the encoder")
    decoder_layers: Layers = Field(2, description="Transformer layers of the decoder")
    encoder_block: Literal["transformer", "conformer"] = Field(
        "transformer", description="layers of the encoder: pre-norm Transformer, or conformer with convolutions"
    )
    conv_kernel: int = Field(15, ge=1, le=1001, description="width in states of the conformer's depthwise convolution")
    conv_expansion: int = Field(2, ge=1, le=100, description="width of that convolution as a multiple of d_model")
    conv_norm: Literal["batch", "layer", "rms"] = Field("batch", description="norm in the conformer's convolution")
    context_size: int | None = Field(
        None, ge=1, le=1_000_000, description="encoder states that attend to each other, block by block; default: all"
    )
    attention: Literal["sdpa", "flex"] = Field(
        "sdpa", description="attention kernel of the encoder; flex: FlexAttention on a GPU, SDPA elsewhere"
    )
    reduction: Literal["conv", "conv2d", "lstm", "both", "pool", "stack"] = Field(
        "conv", description="subsampling in time before the encoder; both: a convolution, then an LSTM"
    )
    reduction_factor: int = Field(
        2, ge=1, le=100, description="feature frames per encoder frame; any with stack and pool, else 1, 2, 3, 4, 6, 8"
    )
    bin_reduction: int = Field(1, ge=1, le=100, description="neighbouring mel bins that are averaged before all else")
    conv_channels: Width = Field(256, description="channels between the two convolutions of the subsampling")
    stack_norm: Literal["none", "layer", "rms"] = Field(
        "none", description="norm of the stacked frames with reduction=stack"
    )
    frame_norm: Literal["none", "layer", "rms"] = Field(
        "none", description="norm of each frame before they are stacked with reduction=stack"
    )
    stack_bias: bool = Field(False, description="bias in the projection of the stacked frames with reduction=stack")
    embedding_norm: bool = Field(False, description="norm between subsampling and the first encoder layer")
    norm_positions: bool = Field(
        False, description="embedding_norm follows sinusoidal positions and dropout, instead of preceding them"
    )
    input_dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout probability of the input of the first encoder layer; default: dropout"
    )
    position_dropout: Probability = Field(
        0.0, description="dropout probability of the encoder's position embeddings, sinusoidal or transformer_xl"
    )
    encoder_positions: Literal["none", "sinusoidal", "rotary", "relative", "relative_keys", "transformer_xl"] = Field(
        "sinusoidal",
        description="positions in the encoder; relative: a bias for each head and distance; relative_keys: a learned "
        "key for each distance in each layer, as Granite Speech's conformer has; transformer_xl: each layer's "
        "projection of sinusoids of the distances, as the frame-stacking encoder has",
    )
    encoder_causal: bool = Field(False, description="encoder states attend to themselves and earlier ones only")
    encoder_output: int | None = Field(
        None,
        ge=1,
        le=LARGEST_WIDTH,
        description="width to which the encoder's last states are projected; default: d_model, without a projection",
    )
    max_distance: int = Field(
        512, ge=1, le=1_000_000, description="relative_keys: distance in states beyond which all share one key"
    )
    decoder_positions: Literal["none", "sinusoidal", "rotary"] = Field(
        "sinusoidal", description="positions in the decoder"
    )
    first_position: int = Field(
        0, ge=0, le=1_000_000, description="first sinusoidal position; Speech2Text: padding id + 1"
    )
    output_bias: bool = Field(False, description="bias in the decoder's output projection")
    scale_states: bool = Field(False, description="scale the subsampled frames by sqrt(d_model), as Speech2Text does")
    mid_head: MidHead = Field(
        MidHead(), description="transcript editor: head over characters in the middle of the encoder"
    )
    pooling: Pooling = Field(Pooling(), description="transcript editor: pooling before the draft")
    projector: Projector = Field(
        Projector(), description="transcript editor: from encoder states to the editor's audio positions"
    )
    editor: Editor = Field(Editor(), description="transcript editor: the bidirectional transformer")
    slots: Slots = Field(Slots(), description="transcript editor: the editor's text positions")

    @property
    def token_layers(self) -> int:
        """Number of layers of the stack over tokens: the decoder, or the editor of a transcript editor."""
        return self.editor.layers if self.kind == "transcript_editor" else self.decoder_layers

    @property
    def ctc_reduction(self) -> int:
        """Feature frames per state with CTC logits: of the encoder, or of the draft of a transcript editor."""
        return self.reduction_factor * (self.pooling.window if self.kind == "transcript_editor" else 1)

    @model_validator(mode="after")
    def _parts_fit(self) -> Model:
        mistakes = self.conflicts(
            *([self.encoder_positions] if self.is_recogniser else []),
            *([self.decoder_positions] if self.kind != "transcript_editor" else []),
        )
        if self.attention == "flex" and self.head_width < SMALLEST_FLEX_HEAD:
            mistakes.append(f"flex needs a head size of {SMALLEST_FLEX_HEAD} or more, but it is {self.head_width}")
        if self.attention == "flex" and self.encoder_positions in ("relative_keys", "transformer_xl"):
            mistakes.append(f"attention=flex does not go with encoder_positions={self.encoder_positions}: use sdpa")
        mistakes += self._input_conflicts()
        if self.kind == "transcript_editor":
            mistakes += self._editor_conflicts()
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    @property
    def is_recogniser(self) -> bool:
        """Whether the model transcribes speech, rather than being a language model."""
        return self.kind in RECOGNISERS

    @property
    def states_width(self) -> int:
        """Width of the encoder's last states, which decoder and CTC head read; an editor's are not projected."""
        return self.d_model if self.kind == "transcript_editor" else self.encoder_output or self.d_model

    def _input_conflicts(self) -> list[str]:
        found = []
        if self.reduction != "stack":
            needless = {"stack_norm": "none", "frame_norm": "none", "stack_bias": False}
            used = [f"{key}={getattr(self, key)}" for key, without in needless.items() if getattr(self, key) != without]
            found += [f"{each} has no meaning with reduction={self.reduction}" for each in used]
        if self.reduction in ("lstm", "both") and self.is_recogniser and self.d_model % 2:
            found.append(f"d_model must be even for reduction={self.reduction}, but got d_model={self.d_model}")
        if self.reduction_factor not in STRIDES and self.reduction not in ANY_FACTOR:
            factors = ", ".join(map(str, STRIDES))
            found.append(
                f"reduction={self.reduction} takes a reduction_factor of {factors}, but got {self.reduction_factor}: "
                f"others go with {' and '.join(ANY_FACTOR)}"
            )
        if self.encoder_causal and self.encoder_block == "conformer" and self.conv_kernel > LARGEST_CAUSAL_KERNEL:
            found.append(
                f"encoder_causal does not go with a conformer's conv_kernel of {self.conv_kernel}, which looks ahead: "
                f"set it to {LARGEST_CAUSAL_KERNEL} or less"
            )
        if self.norm_positions and not self.embedding_norm:
            found.append("norm_positions has no meaning without embedding_norm")
        return found

    def _editor_conflicts(self) -> list[str]:
        found, projector = [], self.projector
        read = {"mid_head.layer": self.mid_head.layer or 1, "projector.states": max(projector.states or (1,))}
        for key, layer in read.items():
            if layer > self.encoder_layers:
                found.append(f"{key} names layer {layer} of encoder_layers={self.encoder_layers}")
        window, factor = projector.window, projector.reduction_factor
        if window % factor:
            found.append(f"projector.reduction_factor must divide window, but got {factor} and {window}")
        if self.editor.attention == "flex" and self.editor.head_width < SMALLEST_FLEX_HEAD:
            size = self.editor.head_width
            found.append(f"flex needs a head size of {SMALLEST_FLEX_HEAD} or more, but the editor's is {size}")
        width, heads = projector.d_model or self.editor.d_model, projector.heads or self.editor.heads
        if width % heads:
            found.append(f"projector.heads must divide its d_model, but got heads={heads}, d_model={width}")
        return found
