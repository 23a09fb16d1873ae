"""Subsampling in time: from feature frames to the encoder's fewer, wider states.

Every kind takes features (B, T, F) and frames per utterance (B,), and returns states (B, S, D) and states per
utterance, ceil(L / factor) for L frames. Padded frames never change an utterance's states. States are float32,
as the residual stream is, whatever the precision.

Shapes: B batch, T frames, S encoder states (subsampled frames), F mel bins, C channels, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config.model import STRIDES, Model
from trainables.masking import length_mask
from trainables.models.layers import make_norm

KERNEL = 5


def make_subsampling(config: Model, num_feats: int) -> nn.Module:
    """Subsampling module for `model.reduction`. A new kind needs a name in `config/model.py` and an entry here."""
    if config.bin_reduction > 1:
        coarser = config.model_copy(update={"bin_reduction": 1})
        return CoarserBins(config.bin_reduction, make_subsampling(coarser, -(-num_feats // config.bin_reduction)))
    channels, d_model, factor = config.conv_channels, config.d_model, config.reduction_factor
    first, second = STRIDES.get(factor, (factor, 1))  # others go with kinds of one step
    kinds: dict[str, Callable[[], nn.Module]] = {
        "conv": lambda: TwoSteps(
            GatedConvolution(num_feats, channels, first), GatedConvolution(channels, d_model, second)
        ),
        "conv2d": lambda: Conv2dSubsampling(num_feats, channels, d_model, (first, second)),
        "lstm": lambda: TwoSteps(StackedLSTM(num_feats, d_model, first), StackedLSTM(d_model, d_model, second)),
        "both": lambda: TwoSteps(GatedConvolution(num_feats, channels, first), StackedLSTM(channels, d_model, second)),
        "pool": lambda: PoolSubsampling(num_feats, d_model, factor),
        "stack": lambda: StackSubsampling(config, num_feats),
    }
    return kinds[config.reduction]()


def reduced(lengths_B: Tensor, factor: int) -> Tensor:
    """Lengths after subsampling: ceil(length / factor), (B,)."""
    return (lengths_B + (factor - 1)) // factor


def stacked(x_BTF: Tensor, lengths_B: Tensor, factor: int) -> Tensor:
    """Stacks of `factor` neighbouring frames, (B, ceil(T / factor), factor x F); frames beyond the length are 0."""
    x_BTF = x_BTF * length_mask(lengths_B, x_BTF.shape[1])[..., None]
    x_BTF = F.pad(x_BTF, (0, 0, 0, -x_BTF.shape[1] % factor))
    return x_BTF.unflatten(1, (-1, factor)).flatten(2)


class CoarserBins(nn.Module):
    """Means of each `factor` neighbouring mel bins, (B, T, F) -> (B, T, ceil(F / factor)), before another module.

    In fewer, wider bins the harmonics of a voice's pitch are no longer told apart, but its formants are. The last bin
    may be the mean of fewer.
    """

    def __init__(self, factor: int, subsampling: nn.Module) -> None:
        super().__init__()
        self.factor, self.subsampling = factor, subsampling

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        whole = features_BTF.shape[2] // self.factor * self.factor
        parts = [features_BTF[..., :whole].unflatten(2, (-1, self.factor)).mean(3)] if whole else []
        if whole < features_BTF.shape[2]:
            parts.append(features_BTF[..., whole:].mean(2, keepdim=True))
        states: tuple[Tensor, Tensor] = self.subsampling(torch.cat(parts, 2), lengths_B)
        return states


class TwoSteps(nn.Module):
    """Subsampling by two modules in turn, (B, T, F) -> (B, S, D); the product of their strides is the factor.

    Two gated convolutions are the pair of Synnaeve et al. (2019, arXiv 1911.08460), as in Speech2Text; two LSTMs are
    the pyramid of Chan et al. (2015, arXiv 1508.01211).
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BSD, lengths_B = self.second(*self.first(features_BTF, lengths_B))
        return x_BSD.float(), lengths_B


class GatedConvolution(nn.Module):
    """A 1-d convolution over time with a gate (GLU; Dauphin et al., 2017, arXiv 1612.08083), (B, T, F) -> (B, S, C).

    Padded frames are set to 0 first, like the zeros with which the convolution itself pads an unpadded utterance.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv1d(n_in, 2 * n_out, KERNEL, stride, padding=KERNEL // 2)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BTF = x_BTF * length_mask(lengths_B, x_BTF.shape[1])[..., None]
        x_BCT = F.glu(self.convolution(x_BTF.transpose(1, 2)), dim=1)
        return x_BCT.transpose(1, 2), reduced(lengths_B, self.stride)


class StackedLSTM(nn.Module):
    """Frames stacked by the stride, then an LSTM in each direction, (B, T, F) -> (B, S, D).

    For the backward direction, each utterance is reversed within its length, so that padding comes last in both
    directions. Packed sequences would do so too, but make a GPU wait.
    """

    def __init__(self, n_in: int, d_model: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.forwards = nn.LSTM(stride * n_in, d_model // 2, batch_first=True)
        self.backwards = nn.LSTM(stride * n_in, d_model // 2, batch_first=True)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BSF = stacked(x_BTF, lengths_B, self.stride)
        lengths_B = reduced(lengths_B, self.stride)
        forwards_BSD = self.forwards(x_BSF)[0]
        backwards_BSD = self.backwards(reversed_in_time(x_BSF, lengths_B))[0]
        return torch.cat([forwards_BSD, reversed_in_time(backwards_BSD, lengths_B)], dim=-1), lengths_B


def reversed_in_time(x_BSF: Tensor, lengths_B: Tensor) -> Tensor:
    """Each row's first `length` elements in reverse order; the padding stays in place."""
    place_S = torch.arange(x_BSF.shape[1], device=x_BSF.device)
    mirrored_BS = lengths_B[:, None] - 1 - place_S
    return x_BSF.gather(1, torch.where(mirrored_BS >= 0, mirrored_BS, place_S)[..., None].expand_as(x_BSF))


class Conv2dSubsampling(nn.Module):
    """Two 2-d convolutions over time and frequency, each with ReLU, then a projection, (B, T, F) -> (B, S, D).

    As in Dong et al. (2018, Speech-Transformer) and ESPnet; the frequency axis is halved each time.
    """

    def __init__(self, num_feats: int, channels: int, d_model: int, strides: tuple[int, int]) -> None:
        super().__init__()
        self.strides = strides
        self.convolutions = nn.ModuleList(
            # The kernel is at least as wide as the stride, so that no frame is skipped.
            nn.Conv2d(n_in, channels, (kernel, 3), (stride, 2), padding=(kernel // 2, 1))
            for n_in, stride, kernel in zip((1, channels), strides, (max(3, 2 * s - 1) for s in strides), strict=True)
        )
        self.output = nn.Linear(channels * math.ceil(num_feats / 4), d_model)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BCTF = features_BTF[:, None]
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            x_BCTF = x_BCTF * length_mask(lengths_B, x_BCTF.shape[2])[:, None, :, None]
            x_BCTF = F.relu(convolution(x_BCTF))
            lengths_B = reduced(lengths_B, stride)
        return self.output(x_BCTF.transpose(1, 2).flatten(2)).float(), lengths_B


class PoolSubsampling(nn.Module):
    """Mean of each group of neighbouring valid frames, projected, (B, T, F) -> (B, S, D)."""

    def __init__(self, num_feats: int, d_model: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.output = nn.Linear(num_feats, d_model)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        sums_BSF = stacked(features_BTF, lengths_B, self.factor).unflatten(2, (self.factor, -1)).sum(2)
        means_BSF = sums_BSF / frames_in_stack(lengths_B, sums_BSF.shape[1], self.factor).clamp(min=1)[..., None]
        return self.output(means_BSF).float(), reduced(lengths_B, self.factor)


class StackSubsampling(nn.Module):
    """Stacks of neighbouring frames, projected, (B, T, F) -> (B, S, D); frames and stacks may have norms."""

    def __init__(self, config: Model, num_feats: int) -> None:
        super().__init__()
        self.factor, norm, epsilon = config.reduction_factor, config.stack_norm, config.norm_epsilon
        self.frame_norm = make_norm(config.frame_norm, num_feats, epsilon)
        self.norm = StackNorm(num_feats, self.factor, norm == "layer", epsilon) if norm != "none" else None
        self.output = nn.Linear(self.factor * num_feats, config.d_model, bias=config.stack_bias)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BSF = stacked(self.frame_norm(features_BTF), lengths_B, self.factor)
        if self.norm is not None:
            x_BSF = self.norm(x_BSF, lengths_B)
        return self.output(x_BSF).float(), reduced(lengths_B, self.factor)


class StackNorm(nn.Module):
    """LayerNorm (centred) or RMSNorm of each stack, over its valid frames.

    Padded frames do not change the mean and variance of an utterance's last stack, and stay 0.
    """

    def __init__(self, num_feats: int, factor: int, centred: bool, epsilon: float) -> None:
        super().__init__()
        self.num_feats, self.factor, self.centred, self.epsilon = num_feats, factor, centred, epsilon
        self.weight = nn.Parameter(torch.ones(factor * num_feats))
        self.bias = nn.Parameter(torch.zeros(factor * num_feats)) if centred else None

    def forward(self, x_BSF: Tensor, lengths_B: Tensor) -> Tensor:
        """Normalises stacks (B, S, factor x F) of utterances with `lengths_B` frames; padded entries must be 0."""
        entries_BS = frames_in_stack(lengths_B, x_BSF.shape[1], self.factor) * self.num_feats
        valid_BSF = length_mask(entries_BS.flatten(), x_BSF.shape[2]).view_as(x_BSF)
        count_BS1 = entries_BS.clamp(min=1)[..., None]
        x_BSF = x_BSF.float()
        if self.centred:
            x_BSF = (x_BSF - x_BSF.sum(-1, keepdim=True) / count_BS1) * valid_BSF
        x_BSF = x_BSF * (x_BSF.square().sum(-1, keepdim=True) / count_BS1 + self.epsilon).rsqrt() * self.weight
        return x_BSF if self.bias is None else x_BSF + self.bias * valid_BSF


def frames_in_stack(lengths_B: Tensor, width: int, factor: int) -> Tensor:
    """Number of valid frames in each stack of `factor` frames, (B, width)."""
    start_S = torch.arange(width, device=lengths_B.device) * factor
    return (lengths_B[:, None] - start_S).clamp(0, factor)
