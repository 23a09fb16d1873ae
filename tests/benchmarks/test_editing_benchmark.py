"""The benchmark of the editor runs with its smallest size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainables.data.corpus import Corpus

BENCHMARK = Path(__file__).with_name("editing.py")


@pytest.mark.parametrize(("arguments", "rows"), [((), ("draft", "1 step", "greedy")), (("--variants",), ("base",))])
def test_a_row_for_each_decoding_and_variant(
    arguments: tuple[str, ...], rows: tuple[str, ...], tiny_corpus: Corpus, tmp_path: Path
) -> None:
    command = [sys.executable, str(BENCHMARK), str(tiny_corpus.path), "--seeds", "1", "--epochs", "1", *arguments]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    for row in rows:
        assert f"| {row} |" in done.stdout
