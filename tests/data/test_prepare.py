"""From utterances to a corpus by worker processes: order, mistakes, and every way to be interrupted."""

from __future__ import annotations

import math
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ready import Ready, Unreadable, end_process, exhaust_memory, refuse, unpicklable

from trainables.data.corpus import Corpus
from trainables.data.features import FeatureRecipe
from trainables.data.importers.fsdd import fsdd_utterances
from trainables.data.importers.hw4 import hw4_utterances
from trainables.data.importers.synthetic import synthetic_utterances
from trainables.data.mistakes import Mistakes
from trainables.data.prepare import prepare
from trainables.data.utterance import AudioSegment, Utterance
from trainables.data.workers import ordered_map
from trainables.errors import InputError
from trainables.folders import UnfinishedFolder

HW4, KALDI = FeatureRecipe(name="hw4"), FeatureRecipe(name="kaldi")


def ready(count: int, split: str = "train") -> list[Utterance]:
    return [Utterance(f"{index:03d}", split, "A", Ready(float(index))) for index in range(count)]


def test_workers_change_nothing(speech_data: Path, tmp_path: Path) -> None:
    utterances = fsdd_utterances(speech_data / "fsdd", train=60, dev=10) + synthetic_utterances(0, 0, 20)
    seen: list[tuple[int, int]] = []
    alone = prepare(utterances, KALDI, tmp_path / "alone", "test", jobs=1)
    together = prepare(utterances, KALDI, tmp_path / "together", "test", 2, lambda *numbers: seen.append(numbers))
    assert alone.hash == together.hash and alone.splits == together.splits
    assert seen == [(done, 90) for done in range(1, 91)]
    assert together.source == "test" and together.recipe == KALDI
    assert together.split("train").ids == [item.id for item in utterances if item.split == "train"]


def test_the_course_data(speech_data: Path, tmp_path: Path) -> None:
    utterances = hw4_utterances(speech_data / "hw4_data_subset")
    corpus = prepare(utterances, HW4, tmp_path / "corpus", "hw4")
    assert {name: summary.utterances for name, summary in corpus.splits.items()} == {
        "dev-clean": 2,
        "test-clean": 2,
        "train-clean-100": 28,
    }
    split = corpus.split("dev-clean")
    real = np.load(speech_data / "hw4_data_subset" / "hw4p2_data" / "dev-clean" / "fbank" / f"{split.ids[1]}.npy").T
    stored = split.features[split.offsets[1] :].numpy()
    np.testing.assert_array_equal(stored, real.astype(np.float16))
    with pytest.raises(InputError, match="ready features of the recipe hw4, not kaldi"):
        prepare(utterances, KALDI, tmp_path / "other", "hw4")


def test_transcripts_are_checked_before_any_audio(tmp_path: Path) -> None:
    nothing = AudioSegment(tmp_path / "none.wav")
    utterances = [
        Utterance("a", "train", " ", nothing, "list:1"),
        Utterance("b", "dev", None, nothing, "list:2"),
        Utterance("c", "test", "C", nothing, "list:3"),
        Utterance("d", "test", None, nothing, "list:4"),
        Utterance("c", "test", "C", nothing, "list:5"),
        Utterance("e", "test-clean", None, nothing, "list:6"),  # nothing wrong: a split without transcripts
    ]
    with pytest.raises(InputError) as caught:
        prepare(utterances, HW4, tmp_path / "corpus", "test")
    assert caught.value.problem.splitlines() == [
        "list:1: train/a: empty transcript",
        "list:2: dev/b: no transcript",
        "list:4: test/d: no transcript",
        "list:5: test/c: the same id twice in a split",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_mistakes_are_collected(tmp_path: Path, jobs: int) -> None:
    utterances = ready(100)
    utterances[3] = Utterance("x", "train", "X", AudioSegment(tmp_path / "none.wav"), "list:4")
    utterances[50] = Utterance("y", "train", "Y", Ready(np.nan), "list:51")
    utterances[99] = Utterance("z", "train", "Z", Ready(1e6))
    with pytest.raises(InputError) as caught:
        prepare(utterances, HW4, tmp_path / "corpus", "test", jobs)
    assert caught.value.problem.splitlines() == [
        f"list:4: {tmp_path / 'none.wav'}: no such file",
        "list:51: train/y: features that are NaN or infinite",
        "train/z: features that are beyond float16's 65504",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_utterances_can_be_left_out(tmp_path: Path, jobs: int) -> None:
    utterances = ready(100)
    utterances[3] = Utterance("x", "train", "X", AudioSegment(tmp_path / "none.wav"), "list:4")
    utterances[50] = Utterance("y", "train", " ", Ready(), "list:51")
    utterances[99] = Utterance("z", "train", "Z", Ready(np.nan), "list:100")
    bad = Mistakes(3)
    corpus = prepare(utterances, HW4, tmp_path / "corpus", "test", jobs, bad=bad)
    assert corpus.split("train").ids == [f"{index:03d}" for index in range(100) if index not in (3, 50, 99)]
    assert bad.problems == [
        "list:51: train/y: empty transcript",
        f"list:4: {tmp_path / 'none.wav'}: no such file",
        "list:100: train/z: features that are NaN or infinite",
    ]
    assert (tmp_path / "corpus" / "skipped.txt").read_text().splitlines() == bad.problems
    good = [utterance for index, utterance in enumerate(utterances) if index not in (3, 50, 99)]
    assert prepare(good, HW4, tmp_path / "good", "test", 1).hash == corpus.hash
    assert not (tmp_path / "good" / "skipped.txt").exists()


def test_more_bad_utterances_than_may_be_left_out(tmp_path: Path) -> None:
    utterances = [Utterance(str(index), "train", "X", Ready(np.nan)) for index in range(100)]
    seen: list[int] = []
    with pytest.raises(InputError, match="raise --skip-bad above 5") as caught:
        prepare(utterances, HW4, tmp_path / "c", "test", 1, lambda done, _: seen.append(done), Mistakes(5))
    assert len(caught.value.problem.splitlines()) == 6 and len(seen) < 6
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="leave N of them out with --skip-bad N"):
        prepare(utterances, HW4, tmp_path / "c", "test", 1)


def test_splits_in_capitals_serve_as_others_do(tmp_path: Path) -> None:
    corpus = prepare(ready(3, "Train") + ready(2, "DEV"), HW4, tmp_path / "corpus", "test")
    assert (corpus.training_name(), corpus.validation_name()) == ("Train", "DEV")
    assert corpus.mean is not None


def test_it_ends_early_when_everything_is_wrong(tmp_path: Path) -> None:
    utterances = [Utterance(str(index), "train", "X", Ready(np.nan)) for index in range(1000)]
    seen: list[int] = []
    with pytest.raises(InputError) as caught:
        prepare(utterances, HW4, tmp_path / "corpus", "test", 1, lambda done, _: seen.append(done))
    assert len(caught.value.problem.splitlines()) == 20 and len(seen) < 20


def test_nothing_to_prepare_and_no_place_for_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no utterances"):
        prepare([], HW4, tmp_path / "corpus", "test")
    with pytest.raises(InputError, match="jobs must be at least 1, but got 0"):
        prepare(ready(1), HW4, tmp_path / "corpus", "test", jobs=0)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(InputError, match="taken: exists and is not empty"):
        prepare(ready(1), HW4, tmp_path / "taken", "test")


def test_ordered_map_keeps_order_and_few_items_in_flight() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = ordered_map(math.sqrt, numbers(), 2)
    assert next(results) == 0 and len(taken) <= 10
    assert list(results) == [math.sqrt(number) for number in range(1, 100)]


def test_ordered_map_passes_an_error_on() -> None:
    results = ordered_map(math.sqrt, [4, -1, *range(100)], 2)
    assert next(results) == 2
    with pytest.raises(ValueError, match="math domain"):
        list(results)


def test_an_error_of_a_worker_says_where_it_was_raised() -> None:
    results = ordered_map(refuse, range(100), 2)
    with pytest.raises(RuntimeError, match="KeywordError: 5 is too large") as raised:
        list(results)
    assert "in refuse" in raised.value.__notes__[0]


def test_an_item_that_cannot_be_read_ends_its_worker() -> None:
    with pytest.raises(InputError, match="a worker process was killed"):
        list(ordered_map(str, [1, Unreadable(), *range(100)], 2))


# Interrupts this process at lines of Python spread over a map, in the libraries as well. Items and results are larger
# than what a pipe holds.
INTERRUPTED = """
import multiprocessing, os, signal, sys
from trainables.data.workers import ordered_map

ITEMS = [bytes([number]) * 200_000 for number in range(97, 123)]

class Interrupt:
    def __init__(self, line): self.line, self.lines = line, 0
    def __call__(self, frame, event, argument):
        self.lines += event == "line"  # what is raised when a frame is left skips its `finally`
        if event == "line" and self.lines == self.line:
            os.kill(os.getpid(), kind)
        return self

def lines(line):
    interrupt, seen = Interrupt(line), []
    try:
        sys.settrace(interrupt)
        for result in ordered_map(bytes.upper, ITEMS, 2):
            seen.append(result)
        assert line == 0 and seen == [item.upper() for item in ITEMS], line
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    assert not multiprocessing.active_children(), line
    return interrupt.lines

if __name__ == "__main__":
    kind = signal.Signals(int(sys.argv[1]))
    signal.signal(kind, signal.SIG_IGN)  # as under some supervisors; workers inherit it
    lines(0)
    signal.signal(kind, signal.default_int_handler)
    whole = lines(0)
    for share in range(1, 20):
        lines(whole * share // 30)  # another run may take fewer lines
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_line_ends_the_workers(tmp_path: Path, kind: signal.Signals) -> None:
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, str(program), str(int(kind))], env=environment, check=True, timeout=120)


def test_a_result_that_cannot_be_sent_is_an_error() -> None:
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError), match="pickle"):
        list(ordered_map(unpicklable, range(100), 2))


def test_a_worker_that_is_killed_is_explained() -> None:
    results = ordered_map(end_process, range(100), 2)
    with pytest.raises(InputError, match=r"(?s)a worker process was killed.*memory.*fewer than --jobs 2"):
        list(results)


@pytest.mark.parametrize("jobs", [1, 2])
def test_memory_that_runs_out_is_explained(jobs: int) -> None:
    with pytest.raises(InputError, match=rf"(?s)out of memory with {jobs} worker processes: .*PiB.*fewer --jobs"):
        list(ordered_map(exhaust_memory, range(100), jobs))


# Prepares slowly enough to be interrupted in the middle, and says how far it is.
PROGRAM = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from trainables.data.utterance import Utterance

@dataclass(frozen=True)
class Slow:
    def features(self, recipe):
        time.sleep(0.05)
        return np.zeros((4, recipe.bins), np.float32), 0.032

if __name__ == "__main__":
    from trainables.data.features import FeatureRecipe
    from trainables.data.prepare import prepare
    utterances = [Utterance(str(index), "train", "A", Slow()) for index in range(2000)]
    from asr_platform.cli.data import ended_by_signals
    with ended_by_signals():
        prepare(utterances, FeatureRecipe(), Path(sys.argv[1]), "test", 2, lambda done, _: print(done, flush=True))
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_nothing_that_looks_finished(tmp_path: Path, kind: signal.Signals) -> None:
    program, out = tmp_path / "program.py", tmp_path / "data" / "corpus"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(out)]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'platform'}"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment, start_new_session=True) as process:
        assert process.stdout is not None
        for _ in range(40):
            assert process.stdout.readline()
        if kind in (signal.SIGINT, signal.SIGHUP):
            os.killpg(process.pid, kind)  # as a terminal does: workers get it too
        else:
            process.send_signal(kind)
        # Reading to the end waits for the workers as well: they hold the other end of these pipes.
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and not out.exists()
    left = list(out.parent.iterdir())
    if kind == signal.SIGKILL:
        assert len(left) == 1
    else:
        assert left == []
        # This process's own, none of a worker.
        assert errors.decode().count("Traceback") == (1 if kind == signal.SIGINT else 0), errors.decode()
    for folder in left:
        assert folder.name.startswith(".corpus.unfinished-")
        with pytest.raises(InputError, match="no corpus here"):
            Corpus.open(folder)
    assert len(prepare(ready(3), HW4, out, "test").split("train")) == 3
    assert list(out.parent.iterdir()) == [out]  # what the killed process left is gone


def test_only_what_nobody_writes_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".corpus.unfinished-0").mkdir()
    (tmp_path / ".other.unfinished-0").mkdir()
    with UnfinishedFolder(tmp_path / "corpus") as first, UnfinishedFolder(tmp_path / "corpus") as second:
        assert first.path.is_dir() and second.path.is_dir()
        assert len(list(tmp_path.iterdir())) == 3
        second.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.unfinished-0", "corpus"]
