"""The benchmark of trials' starts runs with its smallest size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).with_name("trial_start.py")


def test_a_row_for_each_kind_of_start() -> None:
    command = [sys.executable, str(BENCHMARK), "--trials", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    for kind in ("bare", "new", "promoted"):
        assert f"{kind}: first " in done.stdout
