"""Whether a difference is real: bootstrap over utterances (Bisani and Ney, 2004, ICASSP, "Bootstrap estimates for
confidence intervals in ASR performance evaluation").

A resample draws as many utterances as the split has, with replacement; its error rate is the sum of their errors over
the sum of their reference lengths. What the rates of many resamples spread over is what another test set of this size
might have said. Two models are compared on the same resamples, so what is hard about an utterance, for both, is no part
of the difference.

Shapes: R resamples, N utterances, M models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainables.evaluation.utterance_errors import UtteranceErrors

RESAMPLES = 2000
TAILS = 2.5, 97.5  # percent: a 95% interval
SEED = 0  # the same errors, the same figures
DRAWN_AT_ONCE = 4_000_000  # utterances, which bounds the memory

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """95% of the resamples lie in it."""

    low: float
    high: float


class Difference(NamedTuple):
    """How the error rate of one model, A, lies to that of another, B, over the same utterances.

    Args:
        value: A's rate less B's, of the whole split.
        interval: of the paired resamples' differences.
        better: the share of resamples in which A has the lower rate; equal rates count half.
    """

    value: float
    interval: Interval
    better: float

    @property
    def tied(self) -> bool:
        """Whether the two cannot be told apart: the interval has 0 in it."""
        return self.interval.low <= 0 <= self.interval.high


class ConfidenceInterval(NamedTuple):
    """What is known of a model's rate beside those of others.

    Args:
        tied: whether it cannot be told from the best; of the best itself, whether any other cannot. None: they were
            not tried on the same utterances.
    """

    interval: Interval
    tied: bool | None


def rates(errors_NM: npt.ArrayLike, lengths_N: npt.ArrayLike, resamples: int = RESAMPLES) -> Floats:
    """Error rates (R, M) of the same resamples for every model."""
    errors, lengths = np.asarray(errors_NM, dtype=np.float64), np.asarray(lengths_N, dtype=np.float64)
    count, random = len(lengths), np.random.default_rng(SEED)
    columns = np.column_stack([errors, lengths])
    parts = []
    step = max(1, DRAWN_AT_ONCE // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = random.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times_RN = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        parts.append(times_RN.astype(np.float64) @ columns)
    sums = np.concatenate(parts)
    return sums[:, :-1] / np.maximum(sums[:, -1:], 1)  # a reference may be empty


def interval(samples_R: Floats) -> Interval:
    """The percentile interval of resampled rates, or of differences."""
    low, high = np.percentile(samples_R, TAILS)
    return Interval(float(low), float(high))


def error_interval(errors: UtteranceErrors, words: bool = False) -> Interval:
    """Of a model's CER, or WER."""
    counts, lengths = (errors.word_errors, errors.words) if words else (errors.character_errors, errors.characters)
    return interval(rates(np.column_stack([counts]), lengths)[:, 0])


def difference(a: UtteranceErrors, b: UtteranceErrors, words: bool = False) -> Difference:
    """Of two models' CER, or WER; both must be of the same utterances (`UtteranceErrors.same_utterances`)."""
    if words:
        found_RM = rates(np.column_stack([a.word_errors, b.word_errors]), a.words)
        value = a.wer - b.wer
    else:
        found_RM = rates(np.column_stack([a.character_errors, b.character_errors]), a.characters)
        value = a.cer - b.cer
    samples_R = found_RM[:, 0] - found_RM[:, 1]
    better = float(np.mean(samples_R < 0) + np.mean(samples_R == 0) / 2)
    return Difference(value, interval(samples_R), better)


def intervals(best: int, errors: Mapping[int, UtteranceErrors]) -> dict[int, ConfidenceInterval]:
    """Of each trial's CER; `best` is the number of the trial that ranks first, which may have no errors on record."""
    found: dict[int, ConfidenceInterval] = {}
    for numbers in _groups(errors):
        lengths = errors[numbers[0]].characters
        rates_RM = rates(np.column_stack([errors[number].character_errors for number in numbers]), lengths)
        tied: dict[int, bool | None] = dict.fromkeys(numbers)
        if best in numbers:
            from_best_RM = rates_RM - rates_RM[:, [numbers.index(best)]]
            low_M, high_M = np.percentile(from_best_RM, TAILS, axis=0)
            tied = dict(zip(numbers, ((low_M <= 0) & (high_M >= 0)).tolist(), strict=True))
            tied[best] = sum(map(bool, tied.values())) > 1
        low_M, high_M = np.percentile(rates_RM, TAILS, axis=0)
        for number, low, high in zip(numbers, low_M.tolist(), high_M.tolist(), strict=True):
            found[number] = ConfidenceInterval(Interval(low, high), tied[number])
    return found


def _groups(errors: Mapping[int, UtteranceErrors]) -> Sequence[list[int]]:
    """Numbers of trials that were tried on the same utterances, together."""
    groups: list[list[int]] = []
    for number, one in errors.items():
        group = next((group for group in groups if errors[group[0]].same_utterances(one)), None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    return groups
