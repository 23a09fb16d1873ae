"""What is said about a corpus: real digits, and a corpus in which things are wrong on purpose."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny

from trainables.data.audio.joined import read_recordings
from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.data.features import FeatureRecipe
from trainables.data.importers.fsdd import fsdd_utterances
from trainables.data.inspection.overlaps import Overlap, overlaps
from trainables.data.inspection.summary import MOST_HEARD, evenly_spaced, inspect_corpus
from trainables.data.prepare import prepare
from trainables.data.utterance import AudioSegment, Recording, Utterance
from trainables.errors import InputError


@pytest.fixture(scope="module")
def digits(speech_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    utterances = fsdd_utterances(speech_data / "fsdd", ["theo"], train=40, dev=12, test=8)
    return prepare(utterances, FeatureRecipe(), tmp_path_factory.mktemp("digits") / "corpus", "fsdd", jobs=1)


def test_facts_are_those_of_the_splits(digits: Corpus) -> None:
    seen: list[tuple[int, int]] = []
    found = inspect_corpus(digits, lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3)] and [one.name for one in found.splits] == ["dev", "test", "train"]
    for facts in found.splits:
        split = digits.split(facts.name)
        texts = split.texts or []
        assert (facts.utterances, facts.distinct_texts) == (len(split), len(set(texts)))
        assert facts.seconds == pytest.approx(float(split.seconds.sum()))
        assert facts.lengths["median"] == pytest.approx(float(np.median(split.seconds)))
        assert (facts.lengths["min"], facts.lengths["max"]) == (split.seconds.min(), split.seconds.max())
        assert facts.alphabet == Counter("".join(texts))
        assert {one.name: one.utterances for one in facts.speakers} == Counter(split.speakers)
        assert sum(one.seconds for one in facts.speakers) == pytest.approx(facts.seconds)
        assert [one.seconds for one in facts.longest] == sorted(split.seconds.tolist(), reverse=True)[:5]
        assert [one.seconds for one in facts.shortest] == sorted(split.seconds.tolist())[:5]
        assert split.ids[facts.longest[0].place] == facts.longest[0].id
        assert facts.quietest[0].loudness.silent == max(one.loudness.silent for one in facts.quietest) > 0.3
        assert facts.audio is not None and (facts.audio.checked, facts.audio.missing) == (len(split), 0)
        assert facts.audio.clipped == 0 and facts.loudness.silent > 0.2 and facts.loudness.range_db > 30
    dev_with_train = next(one for one in found.overlaps if (one.split, one.other) == ("train", "dev"))
    assert (dev_with_train.speakers, dev_with_train.recordings) == (4, 0)


def test_recordings_of_a_corpus_are_its_audio(digits: Corpus) -> None:
    split = digits.split("train")
    samples = read_recordings(split.recordings(3))
    assert len(samples) / 16_000 == pytest.approx(split.seconds[3], abs=1e-3)
    assert np.abs(samples).max() > 0.05


def test_clipped_and_missing_audio_is_counted(tmp_path: Path) -> None:
    utterances = []
    for number, gain in enumerate((0.5, 3.0, 0.5)):
        wave = np.clip(gain * np.sin(np.linspace(0, 2000, 16_000)), -1, 1)
        soundfile.write(path := tmp_path / f"{number}.wav", wave, 16_000, subtype="FLOAT")
        utterances.append(Utterance(f"{number}", "train", "A", AudioSegment(path)))
    corpus = prepare(utterances, FeatureRecipe(), tmp_path / "corpus", "test", jobs=1)
    (tmp_path / "2.wav").unlink()
    (facts,) = inspect_corpus(corpus).splits
    assert facts.audio is not None
    assert (facts.audio.checked, facts.audio.missing, facts.audio.clipped) == (3, 1, 1)
    assert facts.audio.examples == ["1"] and facts.speakers == []
    with pytest.raises(InputError, match=r"(?s)2\.wav: no such file.*prepare"):
        read_recordings(corpus.split("train").recordings(2))
    with pytest.raises(InputError, match="no such file"):
        read_recordings([Recording(None, 0, 1.0), Recording(tmp_path / "nowhere.wav")])


def spoken(folder: Path, *entries: tuple[str, str, str | None, str | None, int]) -> Corpus:
    """A corpus of (split, id, text, speaker, seed of the features)."""
    with CorpusWriter(folder, tiny.RECIPE, "test") as writer:
        for split, id, text, speaker, seed in entries:
            features = np.random.default_rng(seed).normal(-40, 10, (5 + seed % 2, tiny.BINS))
            writer.add(split, id, text, 1.0, features, speaker)
        return writer.finish()


def test_what_splits_have_in_common(tmp_path: Path) -> None:
    corpus = spoken(
        tmp_path / "corpus",
        ("dev", "x", "OTHER", "anna", 1), ("dev", "y", "B", "ben", 4), ("dev", "z", "B", "ben", 9),
        ("test", "t", None, "cleo", 1), ("test", "u", None, None, 12),
        ("train", "a", "A", "anna", 1), ("train", "b", "B", "anna", 2), ("train", "c", "C", "dora", 3),
        ("train", "d", "B", "dora", 2),
    )  # fmt: skip
    found = {(one.split, one.other): one for one in overlaps(corpus)}
    assert found["train", "dev"] == Overlap("train", "dev", 1, 2, 1, 1, [("a", "x")])
    assert found["train", "train"] == Overlap("train", "train", 1, 0, 0, 0, [("b", "d")])
    assert found["train", "test"] == Overlap("train", "test", 1, 0, 0, 0, [("a", "t")])
    assert found["dev", "test"] == Overlap("dev", "test", 1, 0, 0, 0, [("x", "t")])
    assert found["dev", "dev"] == Overlap("dev", "dev", 0, 0, 0, 0, [])
    assert len(found) == 6


def test_a_split_without_texts_speakers_and_audio(tmp_path: Path) -> None:
    (facts,) = inspect_corpus(spoken(tmp_path / "corpus", ("test", "a", None, None, 1))).splits
    assert (facts.rates, facts.audio, facts.speakers, facts.alphabet) == (None, None, [], {})
    assert facts.longest[0].text is None and facts.measured == 1


@pytest.mark.parametrize(("count", "most"), [(1, 5), (5, 5), (1000, 7), (3 * MOST_HEARD, MOST_HEARD)])
def test_utterances_at_equal_distances(count: int, most: int) -> None:
    chosen = evenly_spaced(count, most)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, count - 1, min(count, most))
    assert len(set(np.diff(chosen))) <= 2
