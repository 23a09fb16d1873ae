"""Recordings of any length become text, phrases with times, and whole files."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import babbler
import numpy as np
import pytest
import tiny
from command import PLATFORM
from recorded import RATE, tone, tones, write_audio, write_samples

from asr_platform.inference import transcribe as transcription
from asr_platform.inference.formats import FORMATS, Transcript
from asr_platform.inference.recordings import find_recordings
from asr_platform.inference.subtitles import text_of
from asr_platform.inference.transcribe import transcribe, transcribe_to
from trainables.config.tree import Loss
from trainables.data.audio import read_audio
from trainables.data.features import FeatureRecipe, Samples
from trainables.errors import InputError
from trainables.inference.recognizer import Recognizer
from trainables.inference.segmentation import join_words, speech_pieces


@dataclass(frozen=True)
class Made:
    model: Path
    recognizer: Recognizer

    def texts(self, *samples: Samples) -> list[str]:
        """What the recogniser says to each of these utterances."""
        return self.recognizer.transcribe([self.recognizer.recipe.compute(item) for item in samples])

    def transcripts(self, *paths: Path, **asked: Any) -> list[Transcript]:
        return list(transcribe(self.recognizer, find_recordings([str(path) for path in paths]), **asked))


def make(folder: Path, recipe: FeatureRecipe, **model: Any) -> Made:
    corpus = babbler.write_corpus(folder / "corpus", recipe)
    return Made(folder / "model", babbler.save_model(corpus, folder / "model", **model))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A model of the recipe kaldi with a few bins."""
    return make(tmp_path_factory.mktemp("kaldi"), tiny.RECIPE)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A model of the course's recipe."""
    return make(tmp_path_factory.mktemp("hw4"), FeatureRecipe(name="hw4"))


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A transcript editor of the same recipe."""
    return make(tmp_path_factory.mktemp("editor"), tiny.RECIPE, **tiny.EDITOR, pooling={"window": 2})


@pytest.fixture(params=["made", "editor"])
def either(request: pytest.FixtureRequest) -> Made:
    """The model of each kind, by turns."""
    return request.getfixturevalue(request.param)


CTC_WEIGHTS = {"encoder_decoder": "ctc_weight", "transcript_editor": "draft_weight"}


@pytest.fixture
def untimed(either: Made, tmp_path: Path) -> Made:
    """The model as if it had been trained without CTC."""
    folder, config = tmp_path / "untimed", either.recognizer.config
    folder.mkdir()
    loss = Loss.model_validate({CTC_WEIGHTS[config.model.kind]: 0})
    recognizer = replace(either.recognizer, config=config.model_copy(update={"loss": loss}))
    recognizer.save(folder)
    return Made(folder, recognizer)


# Short recordings


def test_files_of_any_rate_come_back_in_their_order(either: Made, tmp_path: Path) -> None:
    """Long and short ones, so that batches have another order; WAV and FLAC, mono and stereo."""
    files = [
        write_audio(tmp_path / "z.wav", 0.9),
        write_audio(tmp_path / "a.wav", 0.2, rate=8_000, seed=1),
        write_audio(tmp_path / "m.flac", 1.5, rate=44_100, channels=2, seed=2),
        write_audio(tmp_path / "b.wav", 0.4, rate=22_050, seed=3),
        write_audio(tmp_path / "c.wav", 0.01, seed=4),
    ]
    texts = either.texts(*map(read_audio, files))
    assert len(set(texts)) > 2
    found = either.transcripts(*files)
    assert [(transcript.name, transcript.text) for transcript in found] == [
        (str(file), text) for file, text in zip(files, texts, strict=True)
    ]
    assert [transcript.seconds for transcript in found] == pytest.approx([0.9, 0.2, 1.5, 0.4, 0.01], abs=1e-4)
    assert all(not transcript.words for transcript in found)
    assert either.transcripts(*files[::-1]) == found[::-1]


@pytest.mark.parametrize(
    ("limit", "value", "sizes"), [("FILES_AT_ONCE", 2, [2, 2, 1]), ("SECONDS_AT_ONCE", 0.7, [2, 3])]
)
def test_many_files_are_taken_a_few_at_a_time(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, sizes: list[int]
) -> None:
    files = [write_audio(tmp_path / f"{n}.wav", 0.1 * (5 - n), seed=n) for n in range(5)]
    whole = made.transcripts(*files)
    monkeypatch.setattr(transcription, limit, value)
    taken: list[int] = []
    spied = replace(made.recognizer)
    monkeypatch.setattr(
        spied,
        "transcribe_timed",
        lambda items, *asked, nbest: taken.append(len(items)) or made.recognizer.transcribe_timed(items, *asked),
    )
    assert [item.text for item in transcribe(spied, find_recordings([str(file) for file in files]))] == [
        item.text for item in whole
    ]
    assert taken == sizes


def test_features_of_the_course_are_files_too(course: Made, tmp_path: Path) -> None:
    """A .npy file (80, T) beside audio, with the same times; however long, it stays whole."""
    audio = write_audio(tmp_path / "a.wav", 0.5)
    np.save(tmp_path / "a.npy", course.recognizer.recipe.compute(read_audio(audio)).T)
    one, other = course.transcripts(audio, tmp_path / "a.npy", timed=True)
    assert one.text == other.text and one.words
    for word, same in zip(one.words, other.words or [], strict=True):
        assert word.text == same.text and same[1:] == pytest.approx(word[1:], abs=0.01)
    assert other.seconds == pytest.approx(one.seconds, abs=0.01)
    long = np.tile(np.load(tmp_path / "a.npy"), 6)
    np.save(tmp_path / "long.npy", long)
    (found,) = course.transcripts(tmp_path / "long.npy", piece_seconds=1.0)
    assert [found.text] == course.recognizer.transcribe([long.T])


def test_real_speech_runs_through_the_same_features(course: Made, speech_data: Path) -> None:
    """A LibriSpeech file: the text is wrong, but it is one."""
    file = next(iter(sorted(speech_data.glob("librispeech/**/*.flac"))))
    (found,) = course.transcripts(file, piece_seconds=60)
    assert [found.text] == course.texts(read_audio(file))


# What cannot be read


def test_features_of_the_course_are_refused_by_other_models(made: Made, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((80, 10), np.float32))
    with pytest.raises(InputError, match=r"a\.npy: \.npy features are of the recipe hw4, the model's are kaldi"):
        made.transcripts(tmp_path / "a.npy")


@pytest.mark.parametrize("array", [np.zeros((10, 80), np.float32), np.zeros((80, 10)), np.full((80, 9), np.nan, "f4")])
def test_wrong_features_are_refused(course: Made, tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=r"a\.npy: features"):
        course.transcripts(tmp_path / "a.npy")


def test_damaged_audio_is_named(made: Made, tmp_path: Path) -> None:
    """What is seen without decoding, of all files at once, before the first is transcribed."""
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not audio")
    whole = write_audio(tmp_path / "whole.wav", 0.5).read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:-100])
    write_audio(tmp_path / "nothing.wav", 0.0)
    reasons = {
        "empty.wav": "zero-length file",
        "text.wav": "unreadable or truncated audio",
        "cut.wav": "truncated audio",
        "nothing.wav": "zero-length audio",
    }
    for name, reason in reasons.items():
        with pytest.raises(InputError, match=f"{name}: {reason}"):
            made.transcripts(tmp_path / name)
    with pytest.raises(InputError) as error:
        made.transcripts(tmp_path / "whole.wav", *(tmp_path / name for name in reasons))
    for line, (name, reason) in zip(error.value.problem.splitlines(), reasons.items(), strict=True):
        assert line.startswith(f"{tmp_path / name}: {reason}")


def test_a_click_is_too_short(made: Made, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"click\.wav: 1\.0 ms of audio are too short"):
        made.transcripts(write_audio(tmp_path / "click.wav", 0.001))


# Long recordings


def test_a_long_recording_is_cut_at_its_silences(either: Made, tmp_path: Path) -> None:
    """Its text is that of its pieces, and its words lie where they were said."""
    samples = tones(8)
    file = write_samples(tmp_path / "long.wav", samples)
    samples = read_audio(file)  # as WAV rounds them
    cut = speech_pieces(samples, 4.0)
    assert len(cut) == 4
    said = [text.split() for text in either.texts(*(samples[piece.start : piece.end] for piece in cut))]
    (found,) = either.transcripts(file, timed=True, piece_seconds=4.0)
    words = found.words or []
    assert found.text.split() == [word.text for word in words] == [word for part in said for word in part]
    assert found.seconds == pytest.approx(8 * 1.4 + 0.4)
    numbers = [number for number, texts in enumerate(said) for _ in texts]
    for number, word in zip(numbers, words, strict=True):
        assert cut[number].start / RATE <= word.start < word.end <= cut[number].end / RATE
    (plain,) = either.transcripts(file, piece_seconds=4.0)
    assert (plain.text, plain.words) == (found.text, [])


def test_pieces_are_as_long_as_training_utterances(made: Made, tmp_path: Path) -> None:
    """But neither shorter than a second nor longer than 30."""
    file = write_samples(tmp_path / "long.wav", tones(30))
    for usual, limit in ((4.0, 4.0), (0.1, 1.0), (99.0, 30.0)):
        shorter = Made(made.model, replace(made.recognizer, usual_seconds=usual))
        assert shorter.transcripts(file) == made.transcripts(file, piece_seconds=limit)


def test_pieces_without_a_silence_overlap(either: Made, untimed: Made, tmp_path: Path) -> None:
    """What two heard is parted by the times of the words: those of CTC, or without it words as long as each other."""
    file = write_samples(tmp_path / "steady.wav", np.concatenate([tone(1.0, seed=n) for n in range(10)]))
    samples = read_audio(file)
    cut = speech_pieces(samples, 4.0)
    assert [(piece.start / RATE, piece.end / RATE) for piece in cut] == [(0, 4), (3, 7), (6, 10)]
    features = [either.recognizer.recipe.compute(samples[piece.start : piece.end]) for piece in cut]
    said = ["A B C D", "E F G H", "I J K L"]
    aligned = join_words(list(zip(cut, tiny.align(either.recognizer, features, said), strict=True)))
    for model, text in ((either, text_of(aligned)), (untimed, "A B C E F G I J K L")):
        speaking = Made(model.model, replace(model.recognizer))
        speaking.recognizer.decode = lambda *encoded: said
        assert [found.text for found in speaking.transcripts(file, piece_seconds=4.0)] == [text]


def test_nobody_speaks_in_a_silence(either: Made, tmp_path: Path) -> None:
    """Neither in a silent recording nor in a silent piece of one."""
    silence = np.zeros(9 * RATE, np.float32)
    empty = write_samples(tmp_path / "silence.wav", silence)
    file = write_samples(tmp_path / "late.wav", np.concatenate([silence, tone(1.0)]))
    quiet, late = either.transcripts(empty, file, timed=True, piece_seconds=3.0)
    assert (quiet.text, quiet.words, quiet.seconds) == ("", [], 9.0)
    assert late.words and late.words[0].start > 6.0


# Formats and files


def lines(made: Made, *paths: Path | str, format: str = "txt", out: Path | str | None = None) -> list[str]:
    return list(
        transcribe_to(made.model, [str(path) for path in paths], format, None if out is None else str(out), 4.0)
    )


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A folder of recordings, one of them long, one silent."""
    write_audio(tmp_path / "calls" / "a.wav", 1.0)
    write_samples(tmp_path / "calls" / "deep" / "b.flac", tones(5))
    write_samples(tmp_path / "calls" / "c.wav", np.zeros(RATE, np.float32))
    return tmp_path / "calls"


def test_text_is_a_line_a_recording(made: Made, calls: Path) -> None:
    expected = [f"{item.name}\t{item.text}" for item in made.transcripts(calls, piece_seconds=4.0)]
    assert lines(made, calls) == expected
    out = calls.parent / "all.txt"
    assert lines(made, calls, out=out) == [f"{out}: 3 transcribed"]
    assert out.read_text() == "".join(f"{line}\n" for line in expected)


@pytest.mark.parametrize("format", ["txt", "json", "srt"])
@pytest.mark.parametrize("place", ["terminal", "file", "folder"])
def test_names_that_are_not_utf8(made: Made, tmp_path: Path, format: str, place: str) -> None:
    """JSON has the name without loss, a line of text has it escaped, and a file for it has the same bytes."""
    names = [b"caf\xe9.wav", b"ok.wav"]
    for name in names:
        write_audio(tmp_path / "calls" / "new.wav", 1.0)
        (tmp_path / "calls" / "new.wav").rename(tmp_path / "calls" / os.fsdecode(name))
    if format == "srt" and place != "folder":
        names = names[:1]
    out = {"terminal": [], "file": ["--out", f"all.{format}"], "folder": ["--out", "texts/"]}[place]
    given = ["calls"] if len(names) == 2 else [b"calls/" + names[0]]
    done = subprocess.run(
        [PLATFORM, "transcribe", made.model, *given, "--format", format, *out],
        cwd=tmp_path, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    if place == "folder":
        written = [tmp_path / "texts" / os.fsdecode(name[:-3] + format.encode()) for name in names]
        assert sorted((tmp_path / "texts").iterdir()) == sorted(written)
        assert len(done.stdout.splitlines()) == 2 and b"caf\\udce9" in done.stdout
        return
    written_text = (tmp_path / f"all.{format}").read_text() if place == "file" else done.stdout.decode()
    if format == "json":
        assert [os.fsencode(item["file"]) for item in json.loads(written_text)] == [b"calls/" + name for name in names]
    elif format == "txt":
        printed = [line.partition("\t")[0] for line in written_text.splitlines()]
        assert printed == ["calls/caf\\udce9.wav", "calls/ok.wav"]
    else:
        assert "-->" in written_text


def test_json_has_phrases_and_words_with_times(either: Made, calls: Path) -> None:
    (printed,) = lines(either, calls, format="json")
    tree = json.loads(printed)
    for recording, transcript in zip(tree, either.transcripts(calls, timed=True, piece_seconds=4.0), strict=True):
        assert list(recording) == ["file", "duration", "text", "segments"]
        assert (recording["file"], recording["text"]) == (transcript.name, transcript.text)
        assert recording["duration"] == pytest.approx(transcript.seconds, abs=1e-3)
        words = [word for segment in recording["segments"] for word in segment["words"]]
        for written, word in zip(words, transcript.words or [], strict=True):
            assert written == {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3)}
        for segment in recording["segments"]:
            assert segment["text"] == " ".join(word["word"] for word in segment["words"])
            assert (segment["start"], segment["end"]) == (segment["words"][0]["start"], segment["words"][-1]["end"])


@pytest.mark.parametrize("format", ["txt", "json", "srt", "vtt"])
def test_a_folder_has_a_file_for_each_recording(either: Made, calls: Path, format: str) -> None:
    """At its place below the folder that was given; each is what that recording alone would give."""
    out = calls.parent / "written"
    written = [out / f"a.{format}", out / f"c.{format}", out / f"deep/b.{format}"]
    assert lines(either, calls, format=format, out=f"{out}/") == [str(path) for path in written]
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(written)
    for path, transcript in zip(written, either.transcripts(calls, timed=True, piece_seconds=4.0), strict=True):
        assert path.read_text() == FORMATS[format].write(transcript) + "\n"
        (alone,) = lines(either, transcript.name, format=format)
        if format == "json":
            assert json.loads(alone) == [json.loads(path.read_text())]
        else:
            assert alone.endswith(path.read_text().removesuffix("\n"))
    assert lines(either, calls / "a.wav", format=format, out=out) == [str(written[0])], "a folder that is there"


def test_subtitles_hold_one_recording(made: Made, calls: Path) -> None:
    with pytest.raises(InputError, match="--format srt holds one recording, but 3 are given") as error:
        lines(made, calls, format="srt")
    assert "--out subtitles/" in error.value.remedy


def test_two_recordings_are_never_one_file(made: Made, calls: Path, tmp_path: Path) -> None:
    write_audio(calls / "a.flac", 0.2)
    with pytest.raises(InputError, match=r"a\.flac and .*a\.wav would both be .*/a\.txt"):
        lines(made, calls, out=f"{tmp_path / 'written'}/")
    assert not (tmp_path / "written").exists()


def test_a_recording_is_never_written_over(made: Made, calls: Path) -> None:
    before = (calls / "a.wav").read_bytes()
    with pytest.raises(InputError, match="one of the recordings"):
        lines(made, calls, out=calls / "deep" / ".." / "a.wav")
    assert (calls / "a.wav").read_bytes() == before


@pytest.mark.parametrize("out", ["absent/all.txt", "file/all.txt", "file/", ""])
def test_a_place_that_cannot_be_written_to_is_refused(made: Made, calls: Path, out: str) -> None:
    (calls.parent / "file").touch()
    with pytest.raises(InputError) as error:
        lines(made, calls, out=f"{calls.parent}/{out}" if out else "")
    assert "--out" in str(error.value)
    assert sorted(path.name for path in calls.parent.iterdir()) == ["calls", "file"]


def test_a_failure_leaves_the_earlier_file(made: Made, calls: Path) -> None:
    """Here a recording that is found too short when its turn comes."""
    out = calls.parent / "all.txt"
    out.write_text("from before")
    write_audio(calls / "z.wav", 0.001)
    with pytest.raises(InputError, match="too short"):
        lines(made, calls, out=out)
    assert out.read_text() == "from before"
    assert sorted(path.name for path in calls.parent.iterdir()) == ["all.txt", "calls"]


@pytest.mark.parametrize("format", ["json", "srt", "vtt"])
def test_without_ctc_words_have_no_times(untimed: Made, calls: Path, format: str) -> None:
    key = CTC_WEIGHTS[untimed.recognizer.config.model.kind]
    with pytest.raises(InputError, match=rf"loss\.{key}: 0") as error:
        lines(untimed, calls / "a.wav", format=format)
    assert "txt" in error.value.remedy and f"loss.{key}" in error.value.remedy
    assert lines(untimed, calls / "a.wav")[0].startswith(str(calls / "a.wav"))
