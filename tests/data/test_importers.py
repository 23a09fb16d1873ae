"""What every importer must do, and the course's data, connected digits and synthetic speech in particular."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from trainables.data.audio import read_audio
from trainables.data.features import SAMPLE_RATE, FeatureRecipe
from trainables.data.importers.fsdd import WORDS, JoinedDigits, fsdd_utterances
from trainables.data.importers.hw4 import hw4_utterances, read_course_features
from trainables.data.importers.librispeech import librispeech_utterances
from trainables.data.importers.synthetic import HELD_OUT_SPEAKERS, SPEAKERS, SpokenText, synthetic_utterances
from trainables.data.importers.tools.espeak import speak
from trainables.data.mistakes import Mistakes
from trainables.data.text.token_batches import read_texts
from trainables.data.utterance import Utterance
from trainables.errors import InputError

HW4 = FeatureRecipe(name="hw4")


IMPORTERS: dict[str, Callable[[Path], list[Utterance]]] = {
    "hw4": lambda data: hw4_utterances(data / "hw4_data_subset"),
    "librispeech": lambda data: librispeech_utterances(data / "librispeech"),
    "fsdd": lambda data: fsdd_utterances(data / "fsdd", ["theo"], train=6, dev=3, test=3),
    "synthetic": lambda data: synthetic_utterances(train=6, dev=3, test=3),
}


@pytest.mark.parametrize("name", IMPORTERS)
def test_every_importer(name: str, speech_data: Path) -> None:
    utterances = IMPORTERS[name](speech_data)
    assert utterances == IMPORTERS[name](speech_data)  # the same each time, in the same order
    assert pickle.loads(pickle.dumps(utterances)) == utterances
    assert len({(utterance.split, utterance.id) for utterance in utterances}) == len(utterances)
    for utterance in [utterances[0], utterances[len(utterances) // 2], utterances[-1]]:
        features, seconds = utterance.source.features(HW4)
        again, _ = pickle.loads(pickle.dumps(utterance.source)).features(HW4)
        assert features.shape[1] == 80 and np.isfinite(features).all()
        assert len(features) == pytest.approx(seconds * 125, abs=1)
        np.testing.assert_array_equal(features, again)
        assert utterance.text is None or re.fullmatch("[A-Z' ]+", utterance.text)
        assert utterance.speaker


# The course's layout


def course(root: Path, **files: npt.NDArray[np.generic]) -> Path:
    """Two splits with one good utterance each; `files` are further ones, such as dev_text_b."""
    good = {
        f"{split}_{kind}_a": value
        for split in ("train-clean-100", "dev-clean")
        for kind, value in {"fbank": np.zeros((80, 5), np.float32), "text": np.array(list("HI"))}.items()
    }
    for name, array in (good | files).items():
        split, kind, id = name.split("_")
        folder = root / {"train": "train-clean-100", "dev": "dev-clean"}.get(split, split) / kind
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{id}.npy", array)
    return root


def test_hw4_real_data(speech_data: Path) -> None:
    utterances = hw4_utterances(speech_data / "hw4_data_subset")
    assert hw4_utterances(speech_data / "hw4_data_subset" / "hw4p2_data") == utterances
    counts = {split: sum(item.split == split for item in utterances) for split in {item.split for item in utterances}}
    assert counts == {"train-clean-100": 28, "dev-clean": 2, "test-clean": 2}
    assert all((utterance.text is None) == (utterance.split == "test-clean") for utterance in utterances)
    dev = next(utterance for utterance in utterances if utterance.id == "1272-128104-0000")
    assert dev.text is not None and dev.text.startswith("MISTER QUILTER IS THE APOSTLE OF THE MIDDLE CLASSES")
    speakers = {(item.split, item.speaker) for item in utterances}
    assert speakers == {("train-clean-100", "103"), ("dev-clean", "1272"), ("test-clean", "1089")}
    features, seconds = dev.source.features(HW4)
    assert features.shape == (732, 80) and seconds == pytest.approx(732 * 0.008)


def test_hw4_names_without_a_speaker(tmp_path: Path) -> None:
    course(tmp_path, **{"train_fbank_7-8": np.zeros((80, 5), np.float32), "train_text_7-8": np.array(list("HI"))})
    assert {item.speaker for item in hw4_utterances(tmp_path)} == {None}


def test_hw4_names_every_file_without_its_partner(tmp_path: Path) -> None:
    course(tmp_path, train_fbank_b=np.zeros((80, 5), np.float32), dev_text_c=np.array(list("HI")))
    with pytest.raises(InputError) as caught:
        hw4_utterances(tmp_path)
    assert "train-clean-100/fbank/b.npy: no text" in caught.value.problem
    assert "dev-clean/text/c.npy: no features" in caught.value.problem


def test_hw4_hidden_files_are_left_out(tmp_path: Path) -> None:
    expected = hw4_utterances(course(tmp_path))
    for path in list(tmp_path.rglob("*.npy")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    (tmp_path / "._dev-clean" / "fbank").mkdir(parents=True)
    assert hw4_utterances(tmp_path) == expected
    assert read_texts(tmp_path / "dev-clean" / "text") == ["HI"]


def test_hw4_a_file_without_its_partner_can_be_left_out(tmp_path: Path) -> None:
    course(tmp_path, train_fbank_b=np.zeros((80, 5), np.float32))
    bad = Mistakes(1)
    assert [utterance.id for utterance in hw4_utterances(tmp_path, bad)] == ["a", "a"]
    assert len(bad.problems) == 1 and "fbank/b.npy: no text" in bad.problems[0]
    shutil.rmtree(tmp_path / "dev-clean" / "text")
    with pytest.raises(InputError, match="dev-clean: no folder text"):
        hw4_utterances(tmp_path, Mistakes(100))


def test_hw4_only_test_splits_may_lack_texts(tmp_path: Path) -> None:
    course(tmp_path, **{"test-clean_fbank_x": np.zeros((80, 5), np.float32)})
    assert {utterance.split for utterance in hw4_utterances(tmp_path) if utterance.text is None} == {"test-clean"}
    shutil.rmtree(tmp_path / "dev-clean" / "text")
    with pytest.raises(InputError, match="dev-clean: no folder text"):
        hw4_utterances(tmp_path)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((5, 80), np.float32), r"\(80, T\) float32, but got \(5, 80\) float32"),
        (np.zeros((80, 5), np.float64), r"got \(80, 5\) float64"),
        (np.zeros((80, 0), np.float32), r"got \(80, 0\)"),
        (np.zeros(80, np.float32), r"got \(80,\)"),
        (np.full((80, 5), np.nan, np.float32), "NaN or infinite"),
        (np.full((80, 5), np.inf, np.float32), "NaN or infinite"),
        (np.array({"pickled": True}), "not readable"),
    ],
)
def test_hw4_features_of_another_kind(tmp_path: Path, array: npt.NDArray[np.generic], problem: str) -> None:
    np.save(tmp_path / "b.npy", array)
    with pytest.raises(InputError, match=rf"b\.npy: .*{problem}"):
        read_course_features(tmp_path / "b.npy")


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_hw4_features_that_are_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"b\.npy: not readable"):
        read_course_features(tmp_path / "b.npy")


@pytest.mark.parametrize("text", [np.array(["HI", "YOU"]), np.array("HI"), np.zeros(3, np.float32)])
def test_hw4_texts_of_another_kind(tmp_path: Path, text: npt.NDArray[np.generic]) -> None:
    course(tmp_path, dev_fbank_b=np.zeros((80, 5), np.float32), dev_text_b=text)
    with pytest.raises(InputError, match=r"dev-clean/text/b\.npy: a text must be one character an element"):
        hw4_utterances(tmp_path)


def test_hw4_somewhere_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folders"):
        hw4_utterances(tmp_path)


# Connected digits


SPOKEN_BY = ["george", "jackson", "lucas", "theo", "yweweler"]


def joined(utterance: Utterance) -> JoinedDigits:
    assert isinstance(utterance.source, JoinedDigits)
    return utterance.source


def test_fsdd_splits_share_no_recording(speech_data: Path) -> None:
    utterances = fsdd_utterances(speech_data / "fsdd", ["george", "lucas"], train=200, dev=50, test=50)
    assert fsdd_utterances(speech_data / "fsdd" / "recordings", ["george", "lucas"], 200, 50, 50) == utterances
    takes: dict[str, set[int]] = {}
    speakers: dict[str, set[str]] = {}
    for utterance in utterances:
        parts = [path.stem.split("_") for path in joined(utterance).paths]
        assert utterance.text == " ".join(WORDS[int(digit)] for digit, _, _ in parts)
        assert 2 <= len(parts) <= 6 and len({speaker for _, speaker, _ in parts}) == 1
        takes.setdefault(utterance.split, set()).update(int(take) for *_, take in parts)
        speakers.setdefault(utterance.split, set()).add(parts[0][1])
    assert min(takes["train"]) == 5 and takes["dev"] == {0, 1, 2, 3, 4}
    assert speakers["train"] == speakers["dev"] == {"jackson", "theo", "yweweler"}
    assert speakers["test"] == {"george", "lucas"}


def test_fsdd_recordings_are_whole_in_the_join(speech_data: Path) -> None:
    source = joined(fsdd_utterances(speech_data / "fsdd", train=1, dev=0)[0])
    samples = source.samples()
    position = source.silences[0]
    assert np.abs(samples[:position]).max() < 0.01
    for path, silence in zip(source.paths, source.silences[1:], strict=True):
        word = read_audio(path)
        np.testing.assert_array_equal(samples[position : position + len(word)], word)
        position += len(word) + silence
    assert position == len(samples)
    read = [
        np.zeros(round((part.duration or 0) * SAMPLE_RATE)) if part.path is None else read_audio(part.path)
        for part in source.recordings
    ]
    np.testing.assert_allclose(np.concatenate(read), samples, atol=0.01)


def test_fsdd_seeds_and_counts(speech_data: Path) -> None:
    few = fsdd_utterances(speech_data / "fsdd", train=5, dev=2, seed=1)
    assert {utterance.split for utterance in few} == {"train", "dev"}  # nobody held out: no test split
    assert fsdd_utterances(speech_data / "fsdd", train=9, dev=0, seed=1)[:5] == few[:5]
    assert fsdd_utterances(speech_data / "fsdd", train=5, dev=2, seed=2) != few


@pytest.mark.parametrize("wanted", [2, ("lucas", "theo")])
def test_fsdd_dev_of_speakers_who_are_not_trained_on(speech_data: Path, wanted: int | tuple[str, ...]) -> None:
    make = partial(fsdd_utterances, speech_data / "fsdd", ["george"], train=100, dev=50, test=20)
    speakers: dict[str, set[str | None]] = {}
    for utterance in (made := make(dev_speakers=wanted)):
        speakers.setdefault(utterance.split, set()).add(utterance.speaker)
    assert speakers["test"] == {"george"} and len(speakers["dev"]) == 2 and len(speakers["train"]) == 2
    assert not speakers["train"] & speakers["dev"]
    assert speakers["dev"] == set(wanted) if isinstance(wanted, tuple) else speakers["dev"] < set(SPOKEN_BY)
    assert made == make(dev_speakers=wanted)
    assert {path.stem.split("_")[2] for item in made if item.split == "dev" for path in joined(item).paths} >= {"9"}
    drawn = [{item.speaker for item in make(dev_speakers=2, dev_seed=seed) if item.split == "dev"} for seed in range(9)]
    assert len(set(map(frozenset, drawn))) > 2


def test_fsdd_wrong_speakers(speech_data: Path) -> None:
    with pytest.raises(InputError, match=rf"(?s)no speaker named nobody.*{', '.join(SPOKEN_BY)}"):
        fsdd_utterances(speech_data / "fsdd", ["theo", "nobody"])
    with pytest.raises(InputError, match="every speaker is held out"):
        fsdd_utterances(speech_data / "fsdd", SPOKEN_BY)
    with pytest.raises(InputError, match="--dev-speakers: no speaker named george"):
        fsdd_utterances(speech_data / "fsdd", ["george"], dev_speakers=("george",))
    with pytest.raises(InputError, match=r"(?s)--dev-speakers: 4 of 4 known speakers.*Hold out at most 3"):
        fsdd_utterances(speech_data / "fsdd", ["george"], dev_speakers=4)


def test_fsdd_without_recordings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recordings named"):
        fsdd_utterances(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        fsdd_utterances(tmp_path / "nowhere")
    soundfile.write(tmp_path / "3_anna_7.wav", np.zeros(800), 8000)
    with pytest.raises(InputError, match="no recordings for the split dev by anna"):
        fsdd_utterances(tmp_path)
    assert {utterance.text for utterance in fsdd_utterances(tmp_path, train=3, dev=0)} <= {
        " ".join(["THREE"] * count) for count in range(2, 7)
    }


# Synthetic speech


def test_speech_does_not_depend_on_what_was_spoken_before() -> None:
    for voice in ("en-us+m1", "en-gb-scotland+f2"):
        first = speak("set alarm for seven", voice, 150, 50)
        speak("call number five one", "en-us+f1", 170, 40)
        np.testing.assert_array_equal(speak("set alarm for seven", voice, 150, 50), first)
        assert 0.5 < len(first) / 16000 < 4 and 0.05 < np.abs(first).max() <= 1.5


def test_speech_follows_its_parameters() -> None:
    slow, fast = (len(speak("four five six", "en-us+m2", rate, 50)) for rate in (120, 240))
    assert slow > 1.3 * fast
    low, high = (speak("four five six", "en-us+m2", 150, pitch) for pitch in (20, 80))
    assert not np.array_equal(low, high)
    with pytest.raises(InputError, match="xx-nobody"):
        speak("one", "xx-nobody", 150, 50)


def test_synthetic_voices_are_held_out() -> None:
    utterances = synthetic_utterances(train=150, dev=50, test=50)
    heard: dict[str, set[str]] = {}
    for utterance in utterances:
        assert isinstance(utterance.source, SpokenText) and utterance.source.text == utterance.text
        heard.setdefault(utterance.split, set()).add(utterance.source.voice.rpartition("+")[2])
    assert heard == {"train": set(SPEAKERS), "dev": set(SPEAKERS), "test": set(HELD_OUT_SPEAKERS)}
    assert synthetic_utterances(train=160, dev=0, test=0)[:150] == utterances[:150]
    assert synthetic_utterances(train=150, dev=50, test=50, seed=1) != utterances


def test_synthetic_grammar() -> None:
    words = {word for item in synthetic_utterances(train=1500) for word in (item.text or "").split()}
    assert set(WORDS) < words and 35 <= len(words) <= 50


@pytest.mark.parametrize("speaker", [*SPEAKERS, *HELD_OUT_SPEAKERS])
def test_synthetic_speakers_can_be_told_apart(speaker: str) -> None:
    others = [other for other in (*SPEAKERS, *HELD_OUT_SPEAKERS) if other != speaker]
    spoken = speak("nine", f"en-us+{speaker}", 150, 50)
    assert all(not np.array_equal(spoken, speak("nine", f"en-us+{other}", 150, 50)) for other in others)
