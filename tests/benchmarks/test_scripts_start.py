"""Scripts of measurement that have no test of their own run once with their smallest size."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import babbler
import pytest
from curve_tables import DIGITS

from trainables.data.features import FeatureRecipe
from trainables.data.importers.fsdd import fsdd_utterances
from trainables.data.prepare import prepare

HERE = Path(__file__).parent
SMALL = "{d_model: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, feed_forward: 48, conv_channels: 16}"


def started(*command: str, **variables: str) -> str:
    """Standard output of a command that must end with exit code 0."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=False, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_training_is_compared_with_a_plain_loop(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(f"model: {SMALL}\n")
    sizes = ["--synthetic-hours", "0.1", "--updates", "1", "--rounds", "1", "--update-seconds", "60", "--threads", "1"]
    about = ["--config", str(tmp_path / "tiny.yaml"), *sizes]
    found = started(sys.executable, str(HERE / "training_throughput.py"), *about)
    assert "ours:" in found and "reference:" in found and "ratio:" in found


def test_errors_in_new_voices_are_printed_with_intervals(speech_data: Path, tmp_path: Path) -> None:
    for name, layers in (("one", 1), ("two", 2)):
        space = f"base: {{model: {SMALL}}}\nvary: {{model.encoder_layers: {{int: [{layers}, 3]}}}}\nepochs: 1\n"
        (tmp_path / f"{name}.yaml").write_text(space)
    sizes = ["--train", "8", "--test", "4", "--seeds", "0", "--speakers", "theo", "--processes", "1"]
    about = [str(speech_data / "fsdd"), str(tmp_path / "work"), str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")]
    found = started(sys.executable, str(HERE / "new_voices.py"), *about, *sizes)
    assert started(sys.executable, str(HERE / "new_voices.py"), *about, *sizes, "--report") in found
    rows = [line.split() for line in found.splitlines()]
    assert {row[1] for row in rows if row[:1] == ["two"]} >= {"dev", "clean", "white", "babble"}


def test_decoding_is_compared_with_generate() -> None:
    sizes = ["--rounds", "1", "--threads", "1", "--only", "1x1"]
    heading, row = started(sys.executable, str(HERE / "decoding_speed.py"), *sizes).splitlines()[-2:]
    assert "theirs / ours" in heading and row.split()[:2] == ["1", "1"]


def test_preparing_is_timed(speech_data: Path) -> None:
    sizes = ["--audio", str(speech_data / "librispeech"), "--hours", "0.001"]
    assert started(sys.executable, str(HERE / "prepare_speed.py"), *sizes).count("times real time") == 4


def test_times_of_words_are_measured(speech_data: Path, tmp_path: Path) -> None:
    """The words of a model that babbles are seldom right."""
    corpus = babbler.write_corpus(tmp_path / "corpus")
    babbler.save_model(corpus, tmp_path / "model")
    about = [str(tmp_path / "model"), str(speech_data / "fsdd"), "--utterances", "3"]
    found = started(sys.executable, str(HERE / "word_times.py"), *about)
    assert "3 utterances of " in found and "long recordings of " in found


def test_strategies_are_compared(digits: Path, tmp_path: Path) -> None:
    sizes = ["--seeds", "1", "--epochs", "2", "--only", "base", "--out", str(tmp_path / "out.jsonl")]
    found = started(sys.executable, str(HERE / "strategies.py"), str(digits), *sizes)
    assert "| base | " in found and "(1) |" in found


def test_a_plan_is_compared_with_its_sweep(digits: Path, tmp_path: Path) -> None:
    space = f"base: {{model: {SMALL}}}\nvary: {{model.dropout: {{float: [0, 0.1]}}}}\n"
    (tmp_path / "small.yaml").write_text(space)
    about = [str(digits), "--space", str(tmp_path / "small.yaml"), "--home", str(tmp_path / "home")]
    found = started(sys.executable, str(HERE / "plan_accuracy.py"), *about, "--trials", "1", "--epochs", "1")
    assert "| wall_hours | " in found


@pytest.fixture(scope="module")
def digits(speech_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of a few connected digits."""
    folder = tmp_path_factory.mktemp("digits") / "corpus"
    prepare(fsdd_utterances(speech_data / "fsdd", train=20, dev=5), FeatureRecipe(), folder, "fsdd", jobs=1)
    return folder


def test_chances_are_compared_with_outcomes() -> None:
    """In a sweep of eight, each trial that has begun and not finished has one; none of these diverges."""
    sizes = ["--table", str(DIGITS), "--seeds", "1", "--sizes", "8"]
    found = started(sys.executable, str(HERE / "chance_calibration.py"), *sizes).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found if line.startswith("| 8 |")]
    waiting = {int(row[2]): sum(map(int, re.findall(r"\((\d+)\)", " ".join(row)))) for row in rows}
    assert waiting.keys() <= {1, 2, 3, 5} and waiting[5] == 3
    assert all(0 < number <= 8 - finished for finished, number in waiting.items())


def test_the_table_of_a_gpu_is_made_without_one() -> None:
    sizes = ["--space", "synthetic", "--narrow", "--streamed"]
    sizes += ["--hours", "0.01", "--updates", "1", "--seconds", "10", "20"]
    about = {"SKIP_TESTS": "1", "PYTHON": sys.executable, "LIMIT": "480"}
    found = started("bash", str(HERE / "gpu.sh"), *sizes, "--compile", "never", **about)
    rows = [line for line in found.splitlines() if line.startswith("| ")]
    assert len(rows) == 4  # the heading, the line below it, and a row for each pass
    assert len({row.count("|") for row in rows}) == 1
