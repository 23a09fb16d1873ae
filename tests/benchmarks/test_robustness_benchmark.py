"""The benchmark of robustness runs with its smallest size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import babbler
from command import PLATFORM
from recorded import tones, write_samples

from trainables.data.corpus import Corpus

BENCHMARK = Path(__file__).with_name("robustness.py")


def test_a_row_for_each_change(tmp_path: Path) -> None:
    """The rates are between 0 and 1 or little more; the plot is a picture."""
    for split, count in (("train", 3), ("dev", 3)):
        (tmp_path / "speech" / split).mkdir(parents=True)
        for number in range(count):
            write_samples(tmp_path / "speech" / split / f"{number}.wav", tones(number + 1))
            (tmp_path / "speech" / split / f"{number}.txt").write_text("ABC " * (number + 1))
    prepared = [str(PLATFORM), "prepare", "folder", str(tmp_path / "speech"), "--out", str(tmp_path / "corpus")]
    subprocess.run(prepared, check=True, capture_output=True, timeout=300)
    babbler.save_model(Corpus.open(tmp_path / "corpus"), tmp_path / "model")
    command = [sys.executable, str(BENCHMARK), str(tmp_path / "model"), "--data", str(tmp_path / "corpus")]
    asked = ["--utterances", "2", "--plot", str(tmp_path / "plot.png"), "--json", str(tmp_path / "rows.json")]
    done = subprocess.run([*command, *asked], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["condition"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    assert {"clean", "white 20 dB", "pink 0 dB", "babble 5 dB", "room", "speed 0.8", "telephone"} <= {*rows}
    for name, row in rows.items():
        assert name in done.stdout
        assert row["cer_interval"][0] <= row["cer"] <= row["cer_interval"][1]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
