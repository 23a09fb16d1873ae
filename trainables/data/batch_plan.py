"""Batch plans: which utterances share a batch, and to what length it is padded.

A GPU runs best on few shapes, so a batch has one of at most `MAX_BUCKETS` padded lengths, the same in all epochs, and
the last one its own. Lengths are those of the epoch, after its speeds are drawn, and the padded lengths are chosen to
pad as little as possible. Everything is done in numpy, nothing per utterance in Python.

Shapes: N utterances, B batch, K buckets, M candidates for their edges.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MAX_BUCKETS = 31  # with the last batch of an epoch, which is smaller, 32 shapes
BATCHES_PER_BUCKET = 4  # with fewer, the same utterances would always share a batch
CANDIDATES = 200  # padded lengths to choose from; more save less than 0.1% of padding

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BatchPlan:
    """Batches of every epoch: utterances sorted into length buckets and shuffled by (seed, epoch).

    Args:
        frames: lengths (N,) of the utterances.
        budget: largest number of frames in a batch of all workers, padding included.
        members: indices of the utterances to train on; None: all.
        expected: lengths that the members may have in any epoch, for the edges of the buckets; None: `frames`.
    """

    frames: Integers
    budget: float
    seed: int = 0
    members: Integers | None = None
    expected: Integers | None = None

    def at(self, frames: Integers) -> BatchPlan:
        """The plan with other lengths (N,) of the utterances, among the expected ones, and the same padded lengths."""
        plan = replace(self, frames=frames)
        plan.__dict__["edges"] = self.edges
        return plan

    @cached_property
    def edges(self) -> Integers:
        """Padded lengths (K,), ascending; the largest is that of the longest utterance."""
        expected = self._sorted_frames if self.expected is None else self.expected
        batches = self._sorted_frames.sum() / self.budget
        count = int(np.clip(batches / BATCHES_PER_BUCKET, 1, min(MAX_BUCKETS, len(self._order))))
        return bucket_edges(expected, count)

    @cached_property
    def _order(self) -> Integers:
        """Members by decreasing length."""
        members = np.arange(len(self.frames)) if self.members is None else self.members
        return members[np.argsort(-self.frames[members], kind="stable")]

    @property
    def _sorted_frames(self) -> Integers:
        return self.frames[self._order]

    @cached_property
    def _bounds(self) -> Integers:
        """Number of longer members (K,) for each padded length: where its bucket begins in `_order`."""
        return np.searchsorted(-self._sorted_frames, -self.edges, side="left")

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """Size and padded length of each batch of a shuffled epoch, longest first.

        A batch is padded to the edge of the bucket in which it begins, and ends in the next one where its own is empty.
        """
        bounds, edges = self._bounds[::-1].tolist(), self.edges[::-1].tolist()
        return self._filled(lambda start: edges[bisect_right(bounds, start) - 1])

    def _filled(self, edge_at: Callable[[int], int]) -> list[tuple[int, int]]:
        """Size and padded length of batches that are filled in the order of lengths.

        Args:
            edge_at: padded length of a batch, given the number of members before it.
        """
        found, start, total = [], 0, len(self._order)
        while start < total:
            edge = edge_at(start)
            size = max(1, int(self.budget // edge))
            found.append((min(size, total - start), edge))
            start += size
        return found

    def epoch(self, epoch: int | None = None) -> list[tuple[Integers, int]]:
        """Batches of one epoch as (utterance indices, padded length in frames).

        Args:
            epoch: number of the epoch, which shuffles; None: longest first, each batch padded to its longest.
        """
        if epoch is None:
            longest = self._sorted_frames
            return _cut(self._order, self._filled(lambda start: int(longest[start])))
        random = np.random.default_rng([self.seed, epoch])
        buckets = np.split(self._order, self._bounds[::-1][1:])
        batches = _cut(np.concatenate([random.permutation(bucket) for bucket in buckets]), self.shapes)
        random.shuffle(batches)
        return batches

    @property
    def batches(self) -> int:
        """Number of batches in a shuffled epoch."""
        return len(self.shapes)

    def padding_share(self) -> float:
        """Share of the gathered frames of a shuffled epoch that are padding."""
        return 1 - float(self._sorted_frames.sum()) / sum(size * edge for size, edge in self.shapes)


def batches_per_update(frames: Integers, budget: float, undivided: float) -> int:
    """Number of batches that make an update.

    One, if an epoch has updates enough for all buckets. Else an update is made of several batches, each of one bucket:
    with few batches there are few buckets, and much is padded.

    Args:
        frames: lengths (N,) of the utterances.
        budget: padded length that an update may hold.
        undivided: padded length of a batch that is divided no further.
    """
    wanted = math.ceil(MAX_BUCKETS * BATCHES_PER_BUCKET * budget / frames.sum())
    return min(wanted, math.ceil(budget / undivided))


def bucket_edges(lengths: Integers, count: int) -> Integers:
    """At most `count` padded lengths, ascending, with which all of `lengths` together are padded the least.

    Exact for the candidates, by dynamic programming over the number of buckets: the best edges below a candidate are
    those of one bucket less below an earlier one.
    """
    lengths = np.sort(lengths)
    found = np.unique(lengths)
    if len(found) > CANDIDATES:  # evenly spaced, each the largest length up to there
        places = np.searchsorted(found, np.linspace(found[0], found[-1], CANDIDATES), side="right") - 1
        found = found[np.unique(places)]
    upto_M = np.searchsorted(lengths, found, side="right")
    before_M = np.concatenate([[0], upto_M[:-1]])
    # Padded frames of a bucket from candidate i to candidate j.
    cost_MM = np.where(before_M[:, None] < upto_M, found * (upto_M - before_M[:, None]), np.inf)
    best_M, choices = cost_MM[0], [np.zeros(len(found), dtype=np.int64)]
    for _ in range(1, count):
        total_MM = np.concatenate([[0.0], best_M[:-1]])[:, None] + cost_MM
        choices.append(total_MM.argmin(0))
        best_M = total_MM.min(0)
    edges, place = [], len(found) - 1
    for choice_M in reversed(choices):
        edges.append(found[place])
        if choice_M[place] == 0:
            break
        place = choice_M[place] - 1
    return np.array(edges[::-1])


def _cut(order: Integers, shapes: Sequence[tuple[int, int]]) -> list[tuple[Integers, int]]:
    """Batches of utterances in an order, each with its padded length, given size and padded length of each."""
    ends = np.cumsum([size for size, _ in shapes])
    return [(indices, edge) for indices, (_, edge) in zip(np.split(order, ends[:-1]), shapes, strict=True)]


class Rows(NamedTuple):
    """A worker's share of a batch.

    Attributes:
        indices: numbers (B,) of the utterances, on the CPU.
        index_B: the same on the device of the features.
        weights_B: weight of each utterance in the loss, on the device; 0 for an utterance that only fills the batch.
    """

    indices: Integers
    index_B: Tensor
    weights_B: Tensor

    @classmethod
    def of(cls, indices: Integers, device: torch.device | str = "cpu", weights: npt.ArrayLike | None = None) -> Rows:
        """Rows of utterances, all of weight 1 unless `weights` are given."""
        given = np.ones(len(indices)) if weights is None else np.asarray(weights)
        return cls(indices, torch.from_numpy(indices).to(device), torch.from_numpy(given.astype(np.float32)).to(device))


class PassBatch(NamedTuple):
    """A batch of all workers, and what this worker gathers of it.

    Attributes:
        indices: numbers of the utterances of all workers.
        edge: padded length in frames or tokens.
        tokens: padded length of the texts in tokens, EOS included.
        rows: this worker's share.
        following: numbers of the utterances of this worker's share of the next batch; None: this is the last one.
    """

    indices: Integers
    edge: int
    tokens: int
    rows: Rows
    following: Integers | None = None


def placed(
    batches: Sequence[tuple[Integers, int]], target_tokens: Integers, rank: int, world: int, device: torch.device
) -> list[PassBatch]:
    """An epoch's batches with this worker's share of each on the device, uploaded in one piece.

    Batches of the same padded length have texts of the same padded length, too.

    Args:
        target_tokens: tokens (N,) of each utterance, EOS included.
    """
    longest: dict[int, int] = {}
    for indices, edge in batches:
        longest[edge] = max(longest.get(edge, 0), int(target_tokens[indices].max()))
    shares = [worker_share(indices, rank, world) for indices, _ in batches]
    every = Rows.of(np.concatenate([share for share, _ in shares]), device, np.concatenate([one for _, one in shares]))
    found, start, coming = [], 0, [*(share for share, _ in shares[1:]), None]
    for (indices, edge), (share, _), following in zip(batches, shares, coming, strict=True):
        part = slice(start, start + len(share))
        rows = Rows(every.indices[part], every.index_B[part], every.weights_B[part])
        found.append(PassBatch(indices, edge, longest[edge], rows, following))
        start += len(share)
    return found


def worker_share(indices: Integers, rank: int, world: int) -> tuple[Integers, npt.NDArray[np.float32]]:
    """Utterances of a batch for worker number `rank` of `world`, and their weights in the loss.

    All workers get equally many utterances. If the batch cannot be divided, some are repeated with weight 0.
    """
    size = math.ceil(len(indices) / world)
    places = np.arange(rank * size, (rank + 1) * size)
    return indices[places % len(indices)], (places < len(indices)).astype(np.float32)


def in_batches(lengths: Sequence[int], budget: float) -> Iterator[Integers]:
    """Yields the indices of items, longest first, in batches whose padded length stays within `budget`."""
    if lengths:
        yield from (indices for indices, _ in BatchPlan(np.asarray(lengths), budget).epoch())
