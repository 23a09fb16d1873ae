"""One sweep's world: its home, its drivers one after the other, and what must hold once they are done."""

from __future__ import annotations

import io
import itertools
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import others
import pytest
import tiny
import torch
from crashes import Crash, Fault, Writes, watch_files_and_databases, watch_storage
from hands import Clock, Hands
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore
from mlflow.tracking import MlflowClient
from mlflow.tracking._model_registry.registry import ModelRegistryStoreRegistry
from mlflow.tracking._tracking_service.registry import TrackingStoreRegistry
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages._rdb.storage import _VersionManager as VersionManager
from rich.console import Console
from schedules import Schedule, Shape
from workers import Speech

from asr_platform.cli.live import LiveDisplay
from asr_platform.compat.mlflow import configure
from asr_platform.storage.database import make_tables, open_storage, sqlite_address
from asr_platform.storage.home import COPY, LOCK, STORE, STUDIES, TRIALS, Home
from asr_platform.study import provenance, recorded_space
from asr_platform.study import run_record as run_on_record
from asr_platform.study.callbacks import Callback
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.ledger_copies import restore
from asr_platform.study.steering import requests
from asr_platform.tracking import runs as tracking
from asr_platform.tuning import best_model, doctor, sweep, sweep_run
from asr_platform.tuning.callbacks import meter
from asr_platform.tuning.callbacks import mlflow as mlflow_callback
from asr_platform.tuning.cluster import Cluster, Node, Options
from asr_platform.tuning.doctor import Doctor, Finding
from asr_platform.tuning.interrupts import Interrupt
from asr_platform.tuning.loop import steering, watch
from search_spaces.reader import parse_space
from search_spaces.settings import Limits
from search_spaces.space import Space
from trainables.errors import InputError
from trainables.inference.model_directory import ModelInfo, read_info
from trainables.inference.model_files import CONFIG
from trainables.training.tasks import build_recognizer

NAME = "simulated"
MOST_DRIVERS = 12  # of one sweep, beside those whose ends are planned
MENDED = {"interrupted", "late", "mlflow", "discard", "disk", "model", "registry"}
"""Kinds of findings that going on mends."""
AWAY = "MLflow cannot be read"


@dataclass(frozen=True)
class HomeInMemory(Home):
    """A home whose ledger is no file."""

    memory: BaseStorage | None = None

    @property
    def studies(self) -> Any:
        return self.memory


class Templates:
    """What schedules have in common, made once: a corpus, a model, spaces, databases without a row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.corpus = tiny.write_corpus(folder / "corpus", {"train": tiny.SENTENCES, "dev": tiny.SENTENCES[:2]})
        self.model = folder / "model"
        self.model.mkdir()
        config = tiny.config({"model.encoder_layers": 1, "model.decoder_layers": 1})
        build_recognizer(config, self.corpus, self.corpus.training_split(), torch.device("cpu")).save(self.model)
        make_tables(folder / STUDIES)
        storage = RDBStorage(sqlite_address(folder / STUDIES))
        self.optuna_version = storage._version_manager.get_head_version()
        storage.engine.dispose()
        configure()
        MlflowClient(f"sqlite:///{folder / STORE}").search_experiments()
        self.feasibility = cache(self._feasibility)
        self.info = read_info(self.model)

    def read_info(self, folder: Path) -> ModelInfo:
        """Content of `config.json` of a model directory; that of the common file is known."""
        path = folder / CONFIG
        common = path.is_file() and path.samefile(self.model / CONFIG)
        return self.info if common else read_info(folder)

    def _feasibility(self, shape: Shape) -> Feasibility:
        return Feasibility(parse_space(shape.space, "simulated.yaml", self.folder), self.corpus)


class QuickDoctor(Doctor):
    """An audit that compares the best model's bytes: all trials have the same weights, and loading takes long."""

    def _check_model(self, trials: list[TrialRecord]) -> Iterator[Finding]:
        folder, best = self.home.model(self.name), best_model.best_of(trials)
        if folder.is_dir():
            for path in sorted(folder.glob("*.safetensors")):
                if best is None or path.read_bytes() != (Path(str(best.model)) / path.name).read_bytes():
                    yield Finding("model", f"{path} is not the best trial's")
        elif self._ended and best:
            yield Finding("model", f"no model directory {folder}")


class World:
    """The sweep of one schedule.

    Args:
        folder: an empty one, for everything that the sweep writes.
    """

    def __init__(self, schedule: Schedule, templates: Templates, folder: Path) -> None:
        self.schedule, self.templates, self.folder = schedule, templates, folder
        self.writes, self.clock = Writes(folder), Clock()
        self.speech = Speech(schedule.seed, templates.model, schedule.diverging)
        self.stamps = itertools.count()
        self.printed = io.StringIO()
        self.before: list[TrialRecord] = []
        self.told: list[str] = []  # how each driver ended
        self.began = False  # whether the latest one began to train
        self.steered = True  # whether other processes ask for something
        self.errors, self.temporary = folder / "errors", folder / "tmp"
        self.uri = f"sqlite:///{folder / 'away' / STORE}"
        home = folder / "home"
        for place in (self.errors, self.temporary, home):
            place.mkdir(parents=True)
        if schedule.store == "memory":
            storage = InMemoryStorage()
            watch_storage(storage, self.writes)
            self.home: Home = HomeInMemory(home, memory=storage)
        else:
            self.home = Home(home)
            shutil.copyfile(templates.folder / STUDIES, home / STUDIES)
        if schedule.store == "mlflow":
            shutil.copyfile(templates.folder / STORE, home / STORE)
            self.uri = self.home.tracking
        else:
            (folder / "away").touch()  # a file where a folder should be

    # Drivers

    def run(self) -> None:
        """Lives through the schedule to the sweep's end, and checks what must hold after each driver."""
        ends = [*self.schedule.ends, *[None] * MOST_DRIVERS]
        with self._patched():
            for number, end in enumerate(ends):
                self.steered = number < len(self.schedule.ends)
                self._drive(number, end.fault if end else None, end.interrupt if end else None)
                self._check_between()
                if self.told[-1] == "finished":
                    break
            else:
                raise AssertionError("the sweep does not come to its end")
            self._check_end()
            if self.schedule.store != "memory":
                self._check_copy()

    def open(self) -> Ledger | None:
        """The ledger; None before it is made."""
        storage, _ = open_storage(self.home.studies)
        with suppress(InputError):
            return Ledger.open(storage, NAME)
        return None

    def _drive(self, number: int, fault: Fault | None, interrupt_at: int | None) -> None:
        """One driver's life."""
        ended = {trial.number for trial in self.before if trial.state != "running"}
        random = Random(f"{self.schedule.seed} {number}")
        hands = Hands(
            random, self.writes, self.clock, self.speech, self._stamp, self.errors, interrupt_at, ended, self._steer
        )
        self.writes.begin(fault)
        full = ""
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sweep_run, "execute", hands.execute)
                patch.setattr(sweep_run, "Background", hands.beside)
                outcome = self._live()
            self.told.append(outcome.state)
        except Crash:
            self.told.append("killed")
        except (InputError, OSError) as error:
            if not self.writes.full:
                raise
            full = f": {error}"
            self.told.append("failed")
        finally:
            self._process_ends(hands)
        self.began = hands.steps > 0
        self._log(f"driver {number} {self.told[-1]}{full} after {self.writes.count} writes, {hands.steps} steps")

    def _steer(self, random: Random) -> None:
        """Another process asks for something, if its turn has come."""
        if self.steered and random.random() < self.schedule.steering and (ledger := self.open()) is not None:
            with self.writes.aside():
                others.ask(random, ledger, self.home.sweep(NAME), self.schedule.trials)

    def _live(self) -> sweep_run.Outcome:
        """What `sweep.start` and `sweep.resume` do between reading their arguments and telling the outcome."""
        schedule = self.schedule
        feasibility = self.templates.feasibility(schedule.shape)
        with self.home.lock(NAME):
            ledger = self.open() or Ledger.create(self.home.studies, NAME, self._about(feasibility.space))
            if self.told[-1:] == ["capped"]:
                ledger.note("limits", Limits().model_dump())
            if self.told[-1:] == ["paused"]:
                with self.writes.aside():
                    others.ask_for_the_paused(ledger, self.clock)
            running = sweep_run.RunningSweep(
                self.home, NAME, ledger, feasibility, Options(tracking_uri=self.uri, tune_decoding=False)
            )
            view = LiveDisplay(Console(file=self.printed, width=200))
            machine = Cluster([Node(float(schedule.concurrency))])
            nodes = sweep.gathered(machine, running.options, self.home, NAME, running.corpus, view)
            return sweep.run(running, nodes, Interrupt(), view)

    def _about(self, space: Space) -> dict[str, Any]:
        """What `sweep.start` begins a sweep with."""
        corpus = self.templates.corpus
        return {
            "space": space.text,
            "source": space.source,
            "folder": str(self.templates.folder),
            "corpus": str(corpus.path),
            "corpus_hash": corpus.hash,
            "trials": self.schedule.trials,
            "limits": Limits(hours=self.schedule.hours).model_dump(),
            "epochs": space.settings.epochs,
            "objectives": space.settings.objectives,
            "options": asdict(Options(tracking_uri=self.uri, tune_decoding=False)),
        }

    def _stamp(self) -> str:
        return f"{next(self.stamps):06}"

    def _process_ends(self, hands: Hands) -> None:
        hands.let_linger()
        self.writes.end()
        for store in (TrackingStore, RegistryStore):
            engine = store._engine_map.pop(self.uri, None)
            if engine is not None:
                engine.dispose()
        TrackingStoreRegistry._get_store_with_resolved_uri.cache_clear()
        ModelRegistryStoreRegistry._get_store_with_resolved_uri.cache_clear()

    @contextmanager
    def _patched(self) -> Iterator[None]:
        """What is not the project's own, or takes long and is nobody's state, is replaced.

        That is: time; Ray's placement groups; pictures, for which an empty file stands; and what is always the same,
        which is asked once: what git, pip and Optuna's migrations say of this installation, what a space's text means,
        and what the model's `config.json` says, to which the checkpoints' are links.
        """
        with pytest.MonkeyPatch.context() as patch:
            for module in (meter, mlflow_callback, requests, run_on_record, steering, tracking, watch):
                patch.setattr(module, "time", self.clock)
            patch.setattr(sweep_run, "PlacementGroupKeeper", lambda *arguments: nullcontext())
            patch.setattr(provenance, "_git", _git)
            patch.setattr(provenance, "distributions", lambda: _distributions)
            patch.setattr(recorded_space, "parse_space", _parse)
            patch.setattr(doctor, "read_info", self.templates.read_info)
            patch.setattr(VersionManager, "get_head_version", lambda manager: self.templates.optuna_version)
            for module in (best_model, mlflow_callback):
                patch.setattr(module, "draw_trial", _draw)
                patch.setattr(module, "draw_sweep", _draw)
            patch.setattr("tempfile.tempdir", str(self.temporary))
            if self.schedule.store == "memory":
                patch.setattr(sweep_run, "CopyKeeper", lambda home, name: Callback())
                patch.setattr(sweep_run, "keep_copy", lambda home, name: None)
            watch_files_and_databases(patch, self.writes)
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints tracebacks of its own
            yield

    def _log(self, text: str) -> None:
        print(text, file=self.printed)

    # What must hold

    def audit(self) -> list[Finding]:
        auditor = Doctor if self.schedule.store == "mlflow" else QuickDoctor
        findings = auditor(self.home, NAME).audit()
        return findings if self.schedule.store == "mlflow" else [one for one in findings if AWAY not in one.text]

    def _check_between(self) -> None:
        """Nothing that was on record has changed, and nothing is wrong but what going on mends."""
        ledger = self.open()
        if ledger is None:
            return
        now = ledger.trials()
        assert len(now) >= len(self.before), "trials are gone"
        for earlier, later in zip(self.before, now, strict=False):
            assert later.curve[: earlier.epochs] == earlier.curve, f"the curve of trial {earlier.number} has changed"
            if earlier.state != "running":
                assert later.state == earlier.state, f"trial {later.number} was {earlier.state}, and is {later.state}"
                assert later.epochs == earlier.epochs, f"trial {later.number} has ended, and was trained on"
        self.before = now
        self._check_sweeps_run(ledger)
        findings = self.audit()
        wrong = [str(finding) for finding in findings if finding.kind not in MENDED]
        assert not wrong, wrong
        if self.told[-1] == "finished" and self.writes.failed:  # MLflow may not have been told everything
            Doctor(self.home, NAME).repair(findings)
            findings = self.audit()
        assert self.told[-1] != "finished" or not findings, list(map(str, findings))

    def _check_sweeps_run(self, ledger: Ledger) -> None:
        """A driver that began to train and was not killed has closed the sweep's run in MLflow."""
        parent, fault = ledger.about.get("mlflow_run_id"), self.writes.fault
        reached = self.began and self.told[-1] != "killed" and (fault is None or fault.kind != "away")
        if parent is not None and reached:
            assert MlflowClient(self.uri).get_run(parent).info.status != "RUNNING", "the sweep's run is RUNNING"

    def _check_end(self) -> None:
        """Everything is on record once, and nothing else is left."""
        trials, epochs = self.before, self.schedule.shape.epochs
        ledger = self.open()
        assert ledger is not None and len(trials) == ledger.about["trials"] >= self.schedule.trials
        stopped = others.check_requests(ledger)
        for trial in trials:
            fate = self.schedule.diverging.get(trial.number)
            assert [row["epoch"] for row in trial.curve] == list(range(1, trial.epochs + 1))
            for row in trial.curve:
                expected = self.speech.row(trial.number, row["epoch"])
                assert {key: row[key] for key in expected} == expected
            if trial.state == "failed":
                assert trial.reason.startswith("DivergedError") and trial.epochs + 1 == fate, trial.reason
            elif trial.state == "complete":
                assert fate is None and trial.epochs == epochs
            else:
                assert trial.state == "pruned", trial
                given_up = trial.reason.startswith(("rung at epoch", "chance to beat the best"))
                assert given_up or trial.number in stopped, trial
                assert trial.epochs < epochs
        left = sorted(str(path.relative_to(self.home.path)) for path in self._unexpected())
        assert not left, f"left behind: {left}"

    def _check_copy(self) -> None:
        """A ledger that is lost can be rebuilt from the sweep's copy."""
        (self.home.path / STUDIES).unlink()
        with self.writes.aside():
            assert restore(self.home) == [f"restored the sweep {NAME} from its copy"]
        ledger = self.open()
        assert ledger is not None and ledger.trials() == self.before

    def _unexpected(self) -> Iterator[Path]:
        """Files and folders of the home that a sound sweep has not."""
        home, sweeps = self.home.path, self.home.sweep(NAME)
        known = {
            home: {STUDIES, STORE, "sweeps", "models", "artifacts"},
            home / "sweeps": {NAME},
            home / "models": {NAME},
            sweeps: {TRIALS, LOCK, COPY, "errors", "record"},
            sweeps / TRIALS: {f"trial-{trial.number:04}" for trial in self.before},
            sweeps / "errors": {f"trial-{trial.number:04}.json" for trial in self.before},
        }
        for folder, names in known.items():
            if folder.is_dir():
                yield from (path for path in sorted(folder.iterdir()) if path.name not in names)


def _draw(what: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "picture.png").write_bytes(b"")


_git = cache(provenance._git)
_parse = cache(parse_space)


_distributions = [
    SimpleNamespace(metadata={key: one.metadata[key] for key in ("Name", "Version")})
    for one in provenance.distributions()
]
