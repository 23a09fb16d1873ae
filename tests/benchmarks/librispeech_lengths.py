"""Lengths as those of LibriSpeech's splits, drawn from their histograms: of audio in frames, of texts in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from noise_corpus import LENGTH_EDGES, LENGTH_SHARES

FRAMES_PER_SECOND = 100
TOKENS_PER_SECOND, DEVIATION = 3.9, 0.55  # of a thousand subwords, and between utterances


class Lengths(NamedTuple):
    """Frames and tokens (without EOS) of each utterance, (N,)."""

    frames: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """Number and durations of a split's utterances: uniform between `edges` in seconds, with `shares`."""

    utterances: int
    edges: npt.NDArray[np.float64]
    shares: npt.NDArray[np.float64]

    def lengths(self, scale: float = 1.0, seed: int = 0) -> Lengths:
        """Lengths of a share `scale` of the split's utterances."""
        random, count = np.random.default_rng(seed), max(1, round(self.utterances * scale))
        part = random.choice(len(self.shares), count, p=self.shares / self.shares.sum())
        seconds = random.uniform(self.edges[part], self.edges[part + 1])
        rates = random.normal(TOKENS_PER_SECOND, DEVIATION, count).clip(1)
        frames = np.rint(seconds * FRAMES_PER_SECOND).astype(np.int64)
        return Lengths(frames, np.rint(seconds * rates).astype(np.int64).clip(1))


TRAIN_CLEAN_100 = Histogram(28_539, LENGTH_EDGES, LENGTH_SHARES)
# Mean 7.2 s, standard deviation 4.7 s.
DEV_CLEAN = Histogram(
    2_703,
    np.array([1.4, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 28, 33]),
    np.array([0.14, 0.16, 0.14, 0.10, 0.15, 0.10, 0.07, 0.06, 0.045, 0.02, 0.01, 0.005]),
)
