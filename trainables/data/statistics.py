"""Mean and variance of each bin in one pass, in float64, whatever the number of frames."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class RunningStatistics:
    """Mean and standard deviation per bin over all frames that were added.

    Chan, Golub and LeVeque's pairwise update (1979): each block's own mean and sum of squared
    deviations are merged, so that no large sums are subtracted from each other.
    """

    def __init__(self, bins: int) -> None:
        self.count = 0
        self.mean: npt.NDArray[np.float64] = np.zeros(bins)
        self._squares: npt.NDArray[np.float64] = np.zeros(bins)  # sum of squared deviations from the mean

    def add(self, frames: npt.NDArray[np.floating]) -> None:
        """Merges a block of frames (T, F)."""
        block = frames.astype(np.float64)
        count = len(block)
        if not count:
            return
        mean = block.mean(axis=0)
        delta = mean - self.mean
        total = self.count + count
        self.mean = self.mean + delta * (count / total)
        self._squares += np.square(block - mean).sum(axis=0) + np.square(delta) * (self.count * count / total)
        self.count = total

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """Population standard deviation (F,)."""
        return np.sqrt(self._squares / max(self.count, 1))
