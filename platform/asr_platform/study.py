"""The ledger: everything a sweep knows about its trials, in one Optuna study.

Two ideas. The study is the only record: Ray executes, MLflow shows, and both can be made again from it. And a proposal
is a function of the study's content and the seed: the sampler lives for one proposal, in a copy of the study in memory,
where proposals that do not fit the budget are tried and thrown away. So nothing about the search is lost when the
process dies, and an unfit proposal never becomes a trial.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from search_spaces.space import Proposal, Space
from trainables.errors import InputError
from trainables.metrics import objective_value

State = Literal["running", "complete", "pruned", "failed"]
STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
OPTUNA_STATES = {name: state for state, name in STATES.items()}
Feasible = Callable[[dict[str, Any]], Proposal | None]  # None where a proposal's values cannot be a trial
ABOUT = "about"  # what a sweep is begun with; later notes stand beside it and take its place
OF_TRIAL = "trial:"  # what is noted about the trial whose number follows
FITTED = "fitted"  # the width that fills the budget: a value of the trial that the sampler was not asked for
PROPOSALS = 2000  # before a space is said to have nothing that fits

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the ledger knows it.

    Args:
        number: its number in the sweep, from 0.
        params: the varied keys and their values, the fitted width among them.
        curve: the metrics of each epoch in order; `checkpoint` among them is the path of that epoch's checkpoint.
        about: facts noted once: `parameters`, `mlflow_run_id`.
        reason: why it ended, in words.
    """

    number: int
    state: State
    params: dict[str, Any]
    curve: list[dict[str, Any]]
    about: dict[str, Any]
    reason: str

    @property
    def best(self) -> dict[str, Any] | None:
        """The epoch that ranks first, the last of equals, as Ray keeps checkpoints; None before any."""
        return min(reversed(self.curve), key=objective_value, default=None)

    @property
    def model(self) -> str | None:
        """The model directory of the best epoch whose checkpoint is still there; None where there is none."""
        rows = sorted(reversed(self.curve), key=objective_value)
        return next((row["checkpoint"] for row in rows if _exists(row["checkpoint"])), None)

    @property
    def epochs(self) -> int:
        return len(self.curve)


class Ledger:
    """The study of one sweep, opened for reading and writing.

    One process writes at a time: the sweep's driver, which holds the sweep's lock.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study

    @classmethod
    def create(cls, storage: str, name: str, about: Mapping[str, Any]) -> Ledger:
        """A new, empty ledger; `about` is what must be known to go on with the sweep later.

        Raises:
            InputError: the name is taken.
        """
        try:
            study = optuna.create_study(storage=storage, study_name=name, direction="minimize")
        except optuna.exceptions.DuplicatedStudyError:
            raise taken(name) from None
        study.set_user_attr(ABOUT, dict(about))  # in one write: a ledger knows all of it or nothing
        return cls(study)

    @classmethod
    def open(cls, storage: str, name: str) -> Ledger:
        """An existing ledger.

        Raises:
            InputError: there is no sweep of that name; the message lists those there are.
        """
        names = cls.names(storage)
        if name not in names:
            raise InputError(f"no sweep named {name}", f"The sweeps are: {', '.join(names) or 'none yet'}.")
        return cls(optuna.load_study(storage=storage, study_name=name))

    @staticmethod
    def names(storage: str) -> list[str]:
        """All sweeps, the latest last."""
        summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
        return [summary.study_name for summary in sorted(summaries, key=lambda summary: summary._study_id)]

    @property
    def about(self) -> dict[str, Any]:
        attributes = {key: value for key, value in self.study.user_attrs.items() if not key.startswith(OF_TRIAL)}
        return {**attributes.pop(ABOUT, {}), **attributes}

    def note(self, key: str, value: Any) -> None:
        """Notes a fact about the whole sweep."""
        self.study.set_user_attr(key, value)

    def trials(self) -> list[TrialRecord]:
        """All trials by number."""
        notes = self.study.user_attrs
        return [_record(trial, notes) for trial in self.study.get_trials(deepcopy=False)]

    def trial(self, number: int) -> TrialRecord:
        return _record(self.study.get_trials(deepcopy=False)[number], self.study.user_attrs)

    def propose(self, space: Space, feasible: Feasible) -> TrialRecord:
        """Adds the sampler's next proposal that is feasible, as a running trial with its parameter count.

        Raises:
            InputError: the sampler found none.
        """
        trials = self.study.get_trials(deepcopy=False)
        trial, proposal = propose(space, trials, feasible)
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.RUNNING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={"parameters": proposal.parameters, FITTED: dict(proposal.fitted)},
            )
        )
        return self.trial(len(trials))

    def describe(self, number: int, key: str, value: Any) -> None:
        """Notes a fact about a trial, which may have ended: Optuna closes those, so it stands with the study."""
        self.study.set_user_attr(f"{OF_TRIAL}{number}:{key}", value)

    def record(self, number: int, row: Mapping[str, Any]) -> bool:
        """Records an epoch's metrics; False where that epoch is on record already."""
        epoch = int(row["epoch"])
        if epoch in self.study.get_trials(deepcopy=False)[number].intermediate_values:
            return False
        live = self._live(number)
        live.set_user_attr(f"epoch:{epoch}", json.dumps(dict(row)))
        live.report(objective_value(row), epoch)
        return True

    def finish(self, number: int, state: State, reason: str = "") -> None:
        """Ends a trial; its value, unless it failed, is its lowest validation CER (or perplexity)."""
        best = self.trial(number).best
        self._live(number).set_user_attr("reason", reason)
        value = objective_value(best) if best and state == "complete" else None
        self.study.tell(number, value, state=OPTUNA_STATES[state])

    def _live(self, number: int) -> optuna.Trial:
        return optuna.Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)


def taken(name: str) -> InputError:
    """What is wrong with the name of a sweep that exists."""
    return InputError(
        f"sweep {name} exists", f"Go on with it: platform sweep --resume {name}; or choose another --name."
    )


def propose(space: Space, trials: list[FrozenTrial], feasible: Feasible) -> tuple[FrozenTrial, Proposal]:
    """What the sampler asks for next after these trials that is feasible, and the trial that it makes.

    The same for the same trials, space and seed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group` has been one for years
        sampler = optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, seed=space.settings.seed * 1_000_003 + len(trials)
        )
    study = optuna.create_study(direction="minimize", sampler=sampler)
    study.add_trials(trials)
    for _ in range(PROPOSALS):
        trial = study.ask()
        proposal = feasible(space.propose(trial))
        if proposal is not None:
            return study.get_trials(deepcopy=False)[trial.number], proposal
        study.tell(trial, state=TrialState.FAIL)
    raise InputError(
        f"{space.source}: none of {PROPOSALS} proposals fits the budget of {space.settings.budget:,} parameters",
        "Raise the budget or add smaller models to the space.",
    )


def _exists(checkpoint: str | None) -> bool:
    """Whether a checkpoint is there to be used; one on remote storage is taken to be."""
    return checkpoint is not None and ("://" in checkpoint or Path(checkpoint).is_dir())


def _record(trial: FrozenTrial, notes: Mapping[str, Any]) -> TrialRecord:
    """A trial with what is noted of it; `notes` are the study's."""
    attributes = dict(trial.user_attrs)
    reason = attributes.pop("reason", "")
    params = {**trial.params, **attributes.pop(FITTED, {})}
    rows = {key: json.loads(attributes.pop(key)) for key in list(attributes) if key.startswith("epoch:")}
    # A row counts once its value is reported: the report is the last step of recording an epoch. Optuna reads rows and
    # values one after the other, so a value may be seen whose row was written between the two.
    curve = [rows[f"epoch:{epoch}"] for epoch in sorted(trial.intermediate_values) if f"epoch:{epoch}" in rows]
    own = f"{OF_TRIAL}{trial.number}:"
    about = attributes | {key.removeprefix(own): value for key, value in notes.items() if key.startswith(own)}
    return TrialRecord(trial.number, STATES[trial.state], params, curve, about, reason)
