"""Replays a search on recorded learning curves: what a cluster would have done, in simulated seconds.

The table stands in for the training. A trial starts, which takes some seconds, and then its recorded epochs pass at
their recorded cost, until the policy stops it or lets it wait. Workers train side by side, one trial each.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from answers import Answers, RandomDraw
from curve_tables import Curve, Table

Decision = Literal["train", "stop", "wait"]
Outcome = Literal["complete", "pruned", "waiting", "failed"]
OUTCOMES: dict[Decision, Outcome] = {"stop": "pruned", "wait": "waiting"}


@dataclass(frozen=True)
class Case:
    """Task of a policy: the table that it searches, and the simulated cluster.

    Attributes:
        table: the configurations of this sweep, each of which can be tried once.
        answers: gives the configuration that answers a proposal.
        seed: seed of the policy's random choices.
        workers: number of trials that train at the same time.
        start_seconds: time from the decision to start a new trial to its first update.
        promoted_start: the same for a trial that goes on after it has waited.
    """

    table: Table
    answers: Answers
    seed: int
    workers: int = 1
    start_seconds: float = 0.0
    promoted_start: float = 0.0


class Policy:
    """Proposes trials and decides about them. As it stands it is random search, every trial trained to its end."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.draw = RandomDraw(case.seed)

    def propose(self, left: Sequence[Curve]) -> Curve | None:
        """The next trial: one of those `left`, or one that waits; None if there is none."""
        return self.case.answers(left, self.case.table.space.propose(self.draw)) if left else None

    def decide(self, curve: Curve, epoch: int) -> Decision:
        """Decision about a trial that has just finished `epoch` (from 1), which is not its last."""
        return "train"

    def ended(self, curve: Curve, epoch: int, outcome: Outcome) -> None:
        """Called whenever a worker leaves a trial, which has finished `epoch` epochs."""


class Point(NamedTuple):
    """A moment of a search.

    Attributes:
        seconds: on the clock, since the search began.
        training: of these, without starts; both of one worker only.
        new, promoted: number of starts so far, of new trials and of waiting ones.
        best: lowest CER so far.
    """

    seconds: float
    training: float
    new: int
    promoted: int
    best: float


@dataclass(frozen=True)
class Run:
    """One search.

    Attributes:
        points: the moments at which the lowest CER fell.
        end: the end: no trial is left, or the target is reached.
        best_stopped: whether a configuration was stopped that would have reached the target, which is the lowest CER of
            all if no other is given.
    """

    points: Sequence[Point]
    end: Point
    best_stopped: bool

    def seconds_to(self, cer: float) -> float:
        """Seconds until a CER is reached; infinite if it never is."""
        return next((point.seconds for point in self.points if point.best <= cer), math.inf)

    def best_after(self, seconds: float) -> float:
        """Lowest CER after so many seconds; infinite before the first epoch."""
        return min((point.best for point in self.points if point.seconds <= seconds), default=math.inf)

    def with_starts(self, start_seconds: float, promoted_start: float) -> Run:
        """Copy of a run of one worker with other seconds for starts, which change neither order nor decisions."""

        def timed(point: Point) -> Point:
            starts = point.new * start_seconds + point.promoted * promoted_start
            return point._replace(seconds=point.training + starts)

        return replace(self, points=[timed(point) for point in self.points], end=timed(self.end))


def replay(case: Case, policy: Policy, target: float = -math.inf) -> Run:
    """Runs a policy until no trial is left, or until the lowest CER is at most `target`."""
    return _Cluster(case, policy).run(target)


class _Cluster:
    def __init__(self, case: Case, policy: Policy) -> None:
        self.case, self.policy = case, policy
        self.left = list(case.table.curves)
        self.done: dict[int, int] = {}  # finished epochs of the trials that were started, by number
        self.stopped: list[Curve] = []
        self.busy: list[tuple[float, int, Curve, float]] = []  # when an epoch ends, ties, of what, seconds it takes
        self.now, self.training, self.new, self.promoted, self.best = 0.0, 0.0, 0, 0, math.inf

    def run(self, target: float) -> Run:
        points = []
        while self.best > target and self._fill():
            self.now, _, curve, seconds = heapq.heappop(self.busy)
            if self._finish(curve, seconds):
                points.append(self._point())
        if self.best > target:  # nothing continues: trials that wait are as good as stopped
            self.stopped += [
                curve for curve in self.case.table.curves if 0 < self.done.get(curve.number, 0) < len(curve.epochs)
            ]
        goal = max(target, self.case.table.best)
        return Run(points, self._point(), any(curve.best <= goal for curve in self.stopped))

    def _fill(self) -> bool:
        """Gives every free worker a trial, if there is one; returns whether any worker has one."""
        while len(self.busy) < self.case.workers and (curve := self.policy.propose(self.left)) is not None:
            is_new = curve.number not in self.done
            if is_new:
                self.left = [other for other in self.left if other.number != curve.number]
                self.done[curve.number] = 0
            self.new, self.promoted = self.new + is_new, self.promoted + (not is_new)
            self._train(curve, self.case.start_seconds if is_new else self.case.promoted_start)
        return bool(self.busy)

    def _train(self, curve: Curve, start: float = 0.0) -> None:
        """Begins a trial's next epoch; one that diverges in it fails at once, whatever the policy."""
        epoch = self.done[curve.number]
        seconds = curve.epochs[epoch]["cpu_seconds"] if epoch < len(curve.epochs) else 0.0
        heapq.heappush(self.busy, (self.now + start + seconds, curve.number, curve, seconds))

    def _finish(self, curve: Curve, seconds: float) -> bool:
        """Ends a trial's epoch; returns whether it has the lowest CER so far."""
        if self.done[curve.number] == len(curve.epochs):
            self._leave(curve, "failed")
            return False
        self.done[curve.number] += 1
        epoch, cer = self.done[curve.number], curve.epochs[self.done[curve.number] - 1]["val_cer"]
        is_better, self.best, self.training = cer < self.best, min(cer, self.best), self.training + seconds
        if epoch == self.case.table.epochs:
            self._leave(curve, "complete")
        elif (decision := self.policy.decide(curve, epoch)) == "train":
            self._train(curve)
        else:
            self._leave(curve, OUTCOMES[decision])
        return bool(is_better)

    def _leave(self, curve: Curve, outcome: Outcome) -> None:
        if outcome == "pruned":
            self.stopped.append(curve)
        self.policy.ended(curve, self.done[curve.number], outcome)

    def _point(self) -> Point:
        return Point(self.now, self.training, self.new, self.promoted, self.best)
