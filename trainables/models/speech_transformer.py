"""The encoder-decoder recogniser with a CTC head, the language model on the same blocks, and the choice of a model.

Shapes: B batch, T frames, S encoder states (subsampled frames), U tokens, F mel bins, D model
width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from trainables.config.model import Model
from trainables.data.text.tokenizer import Vocabulary
from trainables.models.decoder import Decoder
from trainables.models.editing.transcript_editor import TranscriptEditor
from trainables.models.encoder import Encoder
from trainables.models.kernels.mixed_precision import converted_weights
from trainables.models.layers import initialize


class States(NamedTuple):
    """Encoder states of utterances (B, S, D), and their number for each (B,)."""

    states_BSD: Tensor
    lengths_B: Tensor


class Predictions(NamedTuple):
    """Output of an encoder-decoder in training.

    Args:
        logits_BUV: of the decoder.
        ctc_logits_BSV: of the encoder's states.
        state_lengths_B: number of states of each utterance.
        attention_BHUS: weights of the last decoder layer's cross-attention; None: they were not asked for.
    """

    logits_BUV: Tensor
    ctc_logits_BSV: Tensor
    state_lengths_B: Tensor
    attention_BHUS: Tensor | None


class SpeechTransformer(nn.Module):
    """Pre-norm encoder-decoder transformer with a CTC head on the encoder's states."""

    def __init__(self, config: Model, vocab_size: int, num_feats: int) -> None:
        super().__init__()
        self.encoder = Encoder(config, num_feats)
        self.decoder = Decoder(config, vocab_size)
        self.ctc_head = nn.Linear(config.states_width, vocab_size)
        initialize(self)

    def forward(
        self, features_BTF: Tensor, lengths_B: Tensor, tokens_BU: Tensor, weights_B: Tensor | None = None,
        with_attention: bool = False,
    ) -> Predictions:  # fmt: skip
        """Normalised features, frames per utterance, and tokens that begin with SOS -> the logits of both branches.

        Args:
            weights_B: weight of each utterance in training, 0 for those that only fill the batch; None: all count.
            with_attention: whether attention weights are returned.
        """
        collected: list[Tensor] | None = [] if with_attention else None
        with converted_weights(self):
            states_BSD, state_lengths_B = self.encoder(features_BTF, lengths_B, weights_B)
            logits_BUV = self.decoder(tokens_BU, states_BSD, state_lengths_B, collected)
            ctc_logits_BSV = self.ctc_head(states_BSD)
        return Predictions(logits_BUV, ctc_logits_BSV, state_lengths_B, collected[0] if collected else None)

    def encode(self, features_BTF: Tensor, lengths_B: Tensor) -> States:
        """Normalised features and frames per utterance -> encoder states, from which a search starts."""
        return States(*self.encoder(features_BTF, lengths_B))

    def ctc_logits(self, encoded: States) -> tuple[Tensor, Tensor]:
        """CTC logits (B, S, V), and their number for each utterance (B,)."""
        return self.ctc_head(encoded.states_BSD), encoded.lengths_B


class LanguageModel(Decoder):
    """A decoder-only transformer, which predicts a transcript's next token."""

    def __init__(self, config: Model, vocab_size: int) -> None:
        super().__init__(config, vocab_size, cross_attention=False)
        initialize(self)


SpeechModel = SpeechTransformer | TranscriptEditor
"""Networks of recognisers. Each has `encode`, whose result a search starts from, and `ctc_logits` of that result."""
Encoded = Any
"""Result of a network's `encode`: `States` or `Draft`."""


def make_model(config: Model, vocabulary: Vocabulary, num_feats: int) -> SpeechModel | LanguageModel:
    """The untrained model that a configuration describes."""
    if config.kind == "language_model":
        return LanguageModel(config, vocabulary.tokens)
    return make_speech_model(config, vocabulary, num_feats)


def make_speech_model(config: Model, vocabulary: Vocabulary, num_feats: int) -> SpeechModel:
    """The untrained network of a recogniser."""
    if config.kind == "transcript_editor":
        return TranscriptEditor(config, vocabulary.tokens, vocabulary.characters, num_feats)
    return SpeechTransformer(config, vocabulary.tokens, num_feats)


def stacks(model: nn.Module) -> dict[str, Encoder | Decoder]:
    """Stacks of layers by name: `encoder`, and `decoder` or `editor`; a language model is one stack, without a name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Encoder | Decoder)}
