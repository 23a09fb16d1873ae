"""The benchmark of a ledger's growth runs with its smallest size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).with_name("ledger_growth.py")


def test_a_row_for_each_step_and_command() -> None:
    command = [sys.executable, str(BENCHMARK), "--trials", "3", "5", "--epochs", "3"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for step in ("open", "read first", "record an epoch", "live table", "MLflow", "copy", "retention"):
        assert f" {step} " in done.stdout
    for command in ("leaderboard", "status", "compare"):
        assert f"platform {command}" in done.stdout
