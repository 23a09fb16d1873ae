"""Time reduction: from feature frames to the encoder's fewer, wider states.

Shapes: B batch, T frames, S subsampled frames, F mel bins, C channels, D model width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.masking import length_mask

STRIDES = {2: (2, 1), 3: (3, 1), 4: (2, 2), 6: (3, 2), 8: (4, 2)}
KERNEL = 5


class ConvSubsampling(nn.Module):
    """Two 1-d convolutions over time, each gated (GLU), with strides whose product is the factor.

    The pair of Synnaeve et al. (2019, arXiv 1911.08460), as in Speech2Text. An utterance of L frames gives
    ceil(L / factor) states. What lies past an utterance's length is zeroed before each convolution, so that padding
    looks like the zeros that a convolution adds at the end of a lone utterance.
    """

    def __init__(self, num_feats: int, channels: int, d_model: int, factor: int) -> None:
        super().__init__()
        self.strides = STRIDES[factor]
        widths = [(num_feats, 2 * channels), (channels, 2 * d_model)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(n_in, n_out, KERNEL, stride, padding=KERNEL // 2)
            for (n_in, n_out), stride in zip(widths, self.strides, strict=True)
        )

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) and frames per utterance -> (B, S, D) and states per utterance."""
        x_BCT = features_BTF.transpose(1, 2)
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            x_BCT = x_BCT * length_mask(lengths_B, x_BCT.shape[-1])[:, None]
            x_BCT = F.glu(convolution(x_BCT), dim=1)
            lengths_B = (lengths_B + stride - 1) // stride
        return x_BCT.transpose(1, 2).float(), lengths_B  # the residual stream is float32, whatever the precision
