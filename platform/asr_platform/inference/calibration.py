"""Calibration of the confidence of words: a logistic regression of "this word is right" on how sure the heads are.

After Platt (1999, "Probabilistic outputs for support vector machines", section 2.2): the targets are not quite 0 and 1,
so that a split with few or no wrong words gives confidences below 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from asr_platform.inference.decoding_study import Batch
from trainables.evaluation.metrics import align_words
from trainables.inference.recognizer import Recognizer
from trainables.inference.words import Confidence, aligned_words

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

FOLDS = 5
BINS = 10

Evidence = npt.NDArray[np.floating]
"""Evidence of W words, (W, E)."""
Right = npt.NDArray[np.bool_]
"""Which words are right, (W,)."""


def calibrate(
    recognizer: Recognizer, batches: Sequence[Batch], texts: Sequence[str], corpus_hash: str, split: str
) -> Confidence | None:
    """Fits the confidence of words on utterances with known texts.

    A word is right if the word alignment with the reference says so. The calibration error comes from five-fold
    cross-validation, whose folds are of whole utterances.

    Args:
        texts: what the recogniser wrote, for the utterances of all batches in order.

    Returns:
        None if the model has no CTC head, or wrote words in fewer than five utterances.
    """
    from sklearn.model_selection import GroupKFold  # slow to import, and a sweep imports this module as it starts

    if not recognizer.has_times:
        return None
    evidence: list[list[float]] = []
    right: list[bool] = []
    names: list[str] = []
    utterances: list[str] = []
    for batch in batches:
        written = texts[len(names) : len(names) + len(batch.ids)]
        names += batch.ids
        rows = [text.split() for text in written]
        aligned = aligned_words(recognizer, rows, batch.encoded, True)
        for name, pairs, found in zip(batch.ids, align_words(batch.references, written), aligned, strict=True):
            evidence += found.evidence
            right += [pair.reference == pair.hypothesis for pair in pairs if pair.hypothesis]
            utterances += [name] * len(found.evidence)
    if len(set(utterances)) < FOLDS:
        return None
    evidence_WE, right_W = np.array(evidence), np.array(right)
    held_out_W = np.zeros(len(right))
    for fitted_on, others in GroupKFold(FOLDS).split(evidence_WE, groups=utterances):
        model = _fitted(evidence_WE[fitted_on], right_W[fitted_on])
        held_out_W[others] = model.predict_proba(evidence_WE[others])[:, 1]
    fitted = _fitted(evidence_WE, right_W)
    return Confidence(
        intercept=float(fitted.intercept_[0]),
        coefficients=fitted.coef_[0].tolist(),
        corpus_hash=corpus_hash,
        split=split,
        words=len(right),
        wrong=int((~right_W).sum()),
        calibration_error=calibration_error(held_out_W, right_W),
    )


def _fitted(evidence_WE: Evidence, right_W: Right) -> LogisticRegression:
    """Logistic regression with Platt's targets: (r + 1) / (r + 2) for r right words, 1 / (w + 2) for w wrong ones."""
    from sklearn.linear_model import LogisticRegression

    right, wrong = int(right_W.sum()), int((~right_W).sum())
    target_W = np.where(right_W, (right + 1) / (right + 2), 1 / (wrong + 2))
    both = np.repeat([True, False], len(right_W))
    weights = np.concatenate([target_W, 1 - target_W])
    return LogisticRegression().fit(np.concatenate([evidence_WE, evidence_WE]), both, weights)


def calibration_error(confidence_W: npt.NDArray[np.floating], right_W: Right) -> float:
    """Expected calibration error over ten bins of equal width (Guo et al., 2017, arXiv 1706.04599, equation 3).

    It is the mean, over the words, of the distance between the share of right words and the mean confidence of a bin.
    """
    bin_W = np.minimum((confidence_W * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bin_W, weights=values, minlength=BINS) for values in (right_W.astype(float), confidence_W)]
    return float(np.abs(sums[0] - sums[1]).sum() / len(right_W))
