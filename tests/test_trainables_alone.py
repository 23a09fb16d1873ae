"""What Ray runs also trains without Ray, and without anything else that only the platform needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
RUN = ("training/test_golden.py", "training/test_optimizer.py", "models/test_losses.py", "data/test_batch_plan.py")
COLLECTED = ("training", "models", "decoding", "evaluation")


def alone(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs pytest with torch, numpy, pyarrow, sentencepiece, jiwer, pydantic and safetensors, and what these need."""
    # A plugin is imported before pytest's settings add its folder to the path.
    path = os.pathsep.join([str(TESTS / "support"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-p", "alone", "-p", "no:cacheprovider", *words]
    about = {"cwd": TESTS.parent, "env": {**os.environ, "PYTHONPATH": path}}
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, **about)


def test_it_trains_without_the_platforms_packages() -> None:
    done = alone(*(str(TESTS / name) for name in RUN))
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_all_its_tests_can_be_collected_without_them() -> None:
    done = alone("--collect-only", *(str(TESTS / name) for name in COLLECTED))
    assert done.returncode == 0, done.stdout


def test_the_platform_is_hidden() -> None:
    done = alone("--collect-only", str(TESTS / "study" / "test_rungs.py"))
    assert done.returncode != 0 and "No module named" in done.stdout
