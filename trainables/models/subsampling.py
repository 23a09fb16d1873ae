"""Time reduction: from feature frames to the encoder's fewer, wider states.

Every kind here takes (B, T, F) features and frames per utterance, and gives (B, S, D) and states per utterance,
ceil(L / factor) for L frames. What lies past an utterance's length never changes its states.

Shapes: B batch, T frames, S subsampled frames, F mel bins, C channels, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config import Model
from trainables.masking import length_mask
from trainables.models.attention import NORM_EPSILON

STRIDES = {2: (2, 1), 3: (3, 1), 4: (2, 2), 6: (3, 2), 8: (4, 2)}
KERNEL = 5


def make_subsampling(config: Model, num_feats: int) -> nn.Module:
    """The time reduction that the configuration names."""
    channels, d_model, strides = config.conv_channels, config.d_model, STRIDES[config.reduction_factor]
    kinds: dict[str, Callable[[], nn.Module]] = {
        "conv": lambda: ConvSubsampling(num_feats, channels, d_model, strides),
        "conv2d": lambda: Conv2dSubsampling(num_feats, channels, d_model, strides),
        "lstm": lambda: LSTMSubsampling(num_feats, d_model, strides),
        "both": lambda: ConvLSTMSubsampling(num_feats, channels, d_model, strides),
        "pool": lambda: PoolSubsampling(num_feats, d_model, config.reduction_factor),
        "stack": lambda: StackSubsampling(num_feats, d_model, config.reduction_factor, config.stack_norm),
    }
    return kinds[config.reduction]()


def reduced(lengths_B: Tensor, factor: int) -> Tensor:
    """ceil(length / factor)."""
    return (lengths_B + factor - 1) // factor


def stacked(x_BTF: Tensor, lengths_B: Tensor, factor: int) -> Tensor:
    """Neighbouring frames side by side, (B, ceil(T / factor), factor x F); zeros past each length."""
    x_BTF = x_BTF * length_mask(lengths_B, x_BTF.shape[1])[..., None]
    x_BTF = F.pad(x_BTF, (0, 0, 0, -x_BTF.shape[1] % factor))
    return x_BTF.unflatten(1, (-1, factor)).flatten(2)


class GatedConvolution(nn.Module):
    """A 1-d convolution over time with a gate (GLU; Dauphin et al., 2017, arXiv 1612.08083).

    What lies past an utterance's length is zeroed first, so that padding looks like the zeros that a convolution adds
    at the end of a lone utterance.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv1d(n_in, 2 * n_out, KERNEL, stride, padding=KERNEL // 2)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BTF = x_BTF * length_mask(lengths_B, x_BTF.shape[1])[..., None]
        x_BCT = F.glu(self.convolution(x_BTF.transpose(1, 2)), dim=1)
        return x_BCT.transpose(1, 2), reduced(lengths_B, self.stride)


class ConvSubsampling(nn.Module):
    """Two gated convolutions with strides whose product is the factor.

    The pair of Synnaeve et al. (2019, arXiv 1911.08460), as in Speech2Text.
    """

    def __init__(self, num_feats: int, channels: int, d_model: int, strides: tuple[int, int]) -> None:
        super().__init__()
        self.first = GatedConvolution(num_feats, channels, strides[0])
        self.second = GatedConvolution(channels, d_model, strides[1])

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BSD, lengths_B = self.second(*self.first(features_BTF, lengths_B))
        return x_BSD.float(), lengths_B  # the residual stream is float32, whatever the precision


class Conv2dSubsampling(nn.Module):
    """Two 2-d convolutions over time and frequency, each with ReLU, then a projection.

    As in Dong et al. (2018, Speech-Transformer) and ESPnet; the frequency axis is halved each time.
    """

    def __init__(self, num_feats: int, channels: int, d_model: int, strides: tuple[int, int]) -> None:
        super().__init__()
        self.strides = strides
        self.convolutions = nn.ModuleList(
            # A kernel wide enough that a large stride skips no frame.
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


class StackedLSTM(nn.Module):
    """Frames stacked by the stride, then an LSTM in each direction (a layer of Chan et al., 2015, arXiv 1508.01211).

    The backward direction is an LSTM over each utterance turned round within its own length: padding stays behind
    it in both directions, without packing, which would make a GPU wait.
    """

    def __init__(self, n_in: int, d_model: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.forwards = nn.LSTM(stride * n_in, d_model // 2, batch_first=True)
        self.backwards = nn.LSTM(stride * n_in, d_model // 2, batch_first=True)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BSF = stacked(x_BTF, lengths_B, self.stride)
        lengths_B = reduced(lengths_B, self.stride)
        there, back = self.forwards(x_BSF)[0], self.backwards(turned(x_BSF, lengths_B))[0]
        return torch.cat([there, turned(back, lengths_B)], dim=-1), lengths_B


def turned(x_BSF: Tensor, lengths_B: Tensor) -> Tensor:
    """Each row's first `length` elements in the opposite order; the others stay."""
    place_S = torch.arange(x_BSF.shape[1], device=x_BSF.device)
    mirrored_BS = lengths_B[:, None] - 1 - place_S
    return x_BSF.gather(1, torch.where(mirrored_BS >= 0, mirrored_BS, place_S)[..., None].expand_as(x_BSF))


class LSTMSubsampling(nn.Module):
    """A pyramid of two bidirectional LSTMs."""

    def __init__(self, num_feats: int, d_model: int, strides: tuple[int, int]) -> None:
        super().__init__()
        self.first = StackedLSTM(num_feats, d_model, strides[0])
        self.second = StackedLSTM(d_model, d_model, strides[1])

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BSD, lengths_B = self.second(*self.first(features_BTF, lengths_B))
        return x_BSD.float(), lengths_B


class ConvLSTMSubsampling(nn.Module):
    """A gated convolution, then a bidirectional LSTM."""

    def __init__(self, num_feats: int, channels: int, d_model: int, strides: tuple[int, int]) -> None:
        super().__init__()
        self.first = GatedConvolution(num_feats, channels, strides[0])
        self.second = StackedLSTM(channels, d_model, strides[1])

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BSD, lengths_B = self.second(*self.first(features_BTF, lengths_B))
        return x_BSD.float(), lengths_B


class PoolSubsampling(nn.Module):
    """The mean of neighbouring frames, projected; an utterance's last mean is over the frames that it has."""

    def __init__(self, num_feats: int, d_model: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.output = nn.Linear(num_feats, d_model)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        sums_BSF = stacked(features_BTF, lengths_B, self.factor).unflatten(2, (self.factor, -1)).sum(2)
        means_BSF = sums_BSF / frames_in_stack(lengths_B, sums_BSF.shape[1], self.factor).clamp(min=1)[..., None]
        return self.output(means_BSF).float(), reduced(lengths_B, self.factor)


class StackSubsampling(nn.Module):
    """Neighbouring frames side by side, normalised if `norm` is `layer` or `rms`, then one projection without bias."""

    def __init__(self, num_feats: int, d_model: int, factor: int, norm: str) -> None:
        super().__init__()
        self.factor = factor
        self.norm = StackNorm(num_feats, factor, centred=norm == "layer") if norm != "none" else None
        self.output = nn.Linear(factor * num_feats, d_model, bias=False)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BSF = stacked(features_BTF, lengths_B, self.factor)
        if self.norm is not None:
            x_BSF = self.norm(x_BSF, lengths_B)
        return self.output(x_BSF).float(), reduced(lengths_B, self.factor)


class StackNorm(nn.Module):
    """LayerNorm (centred) or RMSNorm of each stack, over the frames that there are.

    So the zeros behind an utterance's last frame do not skew its last state; they stay 0.
    """

    def __init__(self, num_feats: int, factor: int, centred: bool) -> None:
        super().__init__()
        self.num_feats, self.factor, self.centred = num_feats, factor, centred
        self.weight = nn.Parameter(torch.ones(factor * num_feats))
        self.bias = nn.Parameter(torch.zeros(factor * num_feats)) if centred else None

    def forward(self, x_BSF: Tensor, lengths_B: Tensor) -> Tensor:
        """Stacks whose invalid entries are 0, and frames per utterance."""
        entries_BS = frames_in_stack(lengths_B, x_BSF.shape[1], self.factor) * self.num_feats
        valid_BSF = length_mask(entries_BS.flatten(), x_BSF.shape[2]).view_as(x_BSF)
        count_BS1 = entries_BS.clamp(min=1)[..., None]
        x_BSF = x_BSF.float()
        if self.centred:
            x_BSF = (x_BSF - x_BSF.sum(-1, keepdim=True) / count_BS1) * valid_BSF
        x_BSF = x_BSF * (x_BSF.square().sum(-1, keepdim=True) / count_BS1 + NORM_EPSILON).rsqrt() * self.weight
        return x_BSF if self.bias is None else x_BSF + self.bias * valid_BSF


def frames_in_stack(lengths_B: Tensor, width: int, factor: int) -> Tensor:
    """How many of each stack's frames are the utterance's own, (B, width): `factor`, fewer in its last, then 0."""
    start_S = torch.arange(width, device=lengths_B.device) * factor
    return (lengths_B[:, None] - start_S).clamp(0, factor)
