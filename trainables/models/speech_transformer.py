"""The encoder-decoder recogniser: encoder, attention decoder, CTC head.

Shapes: B batch, T frames, S subsampled frames, U tokens, F mel bins, D model width, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainables.config import Model
from trainables.models.attention import FusedLinear
from trainables.models.decoder import Decoder
from trainables.models.encoder import Encoder


class SpeechTransformer(nn.Module):
    """Pre-norm encoder-decoder transformer with a CTC head on the encoder's states."""

    def __init__(self, config: Model, vocab_size: int, num_feats: int) -> None:
        super().__init__()
        self.encoder = Encoder(config, num_feats)
        self.decoder = Decoder(config, vocab_size)
        self.ctc_head = nn.Linear(config.d_model, vocab_size)
        self.initialize()

    def initialize(self) -> None:
        """Glorot-uniform matrices, zero biases; embeddings of variance 1/D, which the decoder scales to 1.

        A fused projection is initialised as the separate matrices that it stands for.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                for part in module.weight.chunk(module.parts if isinstance(module, FusedLinear) else 1):
                    nn.init.xavier_uniform_(part)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.decoder.embedding.weight, std=self.decoder.embedding.embedding_dim**-0.5)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor, tokens_BU: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised features, frames per utterance, and token inputs that begin with SOS.

        Returns attention logits (B, U, V), CTC logits (B, S, V) and states per utterance (B,).
        """
        states_BSD, state_lengths_B = self.encoder(features_BTF, lengths_B)
        return self.decoder(tokens_BU, states_BSD, state_lengths_B), self.ctc_head(states_BSD), state_lengths_B
