"""Kaldi data folders: recordings, segments, texts and speakers."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.data.features import FeatureRecipe
from trainables.data.importers.kaldi import kaldi_utterances
from trainables.data.importers.librispeech import librispeech_utterances
from trainables.data.mistakes import Mistakes
from trainables.data.utterance import AudioSegment
from trainables.errors import InputError

HW4 = FeatureRecipe(name="hw4")


@pytest.fixture
def data(speech_data: Path, tmp_path: Path) -> Path:
    """Two data folders of LibriSpeech's recordings: `train` with whole recordings, `dev_x` with segments of one."""
    for split in ("test-clean", "test-other"):
        (tmp_path / split).symlink_to(speech_data / "librispeech" / split)
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "dev_x").mkdir()
    (tmp_path / "data" / "train" / "wav.scp").write_text(
        "1089-134686-0000 test-clean/1089/134686/1089-134686-0000.flac\n"
        "1089-134686-0001\tflac -c -d -s test-clean/1089/134686/1089-134686-0001.flac |\n"
    )
    (tmp_path / "data" / "train" / "text").write_text("1089-134686-0000 HE HOPED\n1089-134686-0001  STUFF IT\n")
    (tmp_path / "data" / "train" / "utt2spk").write_text("1089-134686-0000 1089\n1089-134686-0001 1089\n")
    (tmp_path / "data" / "dev_x" / "wav.scp").write_text("rec test-other/1688/142285/1688-142285-0000.flac\n")
    (tmp_path / "data" / "dev_x" / "segments").write_text("rec-a rec 0.5 1.75\nrec-b rec 2.0 -1\n")
    (tmp_path / "data" / "dev_x" / "text").write_text("rec-a A\nrec-b B\n")
    return tmp_path / "data"


def test_folders_with_segments_and_speakers(data: Path, speech_data: Path) -> None:
    utterances = kaldi_utterances(data)
    assert [(item.split, item.id, item.text, item.speaker) for item in utterances] == [
        ("dev_x", "rec-a", "A", None),
        ("dev_x", "rec-b", "B", None),
        ("train", "1089-134686-0000", "HE HOPED", "1089"),
        ("train", "1089-134686-0001", "STUFF IT", "1089"),
    ]
    same = {item.id: item for item in librispeech_utterances(speech_data / "librispeech")}
    for item in utterances[2:]:
        assert item.source.features(HW4)[1] == same[item.id].source.features(HW4)[1]
    whole = same["1688-142285-0000"].source.features(HW4)[1]
    assert [item.source.features(HW4)[1] for item in utterances[:2]] == [1.25, pytest.approx(whole - 2)]


def test_one_folder_is_named_by_its_split(data: Path) -> None:
    assert {item.split for item in kaldi_utterances(data / "dev_x")} == {"dev_x"}
    (data / "dev_x").rename(data / "calls")
    assert {item.split for item in kaldi_utterances(data / "calls")} == {"train"}


def test_only_test_splits_may_lack_texts(data: Path) -> None:
    (data / "train" / "text").unlink()
    with pytest.raises(InputError, match=r"train/text: no such file"):
        kaldi_utterances(data)
    (data / "train").rename(data / "test_a")
    assert {item.text for item in kaldi_utterances(data) if item.split == "test_a"} == {None}


def test_no_command_is_run(data: Path) -> None:
    file = "test-clean/1089/134686/1089-134686-0000.flac"
    commands = f"a touch {data}/proof |\nb cat 'no quote |\nc sox {file} -r 8k -t wav - |\n"
    (data / "train" / "wav.scp").write_text(commands)
    (data / "train" / "text").write_text("a A\nb B\nc C\n")
    bad = Mistakes(6)
    assert {item.split for item in kaldi_utterances(data, bad)} == {"dev_x"}
    for problem, command in zip(bad.problems, commands.splitlines(), strict=True):
        assert f"a command, which is not run: {command[2:]}" in problem
    assert not (data / "proof").exists()


def test_every_mistake_has_its_line(data: Path) -> None:
    train, dev = data / "train", data / "dev_x"
    with (train / "wav.scp").open("a") as file:
        file.write("gone test-clean/none.flac\nempty\n1089-134686-0000 again.wav\nalone /dev/null\n")
    with (train / "text").open("a") as file:
        file.write("nobody N\ngone G\nempty E\n")
    (dev / "segments").write_text("a rec 1\nb other 0 1\nc rec 2 1\nd rec x 1\ne rec nan 1\nf rec 0 inf\ng rec 0 1\n")
    (dev / "text").write_text("".join(f"{id} T\n" for id in "abcdefg"))
    bad = Mistakes(100)
    assert [item.id for item in kaldi_utterances(data, bad)] == ["g", "1089-134686-0000", "1089-134686-0001"]
    problems = [problem.removeprefix(f"{data}/").replace(str(data.parent), "") for problem in bad.problems]
    assert problems == [
        "dev_x/segments:1: must be utterance, recording, start and end in seconds, but got a rec 1",
        "dev_x/segments:2: no recording named other in wav.scp",
        "dev_x/segments:3: start 2 and end 1 are no segment in seconds",
        "dev_x/segments:4: must be utterance, recording, start and end in seconds, but got d rec x 1",
        "dev_x/segments:5: start nan and end 1 are no segment in seconds",
        "dev_x/segments:6: start 0 and end inf are no segment in seconds",
        "train/wav.scp:5: 1089-134686-0000 has a line already",
        "train/wav.scp:3: no such file: /data/train/test-clean/none.flac",
        "train/wav.scp:4: names no file",
        "train/wav.scp:6: no such file: /dev/null",
        "train/text:3: no recording or segment named nobody",
        "train/wav.scp: alone: no line in text",
    ]
    with pytest.raises(InputError, match="--skip-bad"):
        kaldi_utterances(data, Mistakes(2))


def test_a_place_without_a_data_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no wav\.scp here"):
        kaldi_utterances(tmp_path)


def test_segments_share_their_recording(data: Path) -> None:
    paths = {item.source.path for item in kaldi_utterances(data / "dev_x") if isinstance(item.source, AudioSegment)}
    assert len(paths) == 1
