"""Scores of a model on changed audio: what is added has the ratio asked for, and all faces have the table."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import babbler
import numpy as np
import pytest
from command import PLATFORM
from hypothesis import given
from hypothesis import strategies as st
from place import Run
from recorded import tones, write_samples

from asr_platform.analysis.kept_scores import condition_scores, scores_of
from asr_platform.inference.conditions import CLEAN, NOISES, RATIOS, Conditions
from asr_platform.tracking.model_card import CARD
from trainables.data.corpus import Corpus
from trainables.data.features import SAMPLE_RATE


@pytest.fixture(scope="module")
def spoken(place: Path) -> Path:
    """A folder with a corpus of recordings and a model of it."""
    for number in range(3):
        for split in ("train", "dev"):
            write_samples(place / "speech" / split / f"{number}.wav", tones(number + 1))
            (place / "speech" / split / f"{number}.txt").write_text("ABC " * (number + 1))
    words = ["prepare", "folder", str(place / "speech"), "--out", str(place / "recorded")]
    subprocess.run([str(PLATFORM), *words], check=True, capture_output=True, timeout=300)
    babbler.save_model(Corpus.open(place / "recorded"), place / "listener")
    (place / "listener" / CARD).write_text("# small\n\n## Evaluation results\n\nCER\n\n## Training data\n\ndata\n")
    return place


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("ratio", RATIOS)
@given(number=st.integers(0, 3), seconds=st.floats(0.6, 2))
def test_noise_has_the_ratio_asked_for(noise: str, ratio: int, number: int, seconds: float) -> None:
    audio = [np.float32(0.1 * (place + 1)) * tones(2) for place in range(4)]
    samples = audio[number][: int(seconds * SAMPLE_RATE)]
    noisy = Conditions(audio).named[f"{noise} {ratio} dB"](number, samples)
    assert noisy.shape == samples.shape and noisy.dtype == np.float32
    found = 10 * np.log10(np.mean(samples**2) / np.mean((noisy - samples) ** 2))
    assert found == pytest.approx(ratio, abs=0.05)


def test_each_change_does_what_its_name_says() -> None:
    samples = tones(4)
    changes = Conditions([samples]).named
    assert np.array_equal(changes[CLEAN](0, samples), samples)
    assert len(changes["speed 1.2"](0, samples)) == pytest.approx(len(samples) / 1.2, abs=2)
    assert len(changes["speed 0.8"](0, samples)) == pytest.approx(len(samples) / 0.8, abs=2)
    spectrum = np.abs(np.fft.rfft(changes["telephone"](0, np.random.default_rng(0).normal(0, 1, SAMPLE_RATE))))
    assert spectrum[:299].max() < 1e-2 * spectrum[301:3399].max() > spectrum[3401:].max()
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[100] = 1
    room = changes["room"](0, click)
    assert room[100] == pytest.approx(1, abs=0.2) and np.sum(room[101:] ** 2) == pytest.approx(1, abs=0.2)
    assert np.abs(room[:100]).max() < 1e-6, "nothing is heard before it sounds"


def test_every_face_has_the_table(spoken: Path, run: Run) -> None:
    words = ("evaluate", "listener", "--data", "recorded", "--split", "dev", "--robustness")
    rows = json.loads(run(*words, "--json").out)
    assert [row["condition"] for row in rows] == list(Conditions([]).named)
    assert all(row["cer_interval"][0] <= row["cer"] <= row["cer_interval"][1] for row in rows)
    shown = [line.split("  ")[0] for line in run(*words).out.splitlines()]
    assert {row["condition"] for row in rows} <= {*shown}
    assert run("evaluate", "listener", "--data", "recorded", "--split", "dev").code == 0
    model = spoken / "listener"
    assert [one.condition for one in condition_scores(model, Corpus.open(spoken / "recorded").hash)] == [
        row["condition"] for row in rows
    ]
    assert len(scores_of(model)) == len(rows) + 1, "the split's own features have a score of theirs"
    card = (model / CARD).read_text()
    assert card.count("## Robustness") == 1 and card.index("## Robustness") < card.index("## Training data")
    assert f"| babble 0 dB | {rows[12]['cer']:.2%} |" in card


def test_what_has_no_audio_is_told(spoken: Path, run: Run) -> None:
    before = scores_of(spoken / "listener")
    (spoken / "speech" / "dev" / "1.wav").unlink()
    ended = run("evaluate", "listener", "--data", "recorded", "--split", "dev", "--robustness")
    assert ended.code == 2 and "dev: the audio of 1 of 3 utterances is not there" in ended.err
    assert scores_of(spoken / "listener") == before
    ended = run("evaluate", "listener", "--data", "recorded", "--split", "dev", "--robustness", "--compare")
    assert ended.code == 2 and "--compare and --robustness are two tables" in ended.err
