"""The corpus: what goes in comes out, statistics, hash, and every way in which it can be wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.preprocessing import StandardScaler

from trainables.config.data import Data
from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter, RunningStatistics
from trainables.data.features import FeatureRecipe
from trainables.data.inspection.overlaps import shared_utterances
from trainables.data.utterance import Recording
from trainables.errors import InputError

REPOSITORY = Path(__file__).parents[2]
BINS = 4
RECIPE = FeatureRecipe(name="hw4", bins=BINS)
Entry = tuple[str, str, str | None, float, npt.NDArray[np.float16]]  # split, id, text, seconds, features


def entry(split: str = "train", id: str = "a", text: str | None = "HELLO", frames: int = 3, seed: int = 0) -> Entry:
    features = np.random.default_rng(seed).normal(-40, 15, (frames, BINS)).astype(np.float16)
    return split, id, text, frames * 0.008, features


def write(out: Path, *entries: Entry) -> Corpus:
    with CorpusWriter(out, RECIPE, "test") as writer:
        for item in entries:
            writer.add(*item)
        return writer.finish()


finite = st.floats(-1000, 1000, width=16)
entries = st.lists(
    st.tuples(
        st.sampled_from(["train", "train-other", "dev", "test"]),
        st.text(max_size=5),
        st.text(max_size=20),
        st.floats(0, 1e6, width=32),
        st.integers(1, 6).flatmap(lambda frames: arrays(np.float16, (frames, BINS), elements=finite)),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda item: item[:2],
)


@settings(max_examples=60, deadline=None)
@given(entries=entries)
def test_what_goes_in_comes_out(entries: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = write(Path(folder) / "corpus", *entries)
        assert set(corpus.splits) == {item[0] for item in entries}
        for name, summary in corpus.splits.items():
            split = corpus.split(name)
            given_entries = [item for item in entries if item[0] == name]
            assert split.ids == [item[1] for item in given_entries] and len(split) == summary.utterances
            assert split.texts == [item[2] for item in given_entries]
            np.testing.assert_array_equal(split.seconds, np.array([item[3] for item in given_entries], np.float32))
            assert split.features.dtype == torch.float16 and split.features.shape == (summary.frames, BINS)
            for (*_, features), offset, frames in zip(given_entries, split.offsets, split.frames, strict=True):
                np.testing.assert_array_equal(split.features[offset : offset + frames].numpy(), features)
            assert summary.characters == sum(len(text) for text in split.texts)
            assert summary.seconds == pytest.approx(sum(item[3] for item in given_entries))


@settings(max_examples=60, deadline=None)
@given(entries=entries)
def test_statistics_are_those_of_the_training_splits(entries: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = write(Path(folder) / "corpus", *entries)
        training = [features for split, *_, features in entries if split.startswith("train")]
        if not training:
            assert corpus.mean is None and corpus.std is None
            return
        frames = np.concatenate(training).astype(np.float64)
        assert corpus.mean is not None and corpus.std is not None
        np.testing.assert_allclose(corpus.mean, frames.mean(axis=0), rtol=1e-6, atol=1e-4)
        np.testing.assert_allclose(corpus.std, frames.std(axis=0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("offset", [0, 1_000, 30_000])
def test_statistics_are_stable(tmp_path: Path, offset: float) -> None:
    """A mean far from zero costs nothing: with sums of squares it would cost most digits of the deviation."""
    random = np.random.default_rng(0)
    blocks = [random.normal(offset, 20, (frames, BINS)).astype(np.float16) for frames in (1, 50, 7, 300, 2)]
    corpus = write(tmp_path / "corpus", *(("train", str(n), "A", 1.0, block) for n, block in enumerate(blocks)))
    frames = np.concatenate(blocks).astype(np.float64)
    description = json.loads((corpus.path / "corpus.json").read_text())
    np.testing.assert_allclose(description["mean"], frames.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(description["std"], frames.std(axis=0), rtol=1e-9)


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    items = [entry("train", "a", "A", seed=1), entry("dev", "b", "B", seed=2), entry("train", "c", "C", seed=3)]
    original = write(tmp_path / "original", *items).hash
    assert write(tmp_path / "again", *items).hash == original
    assert write(tmp_path / "splits-in-another-order", items[1], items[0], items[2]).hash == original
    assert Corpus.open(tmp_path / "again").hash == original
    changed = {
        "text": [("train", "a", "X", *items[0][3:]), *items[1:]],
        "id": [("train", "x", *items[0][2:]), *items[1:]],
        "split": [("train-x", *items[0][1:]), *items[1:]],
        "features": [entry("train", "a", "A", seed=9), *items[1:]],
        "order": [items[2], items[1], items[0]],
        "fewer": items[:2],
    }
    hashes = {name: write(tmp_path / name, *entries).hash for name, entries in changed.items()}
    with CorpusWriter(tmp_path / "recipe", FeatureRecipe(name="kaldi", bins=BINS), "test") as writer:
        for item in items:
            writer.add(*item)
        hashes["recipe"] = writer.finish().hash
    assert len({original, *hashes.values()}) == len(hashes) + 1


def test_corpora_without_speakers_keep_their_hash(tmp_path: Path) -> None:
    """The hash is of a corpus that was written before corpora had speakers."""
    items = [entry("train", "a", "A", seed=1), entry("dev", "b", "B", seed=2), entry("train", "c", "C", seed=3)]
    known = "005ddc5d38a27a6061fc92503700c8024521aafdf446176e9269edea0528c8f0"
    corpus = write(tmp_path / "corpus", *items)
    split = corpus.split("train")
    assert (corpus.hash, split.speakers, corpus.splits["train"].speakers, split.recordings(0)) == (
        known,
        None,
        None,
        [],
    )
    about = json.loads((corpus.path / "corpus.json").read_text())
    for summary in about["splits"].values():
        del summary["speakers"]
    (corpus.path / "corpus.json").write_text(json.dumps(about))
    assert Corpus.open(corpus.path).split("train").texts == ["A", "C"]


def test_speakers_and_recordings(tmp_path: Path) -> None:
    parts = [Recording(None, 0.0, 0.25), Recording(Path("a.wav")), Recording(tmp_path / "ü.wav", 1.5, 2.0)]

    def written(name: str, *speakers: str | None, recordings: list[Recording] = parts) -> Corpus:
        with CorpusWriter(tmp_path / name, RECIPE, "test") as writer:
            for number, speaker in enumerate(speakers):
                own = recordings if number else []
                writer.add(*entry("train", f"{number}", seed=number), speaker=speaker, recordings=own)
            writer.add(*entry("dev"))
            return writer.finish()

    corpus = written("corpus", "anna", None, "béla", "anna")
    split = Corpus.open(corpus.path).split("train")
    assert (split.speakers, corpus.splits["train"].speakers) == (["anna", None, "béla", "anna"], 2)
    assert (corpus.split("dev").speakers, corpus.splits["dev"].speakers) == (None, None)
    assert split.recordings(0) == [] == corpus.split("dev").recordings(0)
    assert split.recordings(1) == [parts[0], Recording(Path.cwd() / "a.wav"), parts[2]]
    assert corpus.hash == written("same", "anna", None, "béla", "anna", recordings=parts[:1]).hash
    assert corpus.hash != written("other", "anna", None, "béla", "béla").hash
    undecodable = [Recording(Path("a\udcff.wav"))]
    assert written("bytes", "anna", "béla", recordings=undecodable).split("train").recordings(1) == []
    with pytest.raises(InputError, match="not valid Unicode"):
        written("wrong", "anna\udcff")


def test_a_split_without_texts(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", entry(), entry("test", text=None))
    assert corpus.split("test").texts is None and corpus.splits["test"].characters == 0
    assert corpus.split("train").texts == ["HELLO"]


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Writes and opens 128 MB in a process that may gain 40 MB: file pages count too."""
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from trainables.data.corpus_writer import CorpusWriter, RunningStatistics
from trainables.data.features import FeatureRecipe
megabytes = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
frames = np.random.default_rng(0).normal(size=(12500, 80)).astype(np.float16)
def write(name, count):
    with CorpusWriter(Path(sys.argv[1]) / name, FeatureRecipe(), "test") as writer:
        for index in range(count):
            writer.add("train", str(index), "A", 100.0, frames)
        return writer.finish().split("train")
write("small", 1)
before = megabytes()
split = write("large", 64)
assert split.features.shape == (800_000, 80)
assert megabytes() - before < 40, megabytes() - before
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, cwd=REPOSITORY)


def test_splits_for_training_and_validation(tmp_path: Path) -> None:
    one = write(tmp_path / "one", entry("train-clean-100"), entry("val"), entry("test"))
    assert one.training_split().name == "train-clean-100" and one.validation_split().name == "val"
    assert one.training_split(Data(train="test")).name == "test"
    many = write(tmp_path / "many", *[entry(name) for name in ("train-a", "train-b", "dev-clean", "dev-other")])
    assert many.validation_split().name == "dev-clean"
    assert many.validation_split(Data(validation="dev-other")).name == "dev-other"
    with pytest.raises(InputError, match=r"(?s)2 training splits.*data\.train to one of: train-a, train-b"):
        many.training_split()
    with pytest.raises(InputError, match=r"(?s)'dev-x'.*data\.validation to one of: .*dev-clean, dev-other"):
        many.validation_split(Data(validation="dev-x"))
    with pytest.raises(InputError) as caught:
        write(tmp_path / "train-test", entry("train"), entry("test")).validation_split()
    assert caught.value.remedy.startswith("Prepare the corpus again") and "one of" not in caught.value.remedy
    with pytest.raises(InputError, match=r"(?s)no validation splits.*or set data\.validation to one of: held-out\."):
        write(tmp_path / "held-out", entry("train"), entry("held-out"), entry("test")).validation_split()
    none = write(tmp_path / "none", entry("test"), entry("test-clean", text=None))
    with pytest.raises(InputError, match=r"(?s)no training splits.*data\.train to one of: test, test-clean"):
        none.training_split()
    with pytest.raises(InputError, match=r"(?s)test-clean has no transcripts.*data\.validation"):
        none.validation_split(Data(validation="test-clean"))


def test_a_split_that_is_missing(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", entry("train"), entry("dev"))
    with pytest.raises(InputError, match=r"(?s)'test'.*dev, train"):
        corpus.split("test")
    (tmp_path / "corpus" / "dev.arrow").unlink()
    with pytest.raises(InputError, match=r"dev\.arrow"):
        Corpus.open(tmp_path / "corpus")


def test_no_corpus_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"corpus\.json is missing[\s\S]*prepare"):
            Corpus.open(path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format_version": 2}, "corpus format 2, but this version reads format 1"),
        ({"format_version": None}, "corpus format None"),
        ({"splits": 3}, "splits"),
        ({"recipe": {"name": "other"}}, "recipe.name"),
        ({"surprise": 1}, "surprise"),
        *(({"splits": {name: {}}}, f"splits.{name}.[key]") for name in ("../dev", "/etc/x", ".dev", "dév", "a b", "")),
    ],
)
def test_a_description_of_another_kind(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    write(tmp_path / "corpus", entry())
    file = tmp_path / "corpus" / "corpus.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InputError) as caught:
        Corpus.open(tmp_path / "corpus")
    assert problem in caught.value.problem and "corpus.json" in caught.value.problem


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_description_that_is_unreadable(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "corpus", entry())
    (tmp_path / "corpus" / "corpus.json").write_bytes(content)
    with pytest.raises(InputError, match=r"corpus\.json"):
        Corpus.open(tmp_path / "corpus")


@pytest.mark.parametrize("kept", [0, 20, 200])
def test_a_split_file_that_is_cut(tmp_path: Path, kept: int) -> None:
    corpus = write(tmp_path / "corpus", entry())
    file = tmp_path / "corpus" / "train.arrow"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"train\.arrow"):
        corpus.split("train")


def test_a_split_file_of_another_corpus(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus", entry(frames=3))
    write(tmp_path / "other", entry(frames=4))
    (tmp_path / "other" / "train.arrow").rename(tmp_path / "corpus" / "train.arrow")
    with pytest.raises(InputError, match=r"train\.arrow.*\(4, 4\).*\(3, 4\)"):
        corpus.split("train")


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (("train", "b", "X", 1.0, np.full((2, BINS), np.nan)), "train/b: features that are NaN or infinite"),
        (("train", "b", "X", 1.0, np.full((2, BINS), -np.inf)), "NaN or infinite"),
        (("train", "b", "X", 1.0, np.full((2, BINS), 1e5)), "beyond float16"),
        (("train", "b", "X", 1.0, np.zeros((2, BINS + 1))), r"shape \(2, 5\), not \(T, 4\)"),
        (("train", "b", "X", 1.0, np.zeros((0, BINS))), r"shape \(0, 4\)"),
        (("train", "a", "X", 1.0, np.zeros((2, BINS))), "train/a: the same id twice"),
        (("train", "b", None, 1.0, np.zeros((2, BINS))), "train/b: has no text"),
        (("train", "b", "\ud800", 1.0, np.zeros((2, BINS))), "not valid Unicode"),
        (("../train", "b", "X", 1.0, np.zeros((2, BINS))), "cannot name a file"),
        (("", "b", "X", 1.0, np.zeros((2, BINS))), "cannot name a file"),
    ],
)
def test_an_utterance_that_cannot_be_stored(tmp_path: Path, item: Entry, problem: str) -> None:
    with CorpusWriter(tmp_path / "corpus", RECIPE, "test") as writer:
        writer.add(*entry())
        with pytest.raises(InputError, match=problem):
            writer.add(*item)
        corpus = writer.finish()
    assert corpus.split("train").ids == ["a"]  # and nothing of the refused one


def test_nothing_stays_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), CorpusWriter(tmp_path / "corpus", RECIPE, "test") as writer:
        writer.add(*entry())
        raise KeyboardInterrupt
    with pytest.raises(InputError, match="no utterances"), CorpusWriter(tmp_path / "corpus", RECIPE, "test") as writer:
        writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_must_be_free(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", entry())
    (tmp_path / "file").write_text("")
    for taken in ("empty", "file"):
        with pytest.raises(InputError, match=rf"{taken}: exists and is not empty[\s\S]*--out"):
            CorpusWriter(tmp_path / taken, RECIPE, "test")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_utterances_of_two_splits_are_the_same_if_text_and_features_are(tmp_path: Path) -> None:
    corpus = write(
        tmp_path / "corpus",
        entry("train", "a", seed=1), entry("train", "b", seed=2), entry("train", "c", seed=3, frames=4),
        entry("dev", "another name", seed=2), entry("dev", "a", seed=4), entry("dev", "d", "OTHER", seed=1),
        entry("dev", "e", seed=3, frames=5), entry("test", "a", None, seed=1),
    )  # fmt: skip
    assert shared_utterances(corpus, "train", "dev") == ["another name"]
    assert shared_utterances(corpus, "dev", "train") == ["b"]
    assert shared_utterances(corpus, "train", "test") == [], "without texts nothing can be trained on"


@pytest.mark.parametrize("lengths", [[7], [1, 1, 1], [300, 1, 45, 2]])
def test_running_statistics_are_those_of_scikit_learn(lengths: list[int]) -> None:
    """To the last bit: the same source gives the same corpus as before."""
    random, ours, reference = np.random.default_rng(0), RunningStatistics(5), StandardScaler()
    for length in lengths:
        frames_TF = (20 * random.standard_normal((length, 5)) - 40).astype(np.float16).astype(np.float64)
        ours.add(frames_TF)
        reference.partial_fit(frames_TF)
    assert ours.mean_F.tolist() == reference.mean_.tolist()
    assert ours.variance_F.tolist() == reference.var_.tolist()
