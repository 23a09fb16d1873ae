"""Sweeps in Python, as notebooks use them: the verbs of the command line, with the same names.

What a command prints with `--json`, its verb returns: a list of rows as a DataFrame, an object as a dictionary, rates
as fractions. A sweep that runs in a notebook says a line an event, and stops cleanly where the kernel is interrupted.
`tests/examples/notebook.py` shows them at work. Models are in loaded_model.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas
import yaml
from pydantic import Field, ValidationError
from rich.console import Console

from asr_platform.analysis import importances, leaderboard
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.cli.live import LiveDisplay
from asr_platform.cli.options import WIDE, store_of_new
from asr_platform.storage.home import Home, where_runs_live
from asr_platform.storage.store_address import checked_uri
from asr_platform.study.ledger import Ledger
from search_spaces.reader import load_space, parse_space
from search_spaces.settings import Limits, Number, Whole
from search_spaces.space import Space
from trainables.bounds import MOST_EPOCHS, MOST_SEEDS, MOST_TRIALS, MOST_WORKERS
from trainables.config import ConfigSection
from trainables.config_parsing import problems
from trainables.data.corpus import Corpus
from trainables.errors import InputError

if TYPE_CHECKING:
    from asr_platform.tuning.sweep import Outcome

# Verbs import Ray and MLflow when they are called: both change the environment of the process that imports them.

Place = str | Path
AnySpace = str | Path | Mapping[str, Any]
"""A YAML file, the name of a shipped space, or what such a file holds."""


@dataclass(frozen=True)
class Sweep:
    """A sweep in its home: made by `start`, found by `open`. It tells what is there when it is asked.

    Every verb raises InputError where the command would end with exit code 2.
    """

    home: Home
    name: str

    @classmethod
    def start(
        cls, space: AnySpace, data: Place, *, home: Place | None = None, name: str | None = None,
        trials: int | None = None, epochs: int | None = None, max_concurrent: int | None = None,
        workers_per_trial: int | None = None, gpus_per_worker: float | None = None, address: str | None = None,
        max_hours: float | None = None, max_device_hours: float | None = None, max_disk_gb: float | None = None,
        warm_start: Sequence[str] = (), tracking_uri: str | None = None,
    ) -> Self:  # fmt: skip
        """Runs a new sweep to its end: `platform sweep`, whose options have these names and meanings.

        Args:
            data: the corpus.
            home: default: $ASR_PLATFORM_HOME, or `mlruns` here.
        """
        from asr_platform.tuning.cluster import Options
        from asr_platform.tuning.sweep import start

        check(
            trials=trials, epochs=epochs, max_concurrent=max_concurrent, workers_per_trial=workers_per_trial,
            gpus_per_worker=gpus_per_worker,
        )  # fmt: skip
        searched = read_space(space).with_epochs(epochs).with_limits(limits(max_hours, max_device_hours, max_disk_gb))
        store = store_of_new(tracking_uri)
        how = Options(max_concurrent, workers_per_trial, gpus_per_worker, address, tracking_uri=store)
        place, corpus = Home.at(where_runs_live(home)), Corpus.open(Path(data))
        return cls._ran(place, start(place, searched, corpus, name, trials, how, view(place), warm_start))

    @classmethod
    def open(cls, name: str | None = None, *, home: Place | None = None) -> Self:
        """A sweep that was begun before; without a name, the latest."""
        place = Home.existing(where_runs_live(home))
        found = leaderboard.latest(place.studies, name)
        Ledger.open(place.studies, found)
        return cls(place, found)

    def resume(
        self, space: AnySpace | None = None, *, trials: int | None = None, address: str | None = None,
        max_hours: float | None = None, max_device_hours: float | None = None, max_disk_gb: float | None = None,
        tracking_uri: str | None = None,
    ) -> Self:  # fmt: skip
        """Goes on, with more trials, higher caps or a wider space: `platform sweep --resume`."""
        from asr_platform.tuning.sweep import resume

        check(trials=trials)
        caps, wider = limits(max_hours, max_device_hours, max_disk_gb), None if space is None else read_space(space)
        store, say = checked_uri(tracking_uri) if tracking_uri else None, view(self.home)
        return self._ran(self.home, resume(self.home, self.name, trials, caps, address, say, wider, store))

    @staticmethod
    def plan(
        space: AnySpace, data: Place, *, trials: int | None = None, epochs: int | None = None,
        max_concurrent: int | None = None, workers_per_trial: int | None = None, gpus_per_worker: float | None = None,
        address: str | None = None, profile: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """What a sweep will take, before it starts: `platform plan`.

        Args:
            profile: train for seconds, without which nothing is said of hours, memory and disk.
        """
        from asr_platform.monitoring import plan
        from asr_platform.tuning.cluster import Options

        check(
            trials=trials, epochs=epochs, max_concurrent=max_concurrent, workers_per_trial=workers_per_trial,
            gpus_per_worker=gpus_per_worker,
        )  # fmt: skip
        how = Options(max_concurrent, workers_per_trial, gpus_per_worker, address)
        return asdict(plan.plan(read_space(space).with_epochs(epochs), Corpus.open(Path(data)), trials, how, profile))

    def leaderboard(self) -> pandas.DataFrame:
        """The trials, best first; each key that varied has a column, the others are as `leaderboard.rows` says."""
        rows = self._rows()
        return pandas.DataFrame([{**row, **row["params"]} for row in rows]).drop(columns="params", errors="ignore")

    @property
    def best(self) -> dict[str, Any]:
        """The first row of the leaderboard, with what varied as `params`."""
        leaderboard.pick(self._ledger, None)  # there is one, or it says so
        return self._rows()[0]

    @property
    def model(self) -> Path:
        """The model directory that the sweep ended with, for `load_model`."""
        found = self.home.model(self.name)
        if not found.is_dir():
            raise InputError(f"the sweep {self.name} has not ended with a model", "Go on with it: resume().")
        return found

    def compare(
        self, a: int | Place, b: int | Place, *, data: Place | None = None, split: str | None = None
    ) -> dict[str, Any]:
        """Whether two models can be told apart: `platform compare`.

        Args:
            a, b: the numbers of trials of this sweep, or what the command takes.
            data, split: what both transcribe; without them, they are compared by the errors of their validations.
        """
        from asr_platform.inference import compare

        one, other = (f"{self.name}:{model}" if isinstance(model, Integral) else str(model) for model in (a, b))
        return compare.compare(self.home.path, one, other, Path(data) if data else None, split).as_tree()

    def importances(self) -> dict[str, Any]:
        """Which keys the result depends on: `platform importances`."""
        return importances.importances(self._ledger).as_tree()

    def confirm(self, *, top: int = 3, seeds: int = 3, data: Place | None = None, **decoding: Any) -> pandas.DataFrame:
        """Trains the best configurations again, or goes on with that: `platform confirm`; best first.

        Args:
            decoding: keys of the configuration's section `decoding`, to validate with.
        """
        from asr_platform.tuning import confirm

        check(top=top, seeds=seeds)
        corpus = Path(data) if data else None
        found = confirm.confirm(self.home, self.name, top, seeds, decoding, corpus, view(self.home))
        return pandas.DataFrame(found.as_tree())

    @property
    def _ledger(self) -> Ledger:
        return Ledger.open(self.home.studies, self.name)

    def _rows(self) -> list[dict[str, Any]]:
        ledger = self._ledger
        trials = ledger.trials()
        intervals = RecordedErrors(self.home.sweep(self.name)).cer_intervals(trials)
        return leaderboard.rows(trials, intervals, ledger.objectives)

    @classmethod
    def _ran(cls, home: Home, outcome: Outcome) -> Self:
        if outcome.state in ("stopped", "failed"):
            view(home).say("; ".join(filter(None, ["stopped", outcome.reason, "go on with resume()"])))
        return cls(home, outcome.name)


class Sizes(ConfigSection):
    """The numbers that verbs take; None leaves one to the space or to the machine."""

    trials: Whole | None = Field(None, ge=1, le=MOST_TRIALS)
    epochs: Whole | None = Field(None, ge=1, le=MOST_EPOCHS)
    max_concurrent: Whole | None = Field(None, ge=1, le=MOST_WORKERS)
    workers_per_trial: Whole | None = Field(None, ge=1, le=MOST_WORKERS)
    gpus_per_worker: Number | None = Field(None, ge=0, le=MOST_WORKERS)
    max_hours: Number | None = Field(None, gt=0)
    max_device_hours: Number | None = Field(None, gt=0)
    max_disk_gb: Number | None = Field(None, gt=0)
    top: Whole = Field(1, ge=1, le=MOST_TRIALS)
    seeds: Whole = Field(1, ge=1, le=MOST_SEEDS)


def check(**given: Any) -> None:
    """Refuses numbers that mean nothing."""
    try:
        Sizes.model_validate(given)
    except ValidationError as error:
        raise InputError("; ".join(problems(error, Sizes)), "Correct them, or leave them out.") from None


def limits(max_hours: float | None, max_device_hours: float | None, max_disk_gb: float | None) -> Limits:
    check(max_hours=max_hours, max_device_hours=max_device_hours, max_disk_gb=max_disk_gb)
    return Limits(hours=max_hours, device_hours=max_device_hours, disk_gb=max_disk_gb)


def view(home: Home) -> LiveDisplay:
    """What says how a sweep goes on. The commands that it tells people to type find the home from anywhere."""
    console = Console()
    command = shlex.join(["platform", "--home", str(home.path)])
    return LiveDisplay(console if console.is_terminal else Console(width=WIDE), command)


def read_space(space: AnySpace) -> Space:
    if not isinstance(space, Mapping):
        return load_space(str(space))
    try:
        text = yaml.safe_dump(dict(space), sort_keys=False)
    except yaml.YAMLError as error:
        raise InputError(
            f"the space holds more than plain values: {error}", "Give what a YAML file could hold."
        ) from None
    return parse_space(text, "notebook.yaml")
