"""The assembled models: the encoder-decoder recogniser with a CTC head, and the language model on the same blocks.

Shapes: B batch, T frames, S encoder states (subsampled frames), U tokens, F mel bins, D model
width, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainables.config_model import Model
from trainables.data.text.tokenizer import Vocabulary
from trainables.models.decoder import Decoder
from trainables.models.encoder import Encoder
from trainables.models.layers import FusedLinear


class SpeechTransformer(nn.Module):
    """Pre-norm encoder-decoder transformer with a CTC head on the encoder's states."""

    def __init__(self, config: Model, vocab_size: int, num_feats: int) -> None:
        super().__init__()
        self.encoder = Encoder(config, num_feats)
        self.decoder = Decoder(config, vocab_size)
        self.ctc_head = nn.Linear(config.d_model, vocab_size)
        initialize(self)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor, tokens_BU: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised features, frames per utterance, and tokens that begin with SOS -> the logits of both branches.

        Returns:
            Decoder logits (B, U, V), CTC logits (B, S, V) and states per utterance (B,).
        """
        states_BSD, state_lengths_B = self.encoder(features_BTF, lengths_B)
        return self.decoder(tokens_BU, states_BSD, state_lengths_B), self.ctc_head(states_BSD), state_lengths_B


class LanguageModel(Decoder):
    """A decoder-only transformer, which predicts a transcript's next token."""

    def __init__(self, config: Model, vocab_size: int) -> None:
        super().__init__(config, vocab_size, cross_attention=False)
        initialize(self)


def make_model(config: Model, vocabulary: Vocabulary, num_feats: int) -> SpeechTransformer | LanguageModel:
    """The untrained model that a configuration describes."""
    if config.kind == "language_model":
        return LanguageModel(config, vocabulary.tokens)
    return SpeechTransformer(config, vocabulary.tokens, num_feats)


def stacks(model: nn.Module) -> dict[str, Encoder | Decoder]:
    """Stacks of layers by name: `encoder` and `decoder`; a language model is one stack, without a name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Encoder | Decoder)}


def initialize(model: nn.Module) -> None:
    """Fills a model: Glorot-uniform matrices, zero biases, embeddings of variance 1/D, which the decoder scales to 1.

    A fused projection is initialised as the separate matrices that it is made of.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            for part in module.weight.split(module.widths if isinstance(module, FusedLinear) else len(module.weight)):
                nn.init.xavier_uniform_(part)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():  # last: an embedding may share its weight with a matrix
        if isinstance(module, Decoder):
            nn.init.normal_(module.embedding.weight, std=module.embedding.embedding_dim**-0.5)
