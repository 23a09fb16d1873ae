"""Python interface to sweeps, with the names of the command line; an example is `tests/examples/notebook.py`.

A method returns the data that its command prints with `--json`, a list as a DataFrame and an object as a dictionary;
rates are fractions. A running sweep prints a line for each event, and stops cleanly when the kernel is interrupted.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pandas
import yaml
from pydantic import BaseModel, ValidationError
from rich.console import Console

from asr_platform.analysis import importances, leaderboard
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.cli.live import LiveDisplay
from asr_platform.cli.options import WIDE, Caps, Continuation, Ending, Repetitions, SweepSize, store_of_new
from asr_platform.storage.home import Home, where_runs_live
from asr_platform.storage.store_address import checked_uri
from asr_platform.study.ledger import Ledger
from asr_platform.study.steering import asking
from asr_platform.study.steering.requests import Request, outcome
from search_spaces.reader import load_space, parse_space
from search_spaces.space import Space
from trainables.config_parsing import flatten, problems
from trainables.data.corpus import Corpus
from trainables.errors import InputError

if TYPE_CHECKING:
    from asr_platform.tuning.sweep_run import Outcome

# Methods import Ray and MLflow when they are called: importing either takes seconds.

Place = str | Path
AnySpace = str | Path | Mapping[str, Any]
"""A YAML file, the name of a shipped space, or the content of such a file."""
Checked = TypeVar("Checked", bound=BaseModel)


class NewSweep(SweepSize, Caps, Ending):
    """Size, caps and ending of a new sweep."""


class ResumedSweep(Continuation, Caps, Ending):
    """Changed size, caps and ending of a resumed sweep."""


@dataclass(frozen=True)
class Sweep:
    """A sweep in its home, made by `start` or found by `open`; its methods read the sweep's present state.

    Every method raises InputError where its command would end with exit code 2.
    """

    home: Home
    name: str

    @classmethod
    def start(
        cls, space: AnySpace | None, data: Place, *, home: Place | None = None, name: str | None = None,
        init_from: Place | None = None, warm_start: Sequence[str] = (), tracking_uri: str | None = None, **size: Any,
    ) -> Self:  # fmt: skip
        """Runs a new sweep to its end, as `platform sweep` does.

        Args:
            space: None for the shipped space that suits the corpus and the machine; a line says why.
            data: folder of the corpus.
            home: default: $ASR_PLATFORM_HOME, or `mlruns` here.
            init_from: model directory, or name of a model in MLflow, with whose weights the trials begin.
            size: options of the command by name: trials, epochs, max_concurrent, workers_per_trial, gpus_per_worker,
                address, max_hours, max_device_hours, max_disk_gb, tune_decoding (fields of `NewSweep`).
        """
        from asr_platform.tuning.sweep import start

        asked = checked(NewSweep, size)
        how = replace(asked.cluster_options(store_of_new(tracking_uri)), tune_decoding=asked.tune_decoding)
        place = Home.at(where_runs_live(home))
        searched, corpus = space_and_corpus(space, data, asked, place, init_from)
        searched = searched.with_limits(asked.limits)
        return cls._ran(place, start(place, searched, corpus, name, asked.trials, how, display(place), warm_start))

    @classmethod
    def open(cls, name: str | None = None, *, home: Place | None = None) -> Self:
        """The sweep `name` in a home; without a name, the latest one."""
        place = Home.existing(where_runs_live(home))
        return cls(place, leaderboard.latest(place.studies, name).name)

    def resume(self, space: AnySpace | None = None, *, tracking_uri: str | None = None, **size: Any) -> Self:
        """Continues the sweep, as `platform sweep --resume` does.

        Args:
            space: a wider space that replaces the sweep's own.
            size: options of the command: trials, address, max_hours, max_device_hours, max_disk_gb, tune_decoding
                (`ResumedSweep`).
        """
        from asr_platform.tuning.sweep import resume

        asked = checked(ResumedSweep, size)
        wider, store = None if space is None else read_space(space), checked_uri(tracking_uri) if tracking_uri else None
        view = display(self.home)
        ended = resume(
            self.home, self.name, asked.trials, asked.limits, asked.address, view, wider, store, asked.tune_decoding
        )
        return self._ran(self.home, ended)

    def stop(self, trial: int) -> str:
        """Asks the running sweep to end a trial, as `platform stop` does; returns what became of it, in words."""
        return self._asked(asking.stop(self._ledger, trial))

    def pause(self, trial: int) -> str:
        """Asks the running sweep to pause a trial, as `platform pause` does; returns what became of it, in words."""
        return self._asked(asking.pause(self._ledger, trial))

    def unpause(self, trial: int) -> str:
        """Asks that a paused trial goes on, as `platform unpause` does; returns what became of it, in words."""
        return self._asked(asking.unpause(self._ledger, trial))

    def add(self, values: Mapping[str, Any]) -> str:
        """Asks for a trial with these values by key, as `platform add` does; returns what became of it, in words."""
        return self._asked(asking.add(self._ledger, dict(flatten(values))))

    def change(self, *, trials: int | None = None, **caps: Any) -> str:
        """Asks for another number of trials or other caps, as `platform change` does; returns what became of it.

        Args:
            caps: max_hours, max_device_hours, max_disk_gb (fields of `Caps`).
        """
        size, limits = checked(Continuation, {"trials": trials}), checked(Caps, caps).limits
        return self._asked(asking.change(self._ledger, self.home.sweep(self.name), size.trials, limits))

    def delete(self) -> list[str]:
        """Deletes the sweep with its MLflow runs, models and files, without asking; returns what was deleted, in words.

        `platform delete` asks first. A sweep that runs is not deleted.
        """
        from asr_platform.tracking.deletion import Deletion

        found = Deletion.of(self.home, self.name)
        lines = found.lines
        found.delete()
        return lines

    def _asked(self, request: Request) -> str:
        return outcome(self.home, self._ledger, request)

    @staticmethod
    def plan(
        space: AnySpace | None, data: Place, *, init_from: Place | None = None, profile: bool = True, **size: Any
    ) -> dict[str, Any]:  # fmt: skip
        """Estimates what a sweep will take before it starts, as `platform plan` does.

        Args:
            space: None for the shipped space that suits the corpus and the machine.
            init_from: model directory with whose weights the trials would begin.
            profile: train two configurations for seconds; else hours, memory and disk are not estimated.
            size: trials, epochs, max_concurrent, workers_per_trial, gpus_per_worker, address (fields of `SweepSize`).
        """
        from asr_platform.monitoring import plan

        asked = checked(SweepSize, size)
        searched, corpus = space_and_corpus(space, data, asked, Home(where_runs_live(None)), init_from)
        return asdict(plan.plan(searched, corpus, asked.trials, asked.cluster_options(), profile))

    def leaderboard(self) -> pandas.DataFrame:
        """Trials, best first: the columns of `analysis.leaderboard.rows`, and one for each searched key."""
        rows = self._rows()
        return pandas.DataFrame([{**row, **row["params"]} for row in rows]).drop(columns="params", errors="ignore")

    @property
    def best(self) -> dict[str, Any]:
        """The first row of the leaderboard; `params` are the values of the searched keys."""
        leaderboard.pick(self._ledger, None)  # raises if no trial has finished an epoch
        return self._rows()[0]

    @property
    def model(self) -> Path:
        """The directory of the sweep's best model, for `load_model`."""
        found = self.home.model(self.name)
        if not found.is_dir():
            raise InputError(f"the sweep {self.name} has not ended with a model", "Go on with it: resume().")
        return found

    def compare(
        self, a: int | Place, b: int | Place, *, data: Place | None = None, split: str | None = None
    ) -> dict[str, Any]:
        """Compares two models, as `platform compare` does.

        Args:
            a, b: numbers of trials of this sweep, or names that the command takes.
            data, split: corpus and split that both models transcribe; default: recorded validations are compared.
        """
        from asr_platform.inference import compare

        one, other = (f"{self.name}:{model}" if isinstance(model, Integral) else str(model) for model in (a, b))
        return compare.compare(self.home.path, one, other, Path(data) if data else None, split).as_tree()

    def importances(self) -> dict[str, Any]:
        """Parameter importances, as `platform importances --json` prints them."""
        return importances.importances(self._ledger).as_tree()

    def confirm(self, *, top: int = 3, seeds: int = 3, data: Place | None = None, **decoding: Any) -> pandas.DataFrame:
        """Trains the best configurations again from new seeds, as `platform confirm` does; best first.

        Args:
            decoding: keys of the configuration's section `decoding` for the validations.
        """
        from asr_platform.tuning import confirm

        checked(Repetitions, {"top": top, "seeds": seeds})
        corpus = Path(data) if data else None
        found = confirm.confirm(self.home, self.name, top, seeds, decoding, corpus, display(self.home))
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
            display(home).say("; ".join(filter(None, ["stopped", outcome.reason, "go on with resume()"])))
        return cls(home, outcome.name)


def checked(model: type[Checked], given: Mapping[str, Any]) -> Checked:
    """An instance of a pydantic model with the values `given`.

    Raises:
        InputError: a name is unknown, or a value is of another type or out of bounds; the message names all of them.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise InputError("; ".join(problems(error, model)), "Correct them, or leave them out.") from None


def display(home: Home) -> LiveDisplay:
    """Display of a running sweep; commands in its hints name the home by its absolute path."""
    console = Console()
    command = shlex.join(["platform", "--home", str(home.path)])
    return LiveDisplay(console if console.is_terminal else Console(width=WIDE), command)


def space_and_corpus(
    space: AnySpace | None, data: Place, size: SweepSize, home: Home, init_from: Place | None
) -> tuple[Space, Corpus]:
    """A space and a corpus; without a space, one for the corpus, the cluster and `init_from`: a line says why.

    Raises:
        InputError: there is no such space or corpus, or one has mistakes.
    """
    from asr_platform.tracking.resolving import IN_MLFLOW, resolve_model
    from asr_platform.tuning.first_space import space_for

    folder = None
    if init_from is not None:
        in_mlflow = str(init_from).startswith(IN_MLFLOW)
        folder = resolve_model(home.path, str(init_from)) if in_mlflow else Path(init_from)
    named, corpus = None if space is None else read_space(space), Corpus.open(Path(data))
    if named is None:
        selected = space_for(corpus, size.address, folder)
        display(home).say(f"space {selected.space.name}: {selected.reason}")
        named = selected.space
    return named.with_epochs(size.epochs).with_initial_model(folder), corpus


def read_space(space: AnySpace) -> Space:
    """A space from a file, a shipped name or a mapping.

    Raises:
        InputError: there is no such space, or it has mistakes.
    """
    if not isinstance(space, Mapping):
        return load_space(str(space))
    try:
        text = yaml.safe_dump(dict(space), sort_keys=False)
    except yaml.YAMLError as error:
        raise InputError(
            f"the space holds more than plain values: {error}", "Give what a YAML file could hold."
        ) from None
    return parse_space(text, "notebook.yaml")
