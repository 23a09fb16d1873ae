"""What stands for a trial's own processes: Ray Train's controller and the training loop of `trainables.training.loop`.

An epoch takes no time here and its CER is drawn from the seed, the trial and the epoch: the same whenever it is trained
again. Checkpoints, Ray Train's list of them, and their removal are as Ray Train does it, kills in between included.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from ray.exceptions import ActorDiedError

from asr_platform.compat.ray import CHECKPOINT_LIST
from asr_platform.storage.home import TRIALS, trial_name
from asr_platform.tuning.trial import END, repair_checkpoint_list
from trainables.errors import DivergedError
from trainables.evaluation.examples import ATTENTION
from trainables.evaluation.utterance_errors import UtteranceErrors
from trainables.inference.model_files import ERRORS
from trainables.training.checkpoint_files import OPTIMIZER, TRAINING

LETTERS = 40  # of each utterance
Row = dict[str, Any]
Message = dict[str, Any] | BaseException


@dataclass(frozen=True)
class Speech:
    """How training goes, by the schedule's seed.

    Args:
        model: a model directory, of which each checkpoint has the files.
        diverging: the epoch at which a trial diverges, by its number.
    """

    seed: int
    model: Path
    diverging: dict[int, int]

    def errors(self, number: int, epoch: int) -> UtteranceErrors:
        """Those of the validation after an epoch: two utterances, each with some letters wrong."""
        random = Random(f"{self.seed} {number} {epoch}")
        counts = [min(LETTERS, int(random.uniform(0.2, 1.2) * LETTERS / epoch)) for _ in range(2)]
        return UtteranceErrors(
            "dev", epoch, ["a", "b"], ["A" * LETTERS] * 2, [""] * 2, counts, [LETTERS] * 2, [1, 1], [1, 1]
        )

    def row(self, number: int, epoch: int) -> Row:
        """The metrics of an epoch, as the training loop reports them."""
        cer = self.errors(number, epoch).cer
        return {
            "epoch": epoch,
            "train_loss": 3.0 / epoch,
            "val_loss": 2.0 / epoch,
            "val_cer": cer,
            "val_wer": 1.0,
            "updates": 10 * epoch,
            "audio_hours": epoch / 4,
            "train_seconds": 50.0 + number,
            "validation_seconds": 10.0,
        }


@dataclass
class Worker:
    """The processes of one trial, from their start to their end.

    Args:
        told: what the proposer tells a trial.
        stamp: makes the part of a checkpoint's name that tells when it was written.

    Attributes:
        reports: what waits in the trial's mailbox.
    """

    told: dict[str, Any]
    speech: Speech
    stamp: Any
    reports: deque[Message] = field(default_factory=deque)
    ended: bool = False

    def __post_init__(self) -> None:
        self.number: int = self.told["number"]
        self.folder = Path(self.told["folder"]) / TRIALS / trial_name(self.number)
        self.history: list[Row] = []
        self.checkpoints: list[tuple[str, float]] = []  # Ray Train's list: names and objectives, in order of time
        self.resumed = False

    def step(self) -> None:
        """Starts, or reports the epochs of the checkpoint that the ledger lacks, or trains one epoch, or ends."""
        known = self.told["reported_epochs"]
        if not self.resumed:
            self._resume()
            self.resumed = True
            for row in self.history[known:]:
                self._report(row, row is self.history[-1])
        elif len(self.history) >= self.told["until"]:
            self._end(dict(END))
        elif (epoch := len(self.history) + 1) == self.speech.diverging.get(self.number):
            self._end(DivergedError("the loss is nan"))
        else:
            self.history.append(self.speech.row(self.number, epoch))
            self._report(self.history[-1], True)

    def lose(self, random: Random) -> None:
        """A process is killed; reports that had not been fetched may be lost with it."""
        self.linger(random)
        if random.random() < 0.5:
            self.reports.clear()
        self._end(ActorDiedError())

    def linger(self, random: Random) -> None:
        """What a worker still does that is being stopped: an epoch or two, and it may be killed as it writes."""
        if self.ended or not self.resumed:
            return
        for _ in range(random.choice([0, 0, 1, 2])):
            if not self.ended:
                self.step()
        if random.random() < 0.3 and self.folder.is_dir():
            half = self.folder / f"checkpoint_{self.stamp()}"
            half.mkdir()
            (half / "config.json").write_text("{")
        if random.random() < 0.1 and self.checkpoints:
            (self.folder / CHECKPOINT_LIST).write_text('{"checkpoints": [')
        self.ended = True

    def _end(self, message: Message) -> None:
        self.reports.append(message)
        self.ended = True

    def _resume(self) -> None:
        """Reads the history of the latest checkpoint that Ray Train knows, as `trial.train` and the worker do."""
        lost = repair_checkpoint_list(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if lost is None and (self.folder / CHECKPOINT_LIST).is_file():
            self.checkpoints = [
                tuple(pair) for pair in json.loads((self.folder / CHECKPOINT_LIST).read_text())["checkpoints"]
            ]
        latest = lost or (str(self.folder / self.checkpoints[-1][0]) if self.checkpoints else None)
        if latest is not None:
            self.history = json.loads((Path(latest) / TRAINING).read_text())["history"]
        known = self.told["reported_epochs"]
        assert len(self.history) >= known, f"trial {self.number}: of {known} epochs on record, {latest} has fewer"

    def _report(self, row: Row, save: bool) -> None:
        checkpoint = self._save(row) if save else None
        ranking = {"ranked_by": "val_cer", "objective": row["val_cer"]}
        self.reports.append({"epoch": row["epoch"], **ranking, "metrics": dict(row), "checkpoint": checkpoint})

    def _save(self, row: Row) -> str:
        """Writes a checkpoint, lists it, and removes those that are neither the latest nor among the best."""
        name = f"checkpoint_{self.stamp()}"
        folder = self.folder / name
        folder.mkdir()
        for path in sorted(self.speech.model.iterdir()):
            os.link(path, folder / path.name)  # the weights of all are the same, and nobody writes into them
        for name_of_file in (ATTENTION, OPTIMIZER):
            (folder / name_of_file).write_bytes(b"")
        self.speech.errors(self.number, row["epoch"]).save(folder / ERRORS)
        (folder / TRAINING).write_text(json.dumps({"history": self.history[: row["epoch"]]}))
        self.checkpoints.append((name, row["val_cer"]))
        ranked = sorted(reversed(self.checkpoints), key=lambda pair: pair[1])  # of equals the later ones
        best = ranked[: self.told["checkpoints"]]
        gone = [pair for pair in self.checkpoints[:-1] if pair not in best]
        self.checkpoints = [pair for pair in self.checkpoints if pair not in gone]
        (self.folder / CHECKPOINT_LIST).write_text(json.dumps({"checkpoints": self.checkpoints}))
        for each, _ in gone:
            shutil.rmtree(self.folder / each, ignore_errors=True)
        return str(folder)


def pickled(error: BaseException, folder: Path, name: str) -> str:
    """Leaves an error where Ray Tune does; returns the file."""
    path = folder / f"{name}.pkl"
    path.write_bytes(pickle.dumps(error))
    return str(path)
