"""Cuts and manifests of real speech, written by Lhotse itself."""

from __future__ import annotations

import gzip
import pickle
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from trainables.data.features import SAMPLE_RATE, FeatureRecipe
from trainables.data.importers.lhotse import CutAudio, lhotse_utterances
from trainables.data.importers.librispeech import librispeech_utterances
from trainables.data.mistakes import Mistakes
from trainables.data.utterance import AudioSegment, AudioSource, Utterance
from trainables.errors import InputError

lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed (extra: lhotse)")

HW4 = FeatureRecipe(name="hw4")
PARTS = ["test-clean", "test-other", "train-clean-100"]


@pytest.fixture(scope="module")
def manifests(speech_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings and supervisions of LibriSpeech, as Lhotse's recipe writes them."""
    folder = tmp_path_factory.mktemp("manifests")
    lhotse.recipes.prepare_librispeech(speech_data / "librispeech", dataset_parts=PARTS, output_dir=folder)
    return folder


@pytest.fixture
def cuts(manifests: Path) -> Any:
    """The cuts of test-clean, four whole recordings."""
    part = lhotse.CutSet.from_manifests(
        recordings=lhotse.RecordingSet.from_file(manifests / "librispeech_recordings_test-clean.jsonl.gz"),
        supervisions=lhotse.SupervisionSet.from_file(manifests / "librispeech_supervisions_test-clean.jsonl.gz"),
    )
    return part.to_eager()


def samples(utterance: Utterance) -> np.ndarray:
    assert isinstance(utterance.source, AudioSource)
    return utterance.source.samples()


def test_recordings_and_supervisions_are_those_of_librispeech(manifests: Path, speech_data: Path) -> None:
    found = lhotse_utterances(manifests)
    expected = librispeech_utterances(speech_data / "librispeech", PARTS)
    facts = lambda items: sorted((item.split, item.id, item.text, item.speaker, item.source) for item in items)  # noqa: E731
    assert [row[:4] for row in facts(found)] == [row[:4] for row in facts(expected)]
    assert {item.id: item.source for item in found} == {item.id: item.source for item in expected}
    assert lhotse_utterances(manifests) == found == pickle.loads(pickle.dumps(found))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("cuts_dev-clean.jsonl.gz", "dev-clean"), ("libri_cuts_train.jsonl", "train"), ("train_cuts.json", "train"),
        ("my_dev_cuts.yaml", "dev"), ("cuts.jsonl.gz", "train"), ("mine_cuts.jsonl", "train"),
    ],
)  # fmt: skip
def test_files_of_cuts_and_the_split_in_their_names(cuts: Any, tmp_path: Path, name: str, split: str) -> None:
    cuts.to_file(tmp_path / name)
    utterances = lhotse_utterances(tmp_path / name)
    assert {item.split for item in utterances} == {split} and len(utterances) == 4
    assert lhotse_utterances(tmp_path) == utterances


def test_segments_of_a_recording(cuts: Any, tmp_path: Path) -> None:
    """A cut with two supervisions is two utterances, which are read from the file without Lhotse."""
    whole = cuts[0]
    pieces = [
        lhotse.SupervisionSegment("a", whole.recording_id, 1.0, 2.5, text=" ONE  TWO", speaker="x"),
        lhotse.SupervisionSegment("b", whole.recording_id, 4.0, 3.0, text="THREE"),
    ]
    whole.supervisions = pieces
    lhotse.CutSet.from_cuts([whole]).to_file(tmp_path / "cuts.jsonl")
    one, two = lhotse_utterances(tmp_path / "cuts.jsonl")
    path = Path(whole.recording.sources[0].source)
    assert (one.id, one.text, one.speaker, one.source) == ("a", "ONE TWO", "x", AudioSegment(path, 1.0, 2.5))
    assert (two.id, two.text, two.speaker, two.source) == ("b", "THREE", None, AudioSegment(path, 4.0, 3.0))
    assert two.origin == f"{tmp_path / 'cuts.jsonl'}: b"
    assert one.source.features(HW4)[1] == 2.5


@pytest.mark.parametrize(
    "change",
    [
        lambda cut: cut.perturb_speed(0.9),
        lambda cut: cut.resample(8000),
        lambda cut: cut.mix(cut.perturb_volume(0.5), snr=10),
    ],
    ids=["speed", "sample rate", "mix"],
)
def test_what_lhotse_changes_is_read_by_lhotse(cuts: Any, tmp_path: Path, change: Callable[[Any], Any]) -> None:
    changed = change(cuts[0])
    lhotse.CutSet.from_cuts([changed]).to_file(tmp_path / "cuts.jsonl.gz")
    utterance, *_ = lhotse_utterances(tmp_path / "cuts.jsonl.gz")
    assert isinstance(utterance.source, CutAudio)
    found = samples(pickle.loads(pickle.dumps(utterance)))
    assert found.ndim == 1 and len(found) / SAMPLE_RATE == pytest.approx(changed.duration, abs=0.01)
    expected = changed.resample(SAMPLE_RATE).load_audio()[0]
    assert np.corrcoef(found[:50_000], expected[:50_000])[0, 1] > 0.99
    assert utterance.source.features(HW4)[0].shape[1] == 80


def test_one_channel_of_two(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    both = 0.1 * random.standard_normal((16_000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "two.wav", both, 16_000, subtype="FLOAT")
    recording = lhotse.Recording.from_file(tmp_path / "two.wav")
    spoken = [lhotse.SupervisionSegment(f"{side}", "two", 0, 1.0, channel=side, text="A") for side in (0, 1)]
    cut = lhotse.MonoCut("cut", 0, 1.0, 1, [spoken[1]], recording=recording)
    lhotse.CutSet.from_cuts([cut]).to_file(tmp_path / "cuts.jsonl")
    (utterance,) = lhotse_utterances(tmp_path / "cuts.jsonl")
    np.testing.assert_allclose(samples(utterance), both[:, 1], atol=1e-6)


def test_paths_relative_to_the_manifest(cuts: Any, tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(Path(cuts[0].recording.sources[0].source).read_bytes())
    cuts[0].recording.sources[0].source = "a.flac"
    for number, changed in enumerate((cuts[0], cuts[0].perturb_speed(1.1))):
        lhotse.CutSet.from_cuts([changed]).to_file(tmp_path / f"cuts_{number}.jsonl")
    plain, faster = lhotse_utterances(tmp_path)
    assert plain.source == AudioSegment(tmp_path / "a.flac")
    assert len(samples(faster)) == pytest.approx(len(samples(plain)) / 1.1, rel=0.01)


# Mistakes


def test_cuts_that_cannot_be_used_are_named_together(cuts: Any, tmp_path: Path) -> None:
    """Audio that a command makes, or that lies at an address, is neither run nor fetched."""
    marker = tmp_path / "was-run"
    for cut, (kind, source) in zip(
        cuts, [("command", f"touch {marker}"), ("url", "http://127.0.0.1:9/a.wav"), ("file", "gone.wav")], strict=False
    ):
        cut.recording.sources[0].type, cut.recording.sources[0].source = kind, source
    cuts.to_file(path := tmp_path / "cuts.jsonl")
    ids = [cut.supervisions[0].id for cut in cuts]
    with pytest.raises(InputError) as caught:
        lhotse_utterances(path)
    assert f"{path}: {ids[0]}: a recording by command, which is neither run nor fetched" in caught.value.problem
    assert f"{path}: {ids[1]}: a recording by url" in caught.value.problem
    assert f"{path}: {ids[2]}: no such file" in caught.value.problem
    assert not marker.exists()
    assert Counter(item.id for item in lhotse_utterances(path, Mistakes(3))) == {ids[3]: 1}


def test_features_alone_are_no_recording(cuts: Any, tmp_path: Path) -> None:
    features = lhotse.Features("fbank", 1043, 80, 0.01, 16_000, 0, 10.43, "lilcom_files", "x", "y", "0", 0)
    lhotse.CutSet.from_cuts([replace(cuts[0], recording=None, features=features)]).to_file(tmp_path / "cuts.jsonl")
    with pytest.raises(InputError, match="without a recording"):
        lhotse_utterances(tmp_path / "cuts.jsonl")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cuts.jsonl", b"no JSON\n"),
        ("cuts.jsonl", b'{"audio_filepath": "a.wav", "text": "A"}\n'),
        ("cuts.jsonl", b"[]\n"),
        ("cuts.jsonl.gz", b"no gzip"),
        ("cuts.jsonl.gz", gzip.compress(b'{"id": "a"}\n' * 99)[:-20]),
        ("cuts.yaml", b"a: ["),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: not readable as a CutSet of Lhotse") as caught:
        lhotse_utterances(tmp_path / name)
    assert caught.value.remedy


def test_where_there_are_no_manifests(tmp_path: Path, cuts: Any) -> None:
    with pytest.raises(InputError, match="nowhere: no such file"):
        lhotse_utterances(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"(?s)no manifests of Lhotse.*Give the folder"):
        lhotse_utterances(tmp_path)
    lhotse.RecordingSet.from_recordings([cuts[0].recording]).to_file(tmp_path / "recordings_train.jsonl")
    with pytest.raises(InputError, match=r"supervisions_train\.jsonl: not readable as a SupervisionSet"):
        lhotse_utterances(tmp_path)
    cuts[0].supervisions = []
    lhotse.CutSet.from_cuts([cuts[0]]).to_file(tmp_path / "cuts.jsonl")
    with pytest.raises(InputError, match="no supervisions"):
        lhotse_utterances(tmp_path / "cuts.jsonl")


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lhotse", None)
    (tmp_path / "cuts.jsonl").touch()
    with pytest.raises(InputError, match=r"(?s)not installed.*pip install lhotse"):
        lhotse_utterances(tmp_path)
