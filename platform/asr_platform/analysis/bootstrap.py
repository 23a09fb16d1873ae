"""Bootstrap over speakers and utterances: 95% intervals of error rates, and whether two models differ significantly.

After Bisani and Ney (2004), "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP. A
resample draws as many utterances as the split has, with replacement; its error rate is the sum of their errors over
the sum of their reference lengths. Two models are compared on the same resamples (paired), so utterances that are hard
for both do not widen the interval of their difference.

Utterances of one speaker resemble each other, so that an interval from utterances alone would be too narrow for new
voices. Where all speakers are known, and there are at least two, a resample draws as many speakers as there are, and
for each of them as many utterances as it has (Davison and Hinkley, 1997, "Bootstrap Methods and their Application",
section 3.8; for speech recognition Liu and Peng, 2020, "Statistical testing on ASR performance via blockwise
bootstrap", Interspeech). With a handful of speakers such intervals are still rather too narrow than too wide.

Shapes: R resamples, N utterances, M models, S speakers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainables.evaluation.utterance_errors import UtteranceErrors

RESAMPLES = 2000
PERCENTILES = 2.5, 97.5  # of the resamples: the bounds of a 95% interval
SEED = 0  # equal errors give equal intervals
DRAWN_AT_ONCE = 4_000_000  # utterances, which bounds the memory

METHOD = "bootstrap over the utterances, by speaker where known"

Floats = npt.NDArray[np.float64]


class ConfidenceInterval(NamedTuple):
    """95% percentile interval of an error rate, or of a difference between two, as fractions."""

    low: float
    high: float

    @classmethod
    def of(cls, samples_R: Floats) -> ConfidenceInterval:
        """Interval that holds 95% of the resampled values."""
        low, high = np.percentile(samples_R, PERCENTILES)
        return cls(float(low), float(high))

    def __str__(self) -> str:
        """Interval in percent, such as `2.31–3.40%`."""
        return f"{100 * self.low:.2f}–{self.high:.2%}"


class Difference(NamedTuple):
    """Difference between the error rates of two models, A and B, on the same utterances.

    Args:
        value: A's rate on the whole split minus B's.
        interval: 95% interval of the difference over paired resamples.
        better: share of resamples in which A has the lower rate; equal rates count half.
    """

    value: float
    interval: ConfidenceInterval
    better: float

    @property
    def tied(self) -> bool:
        """Whether the models do not differ significantly: 0 lies in the interval."""
        return self.interval.low <= 0 <= self.interval.high


class CerInterval(NamedTuple):
    """Confidence interval of a trial's CER, and how the CER compares with the best trial's.

    Args:
        tied: whether the trial does not differ significantly from the best; for the best, whether any other trial does
            not. None if the best trial has no recorded errors on the same utterances.
    """

    interval: ConfidenceInterval
    tied: bool | None


def resampled_rates(
    errors_NM: npt.ArrayLike,
    lengths_N: npt.ArrayLike,
    speakers_N: Sequence[str | None] | None = None,
    resamples: int = RESAMPLES,
) -> Floats:
    """Error rates (R, M) of M models on R common resamples of N utterances.

    Args:
        errors_NM: number of errors of each model in each utterance.
        lengths_N: length of each reference.
        speakers_N: who says each utterance. Speakers are drawn, and utterances of each, if all are known and there are
            at least two; else utterances are drawn.
    """
    errors, lengths = np.asarray(errors_NM, dtype=np.float64), np.asarray(lengths_N, dtype=np.float64)
    count, random = len(lengths), np.random.default_rng(SEED)
    columns = np.column_stack([errors, lengths])
    clusters = _clusters(speakers_N or [])
    parts = []
    step = max(1, DRAWN_AT_ONCE // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if clusters:
            drawn = _drawn_by_cluster(random, size, clusters)
        else:
            drawn = (random.integers(count, size=(size, count)) + count * np.arange(size)[:, None]).ravel()
        times_RN = np.bincount(drawn, minlength=size * count).reshape(size, count)
        parts.append(times_RN.astype(np.float64) @ columns)
    sums = np.concatenate(parts)
    return sums[:, :-1] / np.maximum(sums[:, -1:], 1)  # a reference may be empty


def _clusters(speakers_N: Sequence[str | None]) -> list[npt.NDArray[np.int64]]:
    """Numbers of each speaker's utterances; empty where a speaker is unknown, or there are fewer than two."""
    names = sorted({name for name in speakers_N if name is not None})
    if len(names) < 2 or None in speakers_N:
        return []
    number_N = np.searchsorted(names, np.array(speakers_N))
    return np.split(np.argsort(number_N, kind="stable"), np.cumsum(np.bincount(number_N))[:-1])


def _drawn_by_cluster(
    random: np.random.Generator, resamples: int, clusters: Sequence[npt.NDArray[np.int64]]
) -> npt.NDArray[np.int64]:
    """Utterances drawn in each resample, as flat indices into an array (resamples, N)."""
    order_N, sizes_S = np.concatenate(clusters), np.array([len(cluster) for cluster in clusters])
    starts_S = np.cumsum(sizes_S) - sizes_S
    speakers = random.integers(len(clusters), size=(resamples, len(clusters))).ravel()
    times = sizes_S[speakers]
    within = random.integers(np.repeat(times, times))
    resample = np.repeat(np.repeat(np.arange(resamples), len(clusters)), times)
    return resample * len(order_N) + order_N[np.repeat(starts_S[speakers], times) + within]


def error_interval(errors: UtteranceErrors, words: bool = False) -> ConfidenceInterval:
    """Confidence interval of a model's CER, or of its WER if `words`."""
    counts, lengths = (errors.word_errors, errors.words) if words else (errors.character_errors, errors.characters)
    return ConfidenceInterval.of(resampled_rates(np.column_stack([counts]), lengths, errors.speakers)[:, 0])


def difference(a: UtteranceErrors, b: UtteranceErrors, words: bool = False) -> Difference:
    """Difference between two models' CERs, or WERs if `words`.

    `a` and `b` must have the same utterances (`UtteranceErrors.same_utterances`).
    """
    if words:
        rates_RM = resampled_rates(np.column_stack([a.word_errors, b.word_errors]), a.words, a.speakers)
        value = a.wer - b.wer
    else:
        rates_RM = resampled_rates(np.column_stack([a.character_errors, b.character_errors]), a.characters, a.speakers)
        value = a.cer - b.cer
    samples_R = rates_RM[:, 0] - rates_RM[:, 1]
    better = float(np.mean(samples_R < 0) + np.mean(samples_R == 0) / 2)
    return Difference(value, ConfidenceInterval.of(samples_R), better)


def cer_intervals(best: int, errors: Mapping[int, UtteranceErrors]) -> dict[int, CerInterval]:
    """CER intervals of trials by number, each trial compared with the best.

    Args:
        best: number of the best trial, which may be missing in `errors`.
    """
    found: dict[int, CerInterval] = {}
    for numbers in _groups(errors):
        first, counts_NM = errors[numbers[0]], np.column_stack([errors[number].character_errors for number in numbers])
        rates_RM = resampled_rates(counts_NM, first.characters, first.speakers)
        tied: dict[int, bool | None] = dict.fromkeys(numbers)
        if best in numbers:
            low_M, high_M = _bounds(rates_RM - rates_RM[:, [numbers.index(best)]])
            tied = dict(zip(numbers, ((low_M <= 0) & (high_M >= 0)).tolist(), strict=True))
            tied[best] = sum(map(bool, tied.values())) > 1
        low_M, high_M = _bounds(rates_RM)
        for number, low, high in zip(numbers, low_M.tolist(), high_M.tolist(), strict=True):
            found[number] = CerInterval(ConfidenceInterval(low, high), tied[number])
    return found


def _bounds(samples_RM: Floats) -> tuple[Floats, Floats]:
    """Low and high bounds (M,) of the 95% interval of each model's samples, which lie together in memory for it."""
    low_M, high_M = np.percentile(np.ascontiguousarray(samples_RM.T), PERCENTILES, axis=1, overwrite_input=True)
    return low_M, high_M


def _groups(errors: Mapping[int, UtteranceErrors]) -> list[list[int]]:
    """Trial numbers, grouped by the utterances that the trials were validated on."""
    groups: list[list[int]] = []
    for number, one in errors.items():
        group = next((group for group in groups if errors[group[0]].same_utterances(one)), None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    return groups
