"""Prepares a corpus: features are computed by worker processes and written in the order of the utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from trainables.data.corpus import Corpus, Preparation
from trainables.data.corpus_writer import CorpusWriter
from trainables.data.features import FeatureRecipe
from trainables.data.mistakes import Mistakes
from trainables.data.splitting import DevRequest, with_dev
from trainables.data.text.normalization import TextChange, TextRule
from trainables.data.text.transcripts import normalized, unusable
from trainables.data.utterance import AudioSource, Utterance, featurise, trains, validates
from trainables.data.workers import available_cpus, ordered_map
from trainables.errors import InputError

PRECOMPUTED = "hw4"  # the source with precomputed features, and the name of their recipe
NO_DEV = DevRequest(share=0.0)
UTTERANCES_PER_JOB = 32  # with fewer, a worker's start costs more than it gives


def prepare(
    utterances: Sequence[Utterance],
    recipe: FeatureRecipe,
    out: Path,
    source: str,
    jobs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    bad: Mistakes | None = None,
    text: TextRule | None = None,
    dev: DevRequest = NO_DEV,
) -> Corpus:
    """Writes the corpus of `utterances` to `out`, with texts in Unicode's normal form C.

    The result does not depend on `jobs`. Nothing is at `out` until everything is written.

    Args:
        utterances: written in this order.
        recipe: computes the features.
        out: the new folder.
        source: the importer's name, recorded in the corpus.
        jobs: largest number of worker processes; default: one a CPU; 1: this process does the work.
        progress: called with (utterances done, all utterances).
        bad: mistakes found by the importer, and how many utterances may be left out; default: none. Utterances left out
            are listed in the corpus's `skipped.txt`.
        text: normalisation of the texts; default: none.
        dev: validation split that is taken from training data; default: none.

    Raises:
        InputError: `out` exists and is not empty, too many utterances have mistakes (the message has the first 20), the
            speakers of `dev` cannot be taken, or the system killed a worker process.
    """
    if source == PRECOMPUTED and recipe.name != PRECOMPUTED:
        raise InputError(
            f"the source {source} has ready features of the recipe {PRECOMPUTED}, not {recipe.name}",
            f"Leave the recipe at {PRECOMPUTED}.",
        )
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, but got {jobs}", "Set the number of worker processes.")
    bad = bad or Mistakes(skippable=0)
    remedy = "Correct them, or remove the utterances."
    with CorpusWriter(out, recipe, source) as writer:
        text = text or TextRule()
        utterances, changes = with_normalized_texts(utterances, text)
        mistakes = dict(listing_mistakes(utterances))
        bad.add(*mistakes.values())
        bad.check(remedy)
        good = [utterance for index, utterance in enumerate(utterances) if index not in mistakes]
        utterances, made = with_dev(good, dev)
        jobs = min(jobs or available_cpus(), 1 + len(utterances) // UTTERANCES_PER_JOB)
        with closing(ordered_map(partial(featurise, recipe=recipe), utterances, jobs)) as results:
            for done, (utterance, result) in enumerate(zip(utterances, results, strict=True), start=1):
                with bad.collecting(utterance.origin):
                    if isinstance(result, InputError):
                        raise result
                    features, seconds = result
                    words = None if utterance.text is None else normalized(utterance.text)
                    recordings = utterance.source.recordings if isinstance(utterance.source, AudioSource) else ()
                    writer.add(utterance.split, utterance.id, words, seconds, features, utterance.speaker, recordings)
                if bad.enough:
                    break
                if progress:
                    progress(done, len(utterances))
        bad.check(remedy)
        return writer.finish(bad.problems, Preparation(text=text, changes=changes, dev=made))


def with_normalized_texts(
    utterances: Sequence[Utterance], rule: TextRule
) -> tuple[Sequence[Utterance], list[TextChange]]:
    """The utterances with normalised texts, and what each step of the normalisation changed."""
    if rule == TextRule():
        return utterances, []
    places = [place for place, item in enumerate(utterances) if item.text is not None]
    texts, changes = rule.apply_counting([utterances[place].text or "" for place in places])
    done = list(utterances)
    for place, text in zip(places, texts, strict=True):
        done[place] = replace(done[place], text=text)
    return done, changes


def listing_mistakes(utterances: Sequence[Utterance]) -> Iterator[tuple[int, str]]:
    """Yields mistakes that are found without reading audio, as (index of the utterance, text).

    Duplicate ids in a split, empty or missing transcripts, characters that no tokenizer can keep.
    """
    transcribed = {utterance.split for utterance in utterances if utterance.text is not None}
    seen: set[tuple[str, str]] = set()
    for index, utterance in enumerate(utterances):
        split, name = utterance.split, f"{utterance.split}/{utterance.id}"
        problem = _text_mistake(utterance.text, trains(split) or validates(split) or split in transcribed)
        if (split, utterance.id) in seen:
            problem = "the same id twice in a split"
        seen.add((split, utterance.id))
        if problem:
            yield index, f"{utterance.origin}: {name}: {problem}" if utterance.origin else f"{name}: {problem}"


def _text_mistake(text: str | None, required: bool) -> str | None:
    if text is None:
        return "no transcript" if required else None
    if not normalized(text).strip():
        return "empty transcript"
    characters = unusable(text)
    return f"characters that no tokenizer can keep: {', '.join(characters)}" if characters else None
