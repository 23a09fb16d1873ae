"""The parts of the draft: a head over characters in the middle of the encoder, and pooling by what it calls blank.

Shapes: B batch, S encoder states, P pooled states, C characters and the blank, D model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config.model import MidHead as MidHeadConfig
from trainables.config.model import Pooling as PoolingConfig
from trainables.masking import length_mask
from trainables.models.layers import OwnDropout

MID_BLANK = 0  # of the mid head; characters follow


class MidHead(nn.Module):
    """CTC over characters after a middle layer, whose probabilities are projected back and added to the states.

    Self-conditioning after Nozaki and Komatsu (2021, arXiv 2104.02724).
    """

    def __init__(self, config: MidHeadConfig, d_model: int, characters: int) -> None:
        super().__init__()
        self.dropout = OwnDropout(config.dropout)
        self.output = nn.Linear(d_model, characters + 1)
        self.back = nn.Linear(characters + 1, d_model)

    def forward(self, x_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """States of the middle layer -> states for the next layer (B, S, D), and logits (B, S, C) in float32."""
        logits_BSC = self.output(self.dropout(x_BSD)).float()
        return x_BSD + self.back(logits_BSC.softmax(-1).to(x_BSD.dtype)), logits_BSC


class Pooling(nn.Module):
    """Weighted means of windows of states, with weights 1 - p(blank) of the mid head.

    Granite Speech adds `epsilon` to the sum of a window's weights. With epsilon 0, the mean stays a mean however small
    the weights are: they are a softmax over the window of log(1 - p(blank)), which does not underflow.
    """

    def __init__(self, config: PoolingConfig) -> None:
        super().__init__()
        self.window, self.epsilon = config.window, config.epsilon

    def forward(self, x_BSD: Tensor, mid_logits_BSC: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States and logits of the mid head -> pooled states (B, P, D), P = ceil(S / window), and their number (B,)."""
        valid_BS = length_mask(lengths_B, x_BSD.shape[1])
        log_weights_BS = mid_logits_BSC[..., MID_BLANK + 1 :].logsumexp(-1) - mid_logits_BSC.logsumexp(-1)
        log_weights_BS = log_weights_BS.masked_fill(~valid_BS, torch.finfo(log_weights_BS.dtype).min)
        padding = -x_BSD.shape[1] % self.window
        x_BPWD = F.pad(x_BSD.float(), (0, 0, 0, padding)).unflatten(1, (-1, self.window))
        log_weights_BS = F.pad(log_weights_BS, (0, padding), value=torch.finfo(log_weights_BS.dtype).min)
        log_weights_BPW = log_weights_BS.unflatten(1, (-1, self.window))
        if self.epsilon:
            weights_BPW = log_weights_BPW.exp()
            weights_BPW = weights_BPW / (weights_BPW.sum(-1, keepdim=True) + self.epsilon)
        else:
            weights_BPW = log_weights_BPW.softmax(-1)
        pooled_BPD = (weights_BPW[..., None] * x_BPWD).sum(2)  # a matrix product would leave float32 under autocast
        return pooled_BPD.to(x_BSD.dtype), (lengths_B + self.window - 1) // self.window
