"""How many times faster than real time `platform prepare` is on one core, and how its memory grows with the corpus.

    python tests/benchmarks/prepare_speed.py [--audio ../shared/data/librispeech] [--hours 1]

Reads FLAC in LibriSpeech's layout, computes features with each recipe in this process (one job, one thread) and
writes the corpus, hash and statistics included. The recordings are taken as often as it needs for so many hours, and
once more for a quarter of them: memory that stays flat is the same for both.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import argparse
import dataclasses
import itertools
import tempfile
import time
from pathlib import Path

from trainables.data.features import FeatureRecipe
from trainables.data.importers.librispeech import librispeech_utterances
from trainables.data.prepare import prepare
from trainables.data.utterance import Utterance

RECIPES = (FeatureRecipe(name="hw4"), FeatureRecipe(name="kaldi"))
REPOSITORY = Path(__file__).resolve().parents[2]


def repeated(utterances: list[Utterance], times: int) -> list[Utterance]:
    """The utterances so many times over, each copy with its own id."""
    return [
        dataclasses.replace(utterance, id=f"{utterance.id}.{copy}")
        for copy, utterance in itertools.product(range(times), utterances)
    ]


def memory(field: str) -> int:
    """This process's memory in bytes, as Linux tells it: VmRSS now, or VmHWM at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(utterances: list[Utterance], recipe: FeatureRecipe) -> str:
    """Prepares a corpus and says how fast, and by how much memory grew at most."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest is now
    with tempfile.TemporaryDirectory() as folder:
        before, start, used = memory("VmRSS"), time.perf_counter(), time.process_time()
        corpus = prepare(utterances, recipe, Path(folder) / "corpus", "librispeech", jobs=1)
        wall, used = time.perf_counter() - start, time.process_time() - used
        seconds = sum(split.seconds for split in corpus.splits.values())
        grown = memory("VmHWM") - before
    return (
        f"{recipe.name:>5}: {seconds / 3600:5.2f} h at {seconds / wall:4.0f} times real time "
        f"({seconds / used:4.0f} by CPU time), memory grew by {grown / 2**20:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("SPEECH_DATA", REPOSITORY.parent / "shared" / "data"))
    parser.add_argument("--audio", type=Path, default=shared / "librispeech", help="default: %(default)s")
    parser.add_argument("--hours", type=float, default=1.0, help="of audio to prepare (default: 1)")
    options = parser.parse_args()
    utterances = librispeech_utterances(options.audio)
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as folder:  # warms up, and says how long the recordings are
            corpus = prepare(utterances, recipe, Path(folder) / "corpus", "librispeech", jobs=1)
        hours = sum(split.seconds for split in corpus.splits.values()) / 3600
        for share in (0.25, 1.0):
            print(measure(repeated(utterances, max(1, round(share * options.hours / hours))), recipe), flush=True)


if __name__ == "__main__":
    main()
