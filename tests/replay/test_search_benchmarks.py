"""The benchmarks of the search run with their smallest sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from curve_tables import DIGITS, read_table

from trainables.data.corpus import Corpus

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SPACE = """
vary: {model.d_model: {choice: [16, 32]}, optimizer.lr: {log: [1.0e-4, 1.0e-2]}}
base: {model: {heads: 2, feed_forward: 32, conv_channels: 4, encoder_layers: 1, decoder_layers: 1}}
epochs: 2
asha: {promotion: 1, grace: 2}
"""


def benchmark(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("options", [["--json"], ["--whole"]])
def test_the_benchmark_prints_a_row_a_table_and_policy(options: list[str]) -> None:
    size = ["--seeds", "2", "--subset", "6", "--workers", "1", "2", "--start-seconds", "2"]
    done = benchmark("policies.py", *size, "--policies", "ours", "ray", "--table", str(DIGITS), *options)
    assert done.returncode == 0, done.stderr
    if "--json" not in options:
        assert "2 workers, 2 s a start" in done.stdout and "Ray: OptunaSearch + ASHAScheduler" in done.stdout
        return
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["table"], row["policy"], row["workers"]) for row in found] == [
        ("digits", policy, workers) for workers in (1, 2) for policy in ("ours", "ray")
    ]
    keys = {"table", "policy", "workers", "start_seconds", "runs", "ert", "ert_low", "ert_high", "ratio_to_ray"}
    assert all(0 < row["share_of_all"] <= 1.5 for row in found)
    assert all(keys <= set(row) for row in found) and {row["start_seconds"] for row in found} == {2.0}


def test_a_missing_table_is_named() -> None:
    done = benchmark("policies.py", "--table", "none.npz")
    assert done.returncode == 2 and "none.npz: no such table" in done.stderr


def test_recorded_curves_are_a_table(tiny_corpus: Corpus, tmp_path: Path) -> None:
    """Whose recording goes on where it was left, and which every policy can search."""
    (tmp_path / "tiny.yaml").write_text(SPACE)
    for configurations in (1, 3):
        size = ["--configurations", str(configurations), "--processes", "2"]
        done = benchmark("record_curves.py", str(tiny_corpus.path), str(tmp_path / "tiny.yaml"), *size)
        assert done.returncode == 0, done.stderr
    table = read_table(tmp_path / "tiny.jsonl")
    assert [(curve.number, len(curve.epochs)) for curve in table.curves] == [(0, 2), (1, 2), (2, 2)]
    size = ["--seeds", "1", "--subset", "2", "--workers", "1", "--start-seconds", "0", "--json"]
    done = benchmark("policies.py", "--table", str(tmp_path / "tiny.jsonl"), *size)
    assert done.returncode == 0 and {json.loads(line)["table"] for line in done.stdout.splitlines()} >= {"tiny"}


def test_curves_of_small_learners_are_tables(tmp_path: Path) -> None:
    done = benchmark("record_small_learners.py", str(tmp_path), "--configurations", "3", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    for name in ("perceptron", "convolution", "boosting", "characters"):
        table = read_table(tmp_path / f"{name}.npz")
        assert [len(curve.epochs) for curve in table.curves] == [2, 2, 2] and 0 < table.best < 5


def test_a_proposal_has_its_price() -> None:
    done = benchmark("proposal_cost.py", "--proposals", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ms a proposal on average") == 3
