"""Kills a real sweep at random moments, resumes it, and audits it each time.

As a script: `PYTHONPATH=tests/support python tests/end_to_end/soak.py --moments 20 --seed 0`.
"""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import click
import pytest
import tiny
from command import PATIENCE, Platform

from asr_platform.monitoring.status import status
from asr_platform.storage.home import Home
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.tuning.doctor import SOUND, Doctor, Finding

# Some learn, some are stopped, some diverge; the models of all but two are removed.
SPACE = """
base:
  model: {d_model: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, feed_forward: 48, conv_channels: 16}
  training: {update_seconds: 4.0}
vary:
  optimizer.lr: {choice: [1.0e-2, 5.0e-3, 2.0e-3, 1.0e-9, 1.0e+30]}
  model.dropout: {float: [0, 0.1]} # no two trials are the same
epochs: 10
asha: {grace: 4, reduction: 2}
keep: 2
seed: 3
"""
WITH_PROMOTIONS = SPACE.replace("asha: {", "asha: {promotion: 1, ")
NAME = "soak"
# What a process of a sweep is called in the list of processes, each of which may be killed.
PROCESSES = {
    "head": "gcs_server",
    "raylet": "raylet/raylet",
    "dashboard": "dashboard/dashboard.py",
    "agent": "ray::DashboardAgent",
    "trial": "ray::soak",  # the sweep's name
    "controller": "ray::TrainController",
    "worker": "ray::RayTrainWorker",
}
VITAL = ("head", "raylet", "dashboard", "agent")  # without them no sweep can go on; the others come again
KINDS = (*PROCESSES, "driver", "everything", "store", "interrupt", "terminate", "pause", "full", "locked")
MOST_EPOCHS, MOST_SECONDS = 4, 1.5  # of waiting before a moment
CLEAN = ("interrupt", "terminate")
PATIENCE_WITH_LOSS = 90  # seconds that a driver has to notice on a busy machine that it cannot go on
LONGEST_PAUSE, LOCKED = 20.0, 8.0  # seconds
# What a kill may leave: all of it is mended by going on.
MENDED = {*SOUND, "mlflow", "discard", "disk", "model", "registry"}
HAS_BEGUN = "Ray dashboard: "  # printed once a sweep has mended what was left


@dataclass
class Soak:
    """One sweep that is interrupted again and again.

    Args:
        space: that of the sweep.
        say: is told each moment.
    """

    platform: Platform
    random: Random
    trials: int
    space: str
    say: Callable[[str], None]
    before: list[TrialRecord] = field(default_factory=list)
    processes: set[int] = field(default_factory=set)  # all that the sweep was seen to have
    ledger: Ledger | None = None  # kept open: opening takes longer than the sweep can spare, ten times a second

    def run(self, kinds: Sequence[str]) -> list[TrialRecord]:
        """Lives through these moments and to the sweep's end; returns the trials."""
        (self.platform.folder / "soak.yaml").write_text(self.space)
        sentences = {"train": tiny.SENTENCES * 10, "dev": tiny.SENTENCES * 2}
        corpus = tiny.write_corpus(self.platform.folder / "soak-corpus", sentences)
        words = ["soak.yaml", "--data", corpus.path, "--name", NAME, "--trials", self.trials, "--max-concurrent", 2]
        started = time.monotonic()
        process = self.platform.start("sweep", *words)
        for number, kind in enumerate(kinds, start=1):
            if process.poll() is not None:
                break
            epochs, seconds = self.random.randint(0, MOST_EPOCHS), self.random.uniform(0, MOST_SECONDS)
            self.wait(epochs, seconds, process)
            self.processes.update(family(process))
            at = f"{time.monotonic() - started:5.0f} s: moment {number}: {kind}"
            self.say(f"{at}, {epochs} epochs and {seconds:.2f} s after the last; {self.state()}")
            alive = self.lose(process, kind) if kind in PROCESSES else getattr(self, kind)(process)
            if not alive:
                out = self.check_output(process)
                if self.exists():
                    # Ctrl-C leaves nothing to mend, unless it came before the sweep had mended what was left before it.
                    self.audit(set(SOUND) if kind in CLEAN and HAS_BEGUN in out else MENDED)
                    words = ["--resume", NAME]
                process = self.platform.start("sweep", *words)
        while process.poll() is None:  # as long as it takes, if only something is recorded
            self.wait(1, 0.0, process)
        self.check_output(process, end=True)
        self.audit({"late"})
        self.check_processes()
        self.say(f"{time.monotonic() - started:5.0f} s: the end: {self.state()}")
        return self.before

    # Moments. Each returns whether the sweep is still running.

    def driver(self, process: subprocess.Popen[str]) -> bool:
        """The driver alone is killed; what Ray does with the rest is its own business."""
        process.kill()
        return False

    def everything(self, process: subprocess.Popen[str]) -> bool:
        """The driver and all its processes die at once, as in a loss of power."""
        kill([process.pid, *family(process)])
        return False

    def lose(self, process: subprocess.Popen[str], kind: str) -> bool:
        """One of the sweep's other processes dies; the driver ends by itself where it cannot go on."""
        found = self.members(process, PROCESSES[kind])
        kill(found[:1])
        return bool(process.poll() is None) if kind not in VITAL or not found else self.ends(process)

    def members(self, process: subprocess.Popen[str], command: str) -> list[int]:
        """The sweep's processes of that kind: of a sweep that runs there is one, or soon will be."""
        deadline = time.monotonic() + PATIENCE
        while not (found := family(process, command)) and process.poll() is None:
            assert time.monotonic() < deadline, f"no process is called {command}"
            time.sleep(0.1)
        return found

    def ends(self, process: subprocess.Popen[str]) -> bool:
        """The driver notices that it cannot go on, and ends."""
        try:
            process.wait(PATIENCE_WITH_LOSS)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the driver has noticed nothing\n{self.stopped(process)}")
        return False

    def stopped(self, process: subprocess.Popen[str]) -> str:
        kill([process.pid, *family(process)])
        return "\n".join(process.communicate())

    def store(self, process: subprocess.Popen[str]) -> bool:
        """MLflow's database is away for a while."""
        database, away = self.platform.home / "mlflow.db", self.platform.home / "mlflow.away"
        if database.is_file():
            database.rename(away)
            database.mkdir()
            self.wait(2, 0.5, process)
            database.rmdir()
            away.rename(database)
        return process.poll() is None  # a sweep that ended meanwhile has yet to tell MLflow: it is gone on with

    def interrupt(self, process: subprocess.Popen[str]) -> bool:
        """Ctrl-C."""
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
        return False

    def terminate(self, process: subprocess.Popen[str]) -> bool:
        """Sends SIGTERM, as Slurm, containers and systemd do."""
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        return False

    def pause(self, process: subprocess.Popen[str]) -> bool:
        """The driver stands still for a while, as behind a closed lid."""
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(1, LONGEST_PAUSE))
        process.send_signal(signal.SIGCONT)
        return process.poll() is None

    def full(self, process: subprocess.Popen[str]) -> bool:
        """No file of the driver's may grow any more, as on a full disk."""
        if process.poll() is None:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        return self.ends(process)

    def locked(self, process: subprocess.Popen[str]) -> bool:
        """Another process has locked the ledger for a while."""
        if self.exists():
            with closing(sqlite3.connect(self.platform.home / "studies.db", timeout=60)) as database:
                database.execute("BEGIN EXCLUSIVE")
                time.sleep(LOCKED)
        return process.poll() is None

    # What must hold

    def audit(self, allowed: set[str]) -> None:
        """Nothing that had been recorded has changed, and the doctor finds nothing but what is allowed."""
        home = Home.existing(self.platform.home)
        now = Doctor(home, NAME).ledger.trials()
        for earlier, later in zip(self.before, now, strict=False):
            assert later.curve[: earlier.epochs] == earlier.curve, f"the curve of trial {earlier.number} has changed"
            if earlier.state != "running":
                assert (later.state, later.epochs) == (earlier.state, earlier.epochs), f"trial {earlier.number}"
        assert len(now) >= len(self.before)
        with home.lock(NAME):
            findings = Doctor(home, NAME).audit()
        wrong = [finding for finding in findings if finding.kind not in allowed]
        assert not wrong, "\n".join(map(str, wrong))
        state = status(home, NAME).state
        assert state != "running" and (state == "finished" or findings), f"{state}, after {findings}"
        self.say("  " + ("; ".join(self.shortened(findings)) or "sound"))
        self.before = now

    def check_processes(self) -> None:
        """Fails if a process of any run is left; Ray's own take a while to notice that their head is gone."""
        deadline = time.monotonic() + PATIENCE_WITH_LOSS
        while left := [one for one in self.processes if is_running(one)]:
            assert time.monotonic() < deadline, f"processes that are left: {left}"
            time.sleep(0.5)

    def check_output(self, process: subprocess.Popen[str], end: bool = False) -> str:
        """No trial that had ended was started again, and the sweep ended well if it was to end; what it printed."""
        out, err = process.communicate(timeout=PATIENCE)
        for trial in self.before:
            assert trial.state == "running" or f"trial {trial.number} started" not in out, out
        assert not end or process.returncode == 0, out + err
        assert "Traceback" not in out, out
        return out

    # What is going on

    def wait(self, epochs: int, seconds: float, process: subprocess.Popen[str]) -> None:
        """Until so many more epochs are on record, or the sweep ends, and so long after."""
        target = self.epochs() + epochs
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and self.epochs() < target:
            assert time.monotonic() < deadline, "no epoch is recorded any more"
            time.sleep(0.1)
        time.sleep(seconds)

    def recorded(self) -> list[TrialRecord]:
        """The ledger; empty before another process has made it.

        Optuna would make tables that are not there yet, in a race with that process: so it is asked last.
        """
        if self.ledger is None and self.exists():
            self.ledger = Ledger.open(f"sqlite:///{self.platform.home}/studies.db", NAME)
        return self.ledger.trials() if self.ledger else []

    def exists(self) -> bool:
        try:
            path = f"file:{self.platform.home}/studies.db?mode=ro"
            with closing(sqlite3.connect(path, uri=True)) as database:
                # What a sweep is begun with is the last thing that is written when it is made.
                notes = "SELECT 1 FROM study_user_attributes JOIN studies USING (study_id) WHERE study_name = ?"
                return bool(database.execute(notes, [NAME]).fetchone())
        except sqlite3.OperationalError:
            return False

    def epochs(self) -> int:
        return sum(trial.epochs for trial in self.recorded())

    def state(self) -> str:
        states = [trial.state for trial in self.recorded()]
        return f"{len(states)} trials, {states.count('running')} running, {self.epochs()} epochs"

    def shortened(self, findings: list[Finding]) -> list[str]:
        return [f"{finding.kind} {finding.trial if finding.trial is not None else ''}".strip() for finding in findings]


def family(process: subprocess.Popen[str], command: str = "") -> list[int]:
    """The ids of a process's descendants, those with this in their command."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    found, parents = [], [process.pid]
    for parent in parents:
        children = [(int(pid), name) for pid, above, name in rows if int(above) == parent]
        parents += [pid for pid, _ in children]
        found += [pid for pid, name in children if command in name]
    return found


def is_running(process: int) -> bool:
    """Whether a process of that id is there and has not ended (a zombie has)."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def kill(processes: list[int]) -> None:
    for one in processes:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


@click.command()
@click.option("--moments", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(moments: int, seed: int) -> None:
    """Prints each moment and what the audit finds; ends with an error at the first thing that is wrong."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in a shell's background the sweep would begin deaf to it
    random = Random(seed)
    click.echo(f"{moments} moments, seed {seed}")
    with tempfile.TemporaryDirectory(prefix="soak_") as folder:
        platform = Platform(Path(folder))
        try:
            kinds = [random.choice(KINDS) for _ in range(moments)]
            Soak(platform, random, moments, WITH_PROMOTIONS, click.echo).run(kinds)
        finally:
            platform.stop()


if __name__ == "__main__":
    main()
