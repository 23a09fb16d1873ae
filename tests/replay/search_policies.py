"""The ways of searching that are compared. A new one is a `Policy` and a line in `POLICIES`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from curve_tables import Curve
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from replayed_search import Case, Decision, Outcome, Policy

from asr_platform.study.allocation.promotions import Promotions
from asr_platform.study.allocation.rungs import Rungs
from asr_platform.study.samplers import Observation, distributions_of, observe, propose
from search_spaces.samplers import SamplerName
from search_spaces.space import Proposal
from trainables.config.tree import Config

ANY = Proposal(Config(), 1)  # every configuration of a table can be a trial
OURS, RAY = "ours", "ray"
optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


class Ours(Policy):
    """The platform: its sampler, promotions and rungs, with the settings of a plain space.

    Args:
        sampler: another sampler.
        asha: other values of `asha`.
    """

    def __init__(self, case: Case, sampler: SamplerName | None = None, **asha: Any) -> None:
        super().__init__(case)
        settings = case.table.space.settings
        settings = settings.model_copy(
            update={
                "seed": case.seed,
                "sampler": sampler or settings.sampler,
                "asha": settings.asha.model_copy(update=asha),
            }
        )
        self.space = replace(case.table.space, settings=settings)
        self.rungs, self.promotions = Rungs(settings), Promotions(settings)
        self.is_measured = False  # whether a start and an epoch are, from which the first promotion follows
        self.distributions = distributions_of(self.space)
        self.begun: dict[int, Curve] = {}
        # Epochs and state of each trial, in the order in which they began.
        self.progress: dict[int, tuple[int, TrialState]] = {}
        self.observations: dict[tuple[int, int, TrialState], Observation] = {}  # by number, epochs and state
        self.unfinished: list[int] = []  # trials that were left at what is no epoch of promotion any more
        self.until: dict[int, int | None] = {}  # epoch up to which each trial is trained before it is left

    def propose(self, left: Sequence[Curve]) -> Curve | None:
        if self.unfinished:
            number: int | None = self.unfinished.pop(0)
        else:
            number = self.promotions.next(lambda: self._begin(left), len(left))
        while self.promotions.given_up:
            hopeless, _ = self.promotions.given_up.popitem()
            self.ended(self.begun[hopeless], self.progress[hopeless][0], "pruned")
        if number is None:
            return None
        self.until[number] = self.promotions.next_epoch(self.progress[number][0])
        return self.begun[number]

    def _begin(self, left: Sequence[Curve]) -> int | None:
        """Begins the next new trial and returns its number; None if none is left."""
        curve = self.new(left)
        if curve is None:
            return None
        self.begun[curve.number], self.progress[curve.number] = curve, (0, TrialState.RUNNING)
        return curve.number

    def new(self, left: Sequence[Curve]) -> Curve | None:
        """The next new trial; None if none is left."""
        if self.space.settings.sampler == "random" or not left:
            return super().propose(left)
        seen = [self._observation(number, *progress) for number, progress in self.progress.items()]
        suggestion, _ = propose(self.space, seen, lambda values: ANY)
        return self.case.answers(left, suggestion.params)

    def decide(self, curve: Curve, epoch: int) -> Decision:
        row = curve.epochs[epoch - 1]
        if not self.is_measured:
            self._measure(row["cpu_seconds"])
        self.promotions.record(curve.number, row)
        self.progress[curve.number] = epoch, TrialState.RUNNING
        warmup = self.space.value("optimizer.warmup", curve.values)
        if self.rungs.verdict(curve.number, row, warmup) is not None:
            return "stop"
        if epoch != self.until[curve.number]:
            return "train"
        if not self.promotions.wait(curve.number, epoch):
            self.unfinished.append(curve.number)
        return "wait"

    def _measure(self, epoch_seconds: float) -> None:
        """Chooses the first promotion from the first epoch's time, as a sweep does."""
        self.is_measured = True
        first = self.space.settings.longer_promotion(self.case.start_seconds, epoch_seconds)
        if first is not None:
            self.space = replace(self.space, settings=self.space.settings.with_promotion(first))
        self.promotions = Promotions(self.space.settings, self.case.start_seconds / epoch_seconds)

    def ended(self, curve: Curve, epoch: int, outcome: Outcome) -> None:
        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self.progress[curve.number] = epoch, states.get(outcome, TrialState.RUNNING)
        if outcome == "complete":  # after a last epoch `decide` is not called
            self.promotions.record(curve.number, curve.epochs[-1])
        if outcome in ("pruned", "failed"):
            self.promotions.ended |= {curve.number}

    def _observation(self, number: int, epoch: int, state: TrialState) -> Observation:
        """Trial `number` as the sampler sees it."""
        if (number, epoch, state) not in self.observations:
            curve = self.begun[number]
            cers = {row["epoch"]: row["val_cer"] for row in curve.epochs[:epoch]}
            trial = optuna.create_trial(
                state=state,
                value=min(cers.values()) if state == TrialState.COMPLETE else None,
                params=dict(curve.values),
                distributions={key: self.distributions[key] for key in curve.values},
                intermediate_values=cers,
                user_attrs={f"epoch:{epoch}": "{}" for epoch in cers},  # rows, of which nothing else is needed
            )
            self.observations[number, epoch, state] = observe(trial, trial.params, self.space.settings.promotions)
        return self.observations[number, epoch, state]


class RandomAsha(Policy):
    """Random search with Ray's ASHAScheduler as it comes, told the length of a trial."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.scheduler = ASHAScheduler("epoch", "val_cer", "min", max_t=case.table.epochs)
        self.trials: dict[int, Trial] = {}

    def decide(self, curve: Curve, epoch: int) -> Decision:
        if curve.number not in self.trials:
            self.trials[curve.number] = Trial("replayed", stub=True)
            self.scheduler.on_trial_add(None, self.trials[curve.number])
        row = curve.epochs[epoch - 1]
        action = self.scheduler.on_trial_result(None, self.trials[curve.number], dict(row))
        return "train" if action == TrialScheduler.CONTINUE else "stop"


class OptunaTpe(Policy):
    """Optuna's TPESampler as it comes, with a pruner as it comes.

    Args:
        pruner: returns the pruner; default: none.
    """

    def __init__(self, case: Case, pruner: Callable[[], optuna.pruners.BasePruner] = optuna.pruners.NopPruner) -> None:
        super().__init__(case)
        self.space, self.distributions = case.table.space, distributions_of(case.table.space)
        sampler = optuna.samplers.TPESampler(seed=case.seed)
        # Hyperband assigns trials to brackets by the study's name and the trial's number.
        self.study = optuna.create_study(study_name=str(case.seed), sampler=sampler, pruner=pruner())
        self.trials: dict[int, optuna.Trial] = {}

    def propose(self, left: Sequence[Curve]) -> Curve | None:
        if not left:
            return None
        trial = self.study.ask()
        curve = self.case.answers(left, self.space.propose(trial))
        self.trials[curve.number] = trial
        self._answer(trial, curve)
        return curve

    def _answer(self, trial: optuna.Trial, curve: Curve) -> None:
        """Makes Optuna's running trial the configuration that answers it."""
        stored = self.study._storage.get_trial(trial._trial_id)  # in memory: the trial itself, not a copy
        stored.distributions = {key: self.distributions[key] for key in curve.values}
        stored.params = dict(curve.values)

    def decide(self, curve: Curve, epoch: int) -> Decision:
        trial = self.trials[curve.number]
        trial.report(curve.epochs[epoch - 1]["val_cer"], epoch)
        return "stop" if trial.should_prune() else "train"

    def ended(self, curve: Curve, epoch: int, outcome: Outcome) -> None:
        if outcome == "complete":
            self.study.tell(self.trials[curve.number], curve.best)
        else:
            state = TrialState.PRUNED if outcome == "pruned" else TrialState.FAIL
            self.study.tell(self.trials[curve.number], state=state)


class RayPair(OptunaTpe):
    """Ray's OptunaSearch and ASHAScheduler as they come.

    OptunaSearch (2.60) has Optuna's TPE with its defaults, and tells it each trial, stopped early or not, as complete
    with the last value it reported.
    """

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.asha = RandomAsha(case)

    def decide(self, curve: Curve, epoch: int) -> Decision:
        return self.asha.decide(curve, epoch)

    def ended(self, curve: Curve, epoch: int, outcome: Outcome) -> None:
        if outcome == "failed":
            self.study.tell(self.trials[curve.number], state=TrialState.FAIL)
        else:
            self.study.tell(self.trials[curve.number], curve.epochs[epoch - 1]["val_cer"])


@dataclass(frozen=True)
class Entry:
    """A policy of the comparison.

    Attributes:
        name: in full, for the table.
        make: returns the policy for a case.
        minds_starts: whether its decisions depend on `start_seconds`, even with one worker.
    """

    name: str
    make: Callable[[Case], Policy]
    minds_starts: bool = False


POLICIES: dict[str, Entry] = {
    OURS: Entry("the platform, a plain space", Ours, minds_starts=True),
    "rungs": Entry("rungs: no promotion, reduction 3", lambda case: Ours(case, promotion=None, reduction=3.0)),
    "ours_random": Entry("the same, random proposals", lambda case: Ours(case, sampler="random"), minds_starts=True),
    RAY: Entry("Ray: OptunaSearch + ASHAScheduler", RayPair),
    "tpe_hyperband": Entry(
        "Optuna: TPE + HyperbandPruner", lambda case: OptunaTpe(case, optuna.pruners.HyperbandPruner)
    ),
    "tpe_halving": Entry(
        "Optuna: TPE + SuccessiveHalvingPruner", lambda case: OptunaTpe(case, optuna.pruners.SuccessiveHalvingPruner)
    ),
    "random_asha": Entry("random + Ray's ASHAScheduler", RandomAsha),
    "random": Entry("random", Policy),
}
