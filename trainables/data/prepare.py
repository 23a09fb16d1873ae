"""Utterances in, corpus out: features computed by worker processes, written in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.data.features import Recipe
from trainables.data.mistakes import SHOWN, raise_together
from trainables.data.utterance import TRAINING_PREFIX, VALIDATION_PREFIXES, Featurised, Utterance, featurise
from trainables.data.workers import available_cpus, ordered_map
from trainables.errors import InputError

READY_FEATURES = "hw4"  # the source whose features are made already, with the recipe of the same name
UTTERANCES_PER_JOB = 32  # with fewer, a worker's start costs more than it gives


def prepare(
    utterances: Sequence[Utterance],
    recipe: Recipe,
    out: Path,
    source: str,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Writes the corpus of `utterances` to `out`; the result does not depend on `jobs`.

    Args:
        utterances: what an importer listed; they are written in this order.
        recipe: how to make features.
        out: the folder to make; nothing is there until everything is.
        source: the importer's name, kept in the corpus.
        jobs: at most so many worker processes; default: one a CPU. 1 works in this process.
        progress: called with (utterances done, all utterances).

    Raises:
        InputError: `out` is taken, or utterances are wrong: the first 20 of them, in one message.
    """
    if source == READY_FEATURES and recipe.name != READY_FEATURES:
        raise InputError(
            f"the source {source} has ready features of the recipe {READY_FEATURES}, not {recipe.name}",
            f"Leave the recipe at {READY_FEATURES}.",
        )
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, but got {jobs}", "Set the number of worker processes.")
    with CorpusWriter(out, recipe, source) as writer:
        raise_together(list(listing_mistakes(utterances)))
        mistakes: list[str] = []
        jobs = min(jobs or available_cpus(), 1 + len(utterances) // UTTERANCES_PER_JOB)
        results = ordered_map(partial(featurise, recipe=recipe), utterances, jobs)
        for done, (utterance, result) in enumerate(zip(utterances, results, strict=True), start=1):
            try:
                features, seconds = result if isinstance(result, tuple) else _raise(result)
                writer.add(utterance.split, utterance.id, utterance.text, seconds, features)
            except InputError as error:
                mistakes.append(_located(error.problem, utterance.origin))
                if len(mistakes) >= SHOWN:
                    break
            if progress:
                progress(done, len(utterances))
        raise_together(mistakes)
        return writer.finish()


def listing_mistakes(utterances: Sequence[Utterance]) -> Iterator[str]:
    """What is wrong before any audio is read: ids that occur twice, transcripts that are empty or missing."""
    transcribed = {utterance.split for utterance in utterances if utterance.text is not None}
    seen: set[tuple[str, str]] = set()
    for utterance in utterances:
        name = f"{utterance.split}/{utterance.id}"
        if (utterance.split, utterance.id) in seen:
            yield _located(f"{name}: the same id twice in a split", utterance.origin)
        seen.add((utterance.split, utterance.id))
        needed = utterance.split.startswith((TRAINING_PREFIX, *VALIDATION_PREFIXES)) or utterance.split in transcribed
        if utterance.text is None and needed:
            yield _located(f"{name}: no transcript", utterance.origin)
        elif utterance.text is not None and not utterance.text.strip():
            yield _located(f"{name}: empty transcript", utterance.origin)


def _located(problem: str, origin: str) -> str:
    return problem if not origin or origin in problem else f"{origin}: {problem}"


def _raise(error: InputError) -> Featurised:
    raise error
