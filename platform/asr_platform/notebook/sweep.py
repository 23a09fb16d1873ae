"""Python interface to sweeps, with the names of the command line; an example is `tests/examples/notebook.py`.

A method returns the data that its command prints with `--json`, a list as a DataFrame and an object as a dictionary;
rates are fractions. A running sweep prints a line for each event, and stops cleanly when the kernel is interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas

from asr_platform.analysis import importances, leaderboard
from asr_platform.analysis.recorded_errors import RecordedErrors
from asr_platform.cli.options.settings import Caps, Continuation, Repetitions, SweepSize
from asr_platform.cli.options.shared import store_of_new
from asr_platform.monitoring.status import waiting
from asr_platform.notebook.inputs import (
    AnySpace,
    NewSweep,
    Place,
    ResumedSweep,
    Training,
    checked,
    command_of,
    display,
    model_folder,
    read_space,
    space_and_corpus,
)
from asr_platform.storage.home import Home
from asr_platform.storage.paths import where_runs_live
from asr_platform.storage.store_address import checked_uri
from asr_platform.study.ledger import Ledger
from asr_platform.study.steering import asking
from asr_platform.study.steering.requests import Request, outcome
from trainables.config.parsing import flatten
from trainables.data.corpus import Corpus
from trainables.errors import InputError

if TYPE_CHECKING:
    from asr_platform.tuning.sweep_run import Outcome

# Methods import Ray and MLflow when they are called: importing either takes seconds.


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
            size: options of the command by name: trials, epochs, max_concurrent, workers_per_trial, min_workers,
                max_workers, gpus_per_worker, accelerator_type, address, max_hours, max_device_hours, max_disk_gb,
                tune_decoding (fields of `NewSweep`).
        """
        from asr_platform.tuning.sweep import start

        asked = checked(NewSweep, size)
        how = replace(asked.cluster_options(store_of_new(tracking_uri)), tune_decoding=asked.tune_decoding)
        place = Home.at(where_runs_live(home))
        searched, corpus = space_and_corpus(space, data, asked, place, init_from)
        searched = searched.with_limits(asked.limits)
        return cls._ran(place, start(place, searched, corpus, name, asked.trials, how, display(place), warm_start))

    @classmethod
    def train(
        cls, source: Place | None, data: Place, *, origin: str | None = None, home: Place | None = None,
        name: str | None = None, init_from: Place | None = None, tracking_uri: str | None = None, **how: Any,
    ) -> Self:  # fmt: skip
        """Trains one model at full length on the whole machine, as `platform train` does: a sweep of one trial.

        Args:
            source: a configuration file, or a space, whose base is trained; None with `origin`.
            origin: `NAME` or `NAME:TRIAL`, a sweep whose best trial's or whose trial's configuration is trained.
            home: default: $ASR_PLATFORM_HOME, or `mlruns` here.
            init_from: model directory, or name of a model in MLflow, with whose weights the training begins.
            how: options of the command by name: epochs, workers, gpus_per_worker, accelerator_type, address,
                tune_decoding.
        """
        from asr_platform.tuning.single import single
        from asr_platform.tuning.sweep import start

        asked = checked(Training, how)
        if bool(source) == bool(origin):
            raise InputError("train needs a source or an origin, one of the two", "Give None for the other.")
        place = Home.at(where_runs_live(home))
        space = single(place.path, str(source) if source else None, origin, asked.epochs)
        space = space.with_initial_model(model_folder(init_from, place))
        options = asked.cluster_options(store_of_new(tracking_uri))
        return cls._ran(place, start(place, space, Corpus.open(Path(data)), name, None, options, display(place)))

    @classmethod
    def open(cls, name: str | None = None, *, home: Place | None = None) -> Self:
        """The sweep `name` in a home; without a name, the latest one."""
        place = Home.existing(where_runs_live(home))
        return cls(place, leaderboard.latest(place.studies, name).name)

    @staticmethod
    def overview(*, home: Place | None = None) -> pandas.DataFrame:
        """All sweeps of a home, the latest last: a row for each, as `platform status --json` prints them."""
        from asr_platform.monitoring.status import all_statuses

        return pandas.DataFrame([one.as_tree() for one in all_statuses(Home.existing(where_runs_live(home)))])

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

    def note(self, trial: int, text: str) -> None:
        """Writes the note on a trial of any state, as `platform note` does; an empty text removes it."""
        from asr_platform.tracking.notes import annotate

        annotate(self.home, self._ledger, trial, text, print)

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
        space: AnySpace | None, data: Place, *, init_from: Place | None = None, profile: bool = True,
        nodes: int | None = None, price: float | None = None, **size: Any
    ) -> dict[str, Any]:  # fmt: skip
        """Estimates what a sweep will take before it starts, as `platform plan` does.

        Args:
            space: None for the shipped space that suits the corpus and the machine.
            init_from: model directory with whose weights the trials would begin.
            profile: train two configurations for seconds; else hours, memory and disk are not estimated.
            nodes: plan for so many machines like this one, and for fewer.
            price: price of a node for an hour.
            size: trials, epochs, max_concurrent, workers_per_trial, min_workers, max_workers, gpus_per_worker,
                accelerator_type, address (fields of `SweepSize`).
        """
        from asr_platform.monitoring import plan

        asked = checked(SweepSize, size)
        searched, corpus = space_and_corpus(space, data, asked, Home(where_runs_live(None)), init_from)
        wished = plan.Nodes.asked(nodes, price)
        return asdict(plan.plan(searched, corpus, asked.trials, asked.cluster_options(), profile, wished))

    def status(self) -> dict[str, Any]:
        """State, trials, hours spent and time left of the sweep, as `platform status NAME --json` prints them."""
        from asr_platform.monitoring.status import status

        return status(self.home, self.name).as_tree()

    def logs(self, trial: int) -> str:
        """Log of a trial as `platform logs` prints it: output of its workers, with tracebacks, and how it ended."""
        from asr_platform.monitoring.logs import trial_log

        return "".join(trial_log(self.home, self.name, trial))

    def report(self, out: Place | None = None) -> Path:
        """Writes a report of the sweep as an HTML page, as `platform report` does; returns its path.

        Args:
            out: default: NAME.html in the current folder.
        """
        from asr_platform.reporting.report import write_report
        from asr_platform.tracking.notes import read_notes

        read_notes(self.home, self._ledger, print)
        return write_report(self.home, self._ledger, Path(out) if out else None, command_of(self.home))

    def doctor(self, *, repair: bool = False, tracking_uri: str | None = None) -> pandas.DataFrame:
        """Audits the sweep, as `platform doctor` does: a row for each finding, `sound` where nothing is wrong.

        Args:
            repair: restore what can be restored, and say what that was; the rows are what is still found. A ledger that
                is itself damaged is restored by the command alone.
            tracking_uri: the MLflow store to audit; default: the sweep's.
        """
        from asr_platform.tuning.doctor import examine

        findings = examine(self.home, self.name, repair, checked_uri(tracking_uri) if tracking_uri else None)
        return pandas.DataFrame([one.as_tree() for one in findings], columns=["kind", "trial", "finding", "sound"])

    def watch(self, *, host: str = "127.0.0.1", port: int | None = None) -> None:
        """Serves Optuna Dashboard for the sweep, as `platform watch` does, until the kernel is interrupted.

        Args:
            host: address to listen on.
            port: default: the first free one from 5000 on. The page's address is printed.
        """
        from asr_platform.monitoring.dashboard import watch

        watch(self.home, self._ledger, host, port, print)

    def ui(self, *, host: str = "127.0.0.1", port: int | None = None, tracking_uri: str | None = None) -> None:
        """Serves MLflow's UI for the sweep, as `platform ui` does, until the kernel is interrupted.

        Args:
            host: address to listen on.
            port: default: the first free one from 5000 on. The pages' addresses are printed.
            tracking_uri: an MLflow server or database; default: the sweep's.
        """
        from asr_platform.tracking.server import open_pages

        uri = checked_uri(tracking_uri, existing=True) if tracking_uri else None
        open_pages(self.home, self.name, uri, host, port, print)

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
        return leaderboard.rows(trials, intervals, ledger.objectives, waiting(self.home, ledger, trials))

    @classmethod
    def _ran(cls, home: Home, outcome: Outcome) -> Self:
        if outcome.state in ("stopped", "failed"):
            display(home).say("; ".join(filter(None, ["stopped", outcome.reason, "go on with resume()"])))
        return cls(home, outcome.name)
