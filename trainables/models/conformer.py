"""The conformer layer (Gulati et al., 2020, arXiv 2005.08100) of the encoder: attention and convolution.

Shapes: B batch, S encoder states, D model width, C channels of the convolution.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config.model import Model
from trainables.masking import length_mask
from trainables.models.attention import Context, SelfAttention
from trainables.models.kernels.dropout import NOTHING, Draws
from trainables.models.layers import FeedForward, Residual, make_norm
from trainables.models.positions import make_distances

HALF = 0.5  # weight of each of the two feed-forward sublayers
MOMENTUM = 0.1  # of the running statistics, as in torch.nn.BatchNorm1d


class ConformerLayer(nn.Module):
    """A conformer layer, (B, S, D) -> (B, S, D).

    Half a feed-forward sublayer, self-attention, convolution, half a feed-forward sublayer, and a norm at the end. Each
    sublayer begins with a norm.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        norm, width, epsilon = config.norm, config.d_model, config.norm_epsilon
        self.first_feed_forward_norm = make_norm(norm, width, epsilon)
        self.first_feed_forward = FeedForward(config)
        self.attention_norm = make_norm(norm, width, epsilon)
        self.attention = SelfAttention(config, make_distances(config))
        self.convolution_norm = make_norm(norm, width, epsilon)
        self.convolution = Convolution(config)
        self.second_feed_forward_norm = make_norm(norm, width, epsilon)
        self.second_feed_forward = FeedForward(config)
        self.norm = make_norm(norm, width, epsilon)
        self.residual = Residual(config, sublayers=4, feed_forwards=2)

    def forward(self, x_BSD: Tensor, context: Context, draws: Draws = NOTHING) -> Tensor:
        keep = self.residual.draw(x_BSD)
        kept, (first, second) = draws
        y_BSD = HALF * self.first_feed_forward(self.first_feed_forward_norm(x_BSD), first)
        x_BSD = self.residual(x_BSD, y_BSD, keep, kept[0])
        x_BSD = self.residual(x_BSD, context.attention(self.attention, self.attention_norm(x_BSD)), keep, kept[1])
        x_BSD = self.residual(x_BSD, self.convolution(self.convolution_norm(x_BSD), context), keep, kept[2])
        y_BSD = HALF * self.second_feed_forward(self.second_feed_forward_norm(x_BSD), second)
        x_BSD = self.residual(x_BSD, y_BSD, keep, kept[3])
        return self.norm(x_BSD)


class Convolution(nn.Module):
    """The convolution module, (B, S, D) -> (B, S, D): pointwise with a gate, depthwise, norm, swish, pointwise.

    Padded states are set to 0 before the depthwise convolution, like the zeros with which it pads an utterance itself.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        channels, kernel = config.conv_expansion * config.d_model, config.conv_kernel
        self.before, self.behind = kernel // 2, (kernel - 1) // 2
        self.gated = nn.Linear(config.d_model, 2 * channels)
        self.depthwise = nn.Conv1d(channels, channels, kernel, groups=channels, bias=False)
        batch = config.conv_norm == "batch"
        self.norm = MaskedBatchNorm(channels) if batch else make_norm(config.conv_norm, channels, config.norm_epsilon)
        self.output = nn.Linear(channels, config.d_model)

    def forward(self, x_BSD: Tensor, context: Context) -> Tensor:
        valid_BS1 = length_mask(context.lengths_B, x_BSD.shape[1])[..., None]
        x_BSC = F.glu(self.gated(x_BSD)) * valid_BS1
        x_BCS = F.pad(x_BSC.transpose(1, 2), (self.before, self.behind))
        x_BSC = self.depthwise(x_BCS).transpose(1, 2)
        if isinstance(self.norm, MaskedBatchNorm):
            weights_B = context.weights_B
            counted_BS1 = valid_BS1 if weights_B is None else valid_BS1 & (weights_B > 0)[:, None, None]
            x_BSC = self.norm(x_BSC, counted_BS1)
        else:
            x_BSC = self.norm(x_BSC)
        return self.output(F.silu(x_BSC))


class MaskedBatchNorm(nn.BatchNorm1d):
    """BatchNorm (Ioffe and Szegedy, 2015, arXiv 1502.03167) whose statistics leave padding out.

    They are those of the valid states of all workers, without utterances that only fill a batch, so that neither
    padding nor the number of workers changes a result.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=MOMENTUM)

    def forward(self, x_BSC: Tensor, counted_BS1: Tensor) -> Tensor:  # type: ignore[override]
        """Normalises each channel of (B, S, C) in float32; `counted_BS1` is True at states for the statistics."""
        x_BSC, mean_C, variance_C = x_BSC.float(), self.running_mean, self.running_var
        if self.training and self.weight.requires_grad:  # a frozen norm keeps its statistics
            mean_C, variance_C = self.statistics(x_BSC, counted_BS1)
        assert mean_C is not None and variance_C is not None
        return (x_BSC - mean_C) * ((variance_C + self.eps).rsqrt() * self.weight) + self.bias

    def statistics(self, x_BSC: Tensor, counted_BS1: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (C,) of the counted states of all workers, which also move the running statistics."""
        count = over_workers(counted_BS1.sum().float())
        mean_C = over_workers((x_BSC * counted_BS1).sum((0, 1))) / count
        variance_C = over_workers(((x_BSC - mean_C).square() * counted_BS1).sum((0, 1))) / count
        with torch.no_grad():
            unbiased_C = variance_C * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean_C, MOMENTUM)  # type: ignore[union-attr]
            self.running_var.lerp_(unbiased_C, MOMENTUM)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return mean_C, variance_C


class SumOverWorkers(torch.autograd.Function):
    """Sum of a tensor over all workers; its gradient is the sum of the workers' gradients."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def over_workers(value: Tensor) -> Tensor:
    """Sum over all workers, through which gradients flow."""
    total: Tensor = SumOverWorkers.apply(value) if dist.is_initialized() else value
    return total
