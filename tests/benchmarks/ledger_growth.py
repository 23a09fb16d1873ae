"""What a ledger costs as it grows: processor time and memory of what a sweep and its commands do with it.

    PYTHONPATH=tests/support python tests/benchmarks/ledger_growth.py [--trials 100 500 2000] [--epochs 70]

Each size is measured in a new process, on a ledger in SQLite with rows as a sweep writes them and a folder for each
trial. All trials but the last have ended, and their models are removed. Beside it is a sweep without trials. The ledger
is filled by SQL and not by the platform, which would take minutes. Starting Python and importing packages counts for
commands alone.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.cli.live import LiveDisplay
from asr_platform.cli.main import collect_seldom
from asr_platform.storage.home import STUDIES, Home, trial_name
from asr_platform.study.callbacks import Callback
from asr_platform.study.ledger import CHECKPOINT, OF_TRIAL, REMOVED, Ledger
from asr_platform.study.ledger_copies import CopyKeeper
from asr_platform.study.run_record import RunRecord
from asr_platform.tuning.callbacks.meter import Meter
from asr_platform.tuning.callbacks.mlflow import MLflowCallback
from asr_platform.tuning.callbacks.retention import Retention
from search_spaces.reader import parse_space
from search_spaces.settings import Limits
from search_spaces.space import Proposal
from trainables.config.tree import Config
from trainables.data.corpus import Corpus
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.model_files import ERRORS

HOME = "home"
LARGE, EMPTY = "large", "empty"  # names of the sweeps
UTTERANCES = 100  # of the split that trials are validated on
BEST = "checkpoint_best"
KEPT = 3  # models of a sweep
RUNS = 5  # of each command: the fastest counts, since other processes only ever slow a command down
SPACE = """
vary:
  model.dropout: {float: [0, 0.2]}
  optimizer.lr: {log: [1e-4, 1e-2]}
trials: 4000
epochs: 70
"""
METRICS = (
    "train_loss", "train_cross_entropy", "train_ctc", "gradient_norm", "learning_rate", "val_loss", "val_cer",
    "val_ctc_cer", "val_wer", "real_time_factor", "audio_hours", "audio_seconds_per_second", "padding_share",
    "train_seconds", "validation_seconds", "cpu_utilization", "memory_gb",
)  # fmt: skip
# Runs a command and prints its CPU seconds and its peak memory in MB, which would include that of a large parent.
LAUNCHER = """
import json, resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
Measured = dict[str, tuple[float, float]]  # CPU seconds and peak memory in MB, by what was done


# The ledger


def build(folder: Path, trials: int, epochs: int) -> None:
    """Makes a home with a corpus, a sweep of `trials` trials of `epochs` epochs, and a sweep without trials."""
    import tiny  # with torch, whose memory would be measured elsewhere

    home, corpus = Home.at(folder / HOME), tiny.write_corpus(folder / "corpus", {"train": ["A"], "dev": ["B"]})
    about = {
        "space": SPACE, "source": "space.yaml", "folder": "/", "trials": trials + 1, "epochs": epochs,
        "corpus": str(corpus.path), "corpus_hash": corpus.hash,
    }  # fmt: skip
    ledger = Ledger.create(home.studies, LARGE, about)
    pattern = ledger.propose(parse_space(SPACE, "space.yaml"), lambda values: Proposal(Config(), 1_000_000, {}))
    ledger.study._storage.remove_session()
    with closing(sqlite3.connect(home.path / STUDIES)) as database:
        best = fill(database, random.Random(0), trials - 1, epochs)
    for number in range(trials - 1):
        write_files(home, number, best[number])
    Ledger.create(home.studies, EMPTY, about)
    assert pattern.number == 0


def fill(database: sqlite3.Connection, draw: random.Random, trials: int, epochs: int) -> list[int]:
    """Adds complete trials before the running one, whose rows they resemble; returns the best epoch of each."""
    (first,), (study,) = (database.execute(f"SELECT {key} FROM trials").fetchone() for key in ("trial_id", "study_id"))
    database.execute("UPDATE trials SET number = ? WHERE trial_id = ?", (trials, first))
    found = [draw.randint(1, epochs) for _ in range(trials)]
    for number, best in enumerate(found):
        trial = first + 1 + number
        rows = [epoch_row(draw, number, epoch, best) for epoch in range(1, epochs + 1)]
        add(database, "trials", (trial, number, study, "COMPLETE", "2026-11-29", "2026-11-29"))
        copied = "param_name, param_value, distribution_json FROM trial_params"
        database.execute(f"INSERT INTO trial_params SELECT NULL, ?, {copied} WHERE trial_id = {first}", (trial,))
        copied = "key, value_json FROM trial_user_attributes"
        database.execute(
            f"INSERT INTO trial_user_attributes SELECT NULL, ?, {copied} WHERE trial_id = {first}", (trial,)
        )
        add(database, "trial_values", (None, trial, 0, rows[best - 1]["val_cer"], "FINITE"))
        add(database, "trial_user_attributes", (None, trial, "reason", '""'))
        texts = ((None, trial, f"epoch:{row['epoch']}", json.dumps(json.dumps(row))) for row in rows)
        add(database, "trial_user_attributes", *texts)
        values = ((None, trial, row["epoch"], row["val_cer"], "FINITE") for row in rows)
        add(database, "trial_intermediate_values", *values)
        facts = {"mlflow_run_id": f"{draw.getrandbits(128):032x}", REMOVED: True}
        notes = ((None, study, f"{OF_TRIAL}{number}:{key}", json.dumps(fact)) for key, fact in facts.items())
        add(database, "study_user_attributes", *notes)
    database.commit()
    return found


def add(database: sqlite3.Connection, table: str, *rows: Sequence[Any]) -> None:
    database.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)


def epoch_row(draw: random.Random, number: int, epoch: int, best: int) -> dict[str, Any]:
    """The metrics of an epoch, with as many digits as the training loop reports."""
    row = {"epoch": epoch, "updates": 100 * epoch, **{key: draw.random() for key in METRICS}}
    cer = 0.05 + 0.01 * abs(epoch - best) + 0.005 * draw.random() + 0.00001 * number
    place = f"sweeps/{LARGE}/trials/{trial_name(number)}/{BEST if epoch == best else f'checkpoint_{epoch:06d}'}"
    return {**row, "val_cer": cer, CHECKPOINT: place}


def write_files(home: Home, number: int, epoch: int) -> None:
    """Writes the files that retention leaves of an ended trial, and the errors that are kept beside it."""
    folder, draw = home.trial(LARGE, number) / BEST, random.Random(number)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    ids, texts = [f"{utterance:04d}" for utterance in range(UTTERANCES)], ["SEVEN TWO THREE NINE"] * UTTERANCES
    wrong = [int(draw.random() < 0.3) for _ in ids]
    errors = UtteranceErrors("dev", epoch, ids, texts, texts, wrong, [20] * UTTERANCES, wrong, [4] * UTTERANCES)
    errors.save(folder / ERRORS)
    recorded = home.sweep(LARGE) / "errors" / f"{trial_name(number)}.json"
    recorded.parent.mkdir(exist_ok=True)
    errors.save(recorded)


# The measurements


class Meters:
    """Measures steps one after the other.

    Attributes:
        found: CPU seconds of each step, and the highest memory so far in MB beyond what the imports take.
    """

    def __init__(self) -> None:
        self.found: Measured = {}
        self.imports = peak_memory()

    def measure(self, name: str, *steps: Callable[[], Any]) -> None:
        """Measures steps; several are averaged."""
        began = time.process_time()
        for step in steps:
            step()
        self.found[name] = (time.process_time() - began) / len(steps), peak_memory() - self.imports


def peak_memory() -> float:
    """Highest resident memory of this process in MB; `resource` would count the memory of its parent too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(folder: Path) -> Measured:
    """Measures what a driver does with the large sweep."""
    home, meters = Home.existing(folder / HOME), Meters()
    meters.measure("check the database", home.check)
    meters.measure("names of sweeps", lambda: Ledger.names(home.studies))
    meters.measure("open the empty sweep", lambda: Ledger.open(home.studies, EMPTY).trials())
    opened: list[Ledger] = []
    meters.measure("open", lambda: opened.append(Ledger.open(home.studies, LARGE)))
    ledger = opened[0]
    meters.measure("read first", ledger.trials)
    meters.measure("read again", *[ledger.trials] * 3)
    running, folder = len(ledger.trials()) - 1, home.sweep(LARGE)
    epochs, draw = ledger.about["epochs"], random.Random(running)
    rows = [epoch_row(draw, running, epoch, 1) for epoch in range(1, epochs)]
    meters.measure("record an epoch", *(lambda row=row: record(ledger, running, row) for row in rows))
    retention = Retention(ledger, folder, KEPT)
    meters.measure("run's record, spending", *followers(ledger, running, [
        RunRecord(ledger, 1, 1, "", ""), Meter(ledger, Limits(), 1, retention), RecordedErrors(folder),
    ]))  # fmt: skip
    display = LiveDisplay(Console(file=io.StringIO(), width=160, height=40))  # no terminal: the table is printed here
    with display.sweep(LARGE, "", ledger, epochs, folder):
        meters.measure("live table, first", lambda: display.console.print(display.picture()))
        meters.measure("live table", *[lambda: display.console.print(display.picture())] * 10)
        meters.measure("a line in the log", *followers(ledger, running, [display]))
    corpus = Corpus.open(folder.parents[2] / "corpus")
    callback = MLflowCallback(home, ledger, parse_space(SPACE, "space.yaml"), corpus, print)
    callback.on_trial_start(ledger.trial(running))
    record(ledger, running, epoch_row(draw, running, epochs, 1))
    meters.measure("MLflow", *followers(ledger, running, [callback]))
    copies = CopyKeeper(home, LARGE)
    meters.measure("copy, first", lambda: copies.on_sweep_start([]))
    ledger.finish(running, "complete")
    trial = ledger.trial(running)
    meters.measure("copy", lambda: copies.on_trial_end(trial))
    meters.measure("retention, first", lambda: retention.on_sweep_start(ledger.trials()))
    meters.measure("retention", *[lambda: retention.on_trial_end(trial)] * 3)
    return meters.found


def record(ledger: Ledger, number: int, row: dict[str, Any]) -> None:
    assert ledger.record(number, row)
    ledger.trial(number)


def followers(ledger: Ledger, number: int, callbacks: Sequence[Callback]) -> list[Callable[[], None]]:
    """A step that tells callbacks of an epoch."""
    trial = ledger.trial(number)

    def tell() -> None:
        for callback in callbacks:
            callback.on_epoch_end(trial)

    return [tell]


def measure_commands(folder: Path) -> Measured:
    """Measures commands as processes of their own."""
    platform, found = Path(sys.executable).with_name("platform"), Measured()
    commands = {"leaderboard": [LARGE], "status": [LARGE], "compare": [f"{LARGE}:0", f"{LARGE}:1"]}
    for command, names in commands.items():
        words = [sys.executable, "-c", LAUNCHER, platform, "--home", folder / HOME, command, *names]
        runs = [
            json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout) for _ in range(RUNS)
        ]
        found[f"platform {command}"] = min(runs)[0], max(memory for _, memory in runs)
    return found


def grown(sizes: Sequence[int], found: Sequence[Measured]) -> Table:
    """CPU seconds and memory of each size, and how much the largest takes beyond the smallest, a trial."""
    table = Table(box=SIMPLE, caption="CPU s, and peak memory in MB: of steps beyond imports, of commands all of it")
    table.add_column("")
    for size in sizes:
        table.add_column(f"{size:,}\ntrials", justify="right")
        table.add_column("\nMB", justify="right")
    table.add_column("growth\nms a trial", justify="right")
    for name in found[0]:
        cells = [f"{value:.{digits}f}" for one in found for value, digits in zip(one[name], (3, 0), strict=True)]
        growth = (found[-1][name][0] - found[0][name][0]) / max(1, sizes[-1] - sizes[0])
        table.add_row(name, *cells, f"{1000 * growth:.3f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--epochs", type=int, default=70)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # a folder that `build` has filled
    arguments = parser.parse_args()
    if arguments.measure:
        collect_seldom()  # as the command does
        print(json.dumps(measure(arguments.measure)))
        return
    found = []
    for trials in arguments.trials:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), trials, arguments.epochs)
            commands = measure_commands(Path(folder))
            words = [sys.executable, __file__, "--measure", folder]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            found.append({**json.loads(done.stdout.splitlines()[-1]), **commands})
    Console(width=120).print(grown(arguments.trials, found))


if __name__ == "__main__":
    main()
