"""What `platform plan` says of a sweep beside what the sweep then takes.

    platform prepare fsdd FSDD --train 600 --out corpora/digits600
    python tests/benchmarks/plan_accuracy.py corpora/digits600 [--space digits] [--trials 8] [--epochs 10] [--home DIR]

Both are run as a person would, one after the other, so that other work on the machine slows both. Memory is the largest
sum of what all processes of the sweep hold, pages that some of them share counted once (PSS); disk is the largest size
of the sweep's home.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger
from asr_platform.study.spending import device_seconds

PLATFORM = Path(sys.executable).parent / "platform"
NAME = "planned"
SECONDS_BETWEEN_LOOKS = 2.0


def planned(words: list[str]) -> dict[str, Any]:
    """The plan, as JSON."""
    done = subprocess.run([PLATFORM, "plan", *words, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def swept(words: list[str], place: Path) -> dict[str, float]:
    """Runs the sweep and returns what it took, by the plan's names."""
    start = time.perf_counter()
    process = subprocess.Popen([PLATFORM, "--home", place, "sweep", *words, "--name", NAME])
    memory = disk = 0
    while process.poll() is None:
        memory, disk = max(memory, held_by(process.pid)), max(disk, size_of(place))
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        sys.exit(f"the sweep ended with exit code {process.returncode}")
    wall = time.perf_counter() - start
    trials = Ledger.open(Home.existing(place).studies, NAME).trials()
    seconds = device_seconds(row for trial in trials for row in trial.curve)
    print("epochs of the trials:", *(trial.epochs for trial in trials))
    return {
        "wall_hours": wall / 3600,
        "device_hours": seconds / 3600,
        "memory_bytes": memory,
        "disk_bytes": disk,
    }


def held_by(ancestor: int) -> int:
    """Bytes of a process and all that descend from it; each shared page counts once among those that share it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # ended meanwhile
            continue
    family = {ancestor}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(map(proportional_bytes, family))


def proportional_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except OSError:  # a checkpoint that has just been replaced
            continue
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--space", default="digits")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--home", type=Path, help="where the sweep stays; default: nowhere")
    options = parser.parse_args()
    words = [options.space, "--data", str(options.corpus), "--trials", str(options.trials)]
    words += ["--epochs", str(options.epochs)]
    plan = planned(words)
    print(json.dumps(plan, indent=1), flush=True)
    with tempfile.TemporaryDirectory() as place:
        outcome = swept(words, options.home or Path(place))
    print("\n| | planned | taken | planned / taken |\n| --- | --- | --- | --- |")
    for name, taken in outcome.items():
        expected = plan["expense"][name]
        figures = (f"{value:.3f}" if value < 1000 else f"{value / 1e6:,.0f} MB" for value in (expected, taken))
        print(f"| {name} | {' | '.join(figures)} | {expected / taken:.2f} |")


if __name__ == "__main__":
    main()
