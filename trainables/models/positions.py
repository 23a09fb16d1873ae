"""How a transformer learns the order of its input: a kind of positions acts at one of three places.

Sinusoids are added to the input (`position_table`), rotations turn queries and keys (`make_rotation`), relative
positions add a bias to the scores, the same in all layers (`make_bias`) or each layer's own (`make_distances`). A new
kind is a name in `config/model.py` and a branch in one of these.

Shapes: B batch, S positions, R = 2S - 1 distances, D model width, H heads, E = D / H head width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config.model import Blocks, Model
from trainables.models.layers import OwnDropout

LONGEST_WAVE = 10_000.0
BUCKETS = 32  # of distances, half of them to each side
FARTHEST = 800  # states: distances beyond it share a bucket; 800 are 26 to 51 s at reductions 4 and 8


def position_table(kind: str, length: int, config: Model, device: torch.device, start: int = 0) -> Tensor | None:
    """Embeddings (length, D) of positions from `start` on, to add to the input; None unless sinusoidal."""
    if kind != "sinusoidal":
        return None
    position_S = torch.arange(start, start + length, device=device) + config.first_position
    return sinusoids(position_S, config.d_model, config.sinusoids)


class PositionTable:
    """Embeddings (length, D) of positions, to add to the input of a stack, or none.

    Those of the longest training pass so far are kept, for they are the same in every pass.
    """

    def __init__(self, kind: str, config: Model) -> None:
        self.kind, self.config = kind, config
        self.longest: Tensor | None = None

    def __call__(self, length: int, device: torch.device, start: int = 0, kept: bool = False) -> Tensor | None:
        """Embeddings of `length` positions from `start` on; None unless the kind is sinusoidal.

        Args:
            kept: whether the embeddings come from those that are kept; only with `start` 0.
        """
        if not kept:
            return position_table(self.kind, length, self.config, device, start)
        if self.longest is None or len(self.longest) < length or self.longest.device != device:
            self.longest = position_table(self.kind, length, self.config, device)
        return None if self.longest is None else self.longest[:length]


def make_rotation(kind: str, length: int, config: Blocks, device: torch.device, start: int = 0) -> Rotation | None:
    """Rotary embedding of queries and keys for `length` positions from `start` on; None unless `kind` is rotary."""
    if kind != "rotary":
        return None
    return Rotation(torch.arange(start, start + length, device=device), config.head_width, config.rotary_base)


def make_distances(config: Model) -> RelativeKeys | RelativeSinusoids | None:
    """Positions that act on the scores of one layer of the encoder; None if `encoder_positions` has none of these."""
    if config.encoder_positions == "relative_keys":
        return RelativeKeys(config.head_width, config.max_distance)
    return RelativeSinusoids(config) if config.encoder_positions == "transformer_xl" else None


def make_bias(config: Model) -> RelativeBias | None:
    """Bias on the encoder's attention scores; None if `encoder_positions` is not relative."""
    return RelativeBias(config.heads) if config.encoder_positions == "relative" else None


def sinusoids(position_S: Tensor, d_model: int, layout: str) -> Tensor:
    """Sinusoidal embeddings of positions, (S, D): sines and cosines of the position times D/2 rates.

    Args:
        layout: `interleaved`: sine and cosine of each rate side by side, the wavelengths 2 pi x 10000^(2i / D)
            (Vaswani et al., 2017, arXiv 1706.03762, section 3.5); or `concatenated`: all sines, then all cosines, the
            wavelengths growing geometrically from 2 pi to 10000 x 2 pi, both met, as in tensor2tensor and in Whisper.
    """
    half = d_model // 2
    steps = half if layout == "interleaved" else max(half - 1, 1)  # from the first rate to 1 / 10000
    rates = torch.exp(torch.arange(half, device=position_S.device) * (-math.log(LONGEST_WAVE) / steps))
    angles = position_S[:, None] * rates
    if layout == "interleaved":
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Rotation:
    """Rotary positions (Su et al., 2021, arXiv 2104.09864): pairs of a head's coordinates turn with the position.

    The scores of rotated queries and keys depend on their distance alone. Coordinate i is paired with i + E/2, as in
    GPT-NeoX.

    Args:
        position_S: the position of each element.
        base: wavelengths grow geometrically from 2 pi to almost base x 2 pi.
    """

    def __init__(self, position_S: Tensor, head_size: int, base: float) -> None:
        rates = base ** -(torch.arange(0, head_size, 2, device=position_S.device) / head_size)
        angles_SE = (position_S[:, None] * rates).repeat(1, 2)
        self.cos_SE, self.sin_SE = angles_SE.cos(), angles_SE.sin()

    def __call__(self, x_BHSE: Tensor, place: int | slice = slice(None)) -> Tensor:
        """Turns queries or keys by their positions; `place` picks one of the positions, as in a search."""
        first, second = x_BHSE.chunk(2, dim=-1)
        turned_BHSE = torch.cat([-second, first], dim=-1)
        return (x_BHSE * self.cos_SE[place] + turned_BHSE * self.sin_SE[place]).to(x_BHSE.dtype)


class RelativeBias(nn.Module):
    """Relative positions: a learnt number for each head and distance, added to the scores; 0 at first.

    Distances are sorted into buckets: each near one has its own, farther ones share by their logarithm, and the two
    directions are apart (Raffel et al., 2020, arXiv 1910.10683, section 2.1). All layers share one table.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.table = nn.Embedding(BUCKETS, heads)
        nn.init.zeros_(self.table.weight)

    def forward(self, length: int) -> Tensor:
        """Bias (1, H, S, S) for S = `length` queries and keys."""
        position_S = torch.arange(length, device=self.table.weight.device)
        buckets_SS = distance_bucket(position_S - position_S[:, None])
        return self.table(buckets_SS).permute(2, 0, 1)[None]


class RelativeKeys(nn.Module):
    """Relative positions: a learned key for each distance, shared by the heads (Shaw et al., 2018, arXiv 1803.02155).

    The score of a query and a key is q . (k + r), with r the key of their distance, query position minus key position.
    Distances beyond `farthest` to either side share one key. Each layer has its own table.
    """

    def __init__(self, head_size: int, farthest: int) -> None:
        super().__init__()
        self.farthest = farthest
        self.table = nn.Embedding(2 * farthest + 1, head_size)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, query_BHSE: Tensor) -> tuple[Tensor, Tensor]:
        """The query, unchanged, and the bias of its scores, q . r / sqrt(E), (B, H, S, S)."""
        position_S = torch.arange(query_BHSE.shape[2], device=query_BHSE.device)
        distance_SS = (position_S[:, None] - position_S).clamp(-self.farthest, self.farthest)
        keys_SSE = self.table(distance_SS + self.farthest).to(query_BHSE.dtype)
        return query_BHSE, torch.einsum("bhqe,qke->bhqk", query_BHSE, keys_SSE) * query_BHSE.shape[-1] ** -0.5


class RelativeSinusoids(nn.Module):
    """Relative positions of Transformer-XL (Dai et al., 2019, arXiv 1901.02860, section 3.3).

    The score of query i and key j is ((q_i + u) . k_j + (q_i + v) . W r_(i-j)) / sqrt(E), with r the sinusoids of the
    distance, W a projection, and u and v learned biases, which are 0 at first. Each layer has its own W, u and v.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.width, self.layout = config.d_model, config.sinusoids
        self.dropout = OwnDropout(config.position_dropout)
        self.projection = nn.Linear(config.d_model, config.heads * config.head_width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(config.heads, config.head_width))  # u
        self.position_bias = nn.Parameter(torch.zeros(config.heads, config.head_width))  # v

    def forward(self, query_BHSE: Tensor) -> tuple[Tensor, Tensor]:
        """The query with u added, and the bias of its scores, (q + v) . W r / sqrt(E), (B, H, S, S)."""
        length, size = query_BHSE.shape[-2:]
        distance_R = length - 1 - torch.arange(2 * length - 1, device=query_BHSE.device)
        rows_RD = self.dropout(sinusoids(distance_R, self.width, self.layout)).to(self.projection.weight.dtype)
        keys_HER = self.projection(rows_RD).to(query_BHSE.dtype).unflatten(-1, (-1, size)).permute(1, 2, 0)
        content_H1E, position_H1E = (
            bias[:, None].to(query_BHSE.dtype) for bias in (self.content_bias, self.position_bias)
        )
        scores_BHSR = (query_BHSE + position_H1E) @ keys_HER
        return query_BHSE + content_H1E, by_key(scores_BHSR) * size**-0.5


def by_key(scores_BHSR: Tensor) -> Tensor:
    """Scores of each query with the distances S - 1 to -(S - 1) -> scores with each key, (B, H, S, S).

    Row i is moved left by S - 1 - i, since key j is at the distance i - j: with one number before each row, the rows
    of 2S numbers are read as rows of S, the first of which is left out, and then as rows of 2S - 1.
    """
    batch, heads, length, width = scores_BHSR.shape
    rows_BHRS = F.pad(scores_BHSR, (1, 0)).reshape(batch, heads, -1, length)[:, :, 1:]
    return rows_BHRS.reshape(batch, heads, length, width)[..., :length]


def distance_bucket(distance: Tensor) -> Tensor:
    """Bucket, 0 to BUCKETS - 1, of each signed distance (key position minus query position)."""
    side = BUCKETS // 2
    exact = side // 2
    far = distance.abs().clamp(min=exact)
    logarithmic = exact + (torch.log(far / exact) / math.log(FARTHEST / exact) * (side - exact)).long()
    bucket = torch.where(distance.abs() < exact, distance.abs(), logarithmic.clamp(max=side - 1))
    return bucket + side * (distance > 0)
