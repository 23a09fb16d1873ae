"""Utterances in, corpus out: features computed by worker processes, written in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.data.features import Recipe
from trainables.data.mistakes import BadRecordings
from trainables.data.text.transcripts import normalized, unusable
from trainables.data.utterance import Featurised, Utterance, featurise, trains, validates
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
    bad: BadRecordings | None = None,
) -> Corpus:
    """Writes the corpus of `utterances` to `out`, their texts in Unicode's normal form C.

    The result does not depend on `jobs`.

    Args:
        utterances: what an importer listed; they are written in this order.
        recipe: how to make features.
        out: the folder to make; nothing is there until everything is.
        source: the importer's name, kept in the corpus.
        jobs: at most so many worker processes; default: one a CPU. 1 works in this process.
        progress: called with (utterances done, all utterances).
        bad: how many utterances may be left out because something is wrong with them, and those that the importer left
            out; default: none may. They are listed in the corpus's `skipped.txt`.

    Raises:
        InputError: `out` is taken, more utterances are wrong (the first 20 of them, in one message), or the system
            ended a worker process.
    """
    if source == READY_FEATURES and recipe.name != READY_FEATURES:
        raise InputError(
            f"the source {source} has ready features of the recipe {READY_FEATURES}, not {recipe.name}",
            f"Leave the recipe at {READY_FEATURES}.",
        )
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, but got {jobs}", "Set the number of worker processes.")
    bad = bad or BadRecordings()
    with CorpusWriter(out, recipe, source) as writer:
        mistakes = dict(listing_mistakes(utterances))
        bad.add(mistakes.values())
        bad.check()
        utterances = [utterance for index, utterance in enumerate(utterances) if index not in mistakes]
        jobs = min(jobs or available_cpus(), 1 + len(utterances) // UTTERANCES_PER_JOB)
        results = ordered_map(partial(featurise, recipe=recipe), utterances, jobs)
        for done, (utterance, result) in enumerate(zip(utterances, results, strict=True), start=1):
            try:
                features, seconds = result if isinstance(result, tuple) else _raise(result)
                text = None if utterance.text is None else normalized(utterance.text)
                writer.add(utterance.split, utterance.id, text, seconds, features)
            except InputError as error:
                bad.add([_located(error.problem, utterance.origin)])
                if bad.enough:
                    break
            if progress:
                progress(done, len(utterances))
        bad.check()
        return writer.finish(bad.problems)


def listing_mistakes(utterances: Sequence[Utterance]) -> Iterator[tuple[int, str]]:
    """What is wrong before any audio is read, as (place in the list, problem).

    Ids that occur twice, transcripts that are empty or missing, characters that no tokenizer can keep.
    """
    transcribed = {utterance.split for utterance in utterances if utterance.text is not None}
    seen: set[tuple[str, str]] = set()
    for index, utterance in enumerate(utterances):
        needed = trains(utterance.split) or validates(utterance.split) or utterance.split in transcribed
        problem = _listing_mistake(utterance, needed, (utterance.split, utterance.id) in seen)
        seen.add((utterance.split, utterance.id))
        if problem:
            yield index, _located(f"{utterance.split}/{utterance.id}: {problem}", utterance.origin)


def _listing_mistake(utterance: Utterance, needs_text: bool, seen: bool) -> str | None:
    text = utterance.text
    if seen:
        return "the same id twice in a split"
    if text is None:
        return "no transcript" if needs_text else None
    if not normalized(text).strip():
        return "empty transcript"
    characters = unusable(text)
    return f"characters that no tokenizer can keep: {', '.join(characters)}" if characters else None


def _located(problem: str, origin: str) -> str:
    return problem if not origin or origin in problem else f"{origin}: {problem}"


def _raise(error: InputError) -> Featurised:
    raise error
