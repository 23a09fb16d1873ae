"""The nodes of a cluster on which a run of a sweep trains, followed as they join, fail their check, and leave.

A trial is told the nodes that may be used when it is proposed, as a label selector for its processes: so none of them
runs on a node that has not passed its check.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from asr_platform.compat.ray import ACCELERATOR_TYPE, NODE_ID, ask_autoscaler
from asr_platform.tuning.cluster import Cluster, Node, NoRoom, Options, Workers
from asr_platform.tuning.connection import present_nodes
from asr_platform.tuning.nodes.check import Check

LOOK_INTERVAL = 1.0  # seconds
PATIENCE = 30.0  # seconds of checks, after which it is said which nodes are being checked
REQUEST_INTERVAL = 60.0  # seconds between requests to an autoscaler, which forgets them after three minutes
SUSPICION = 25.0  # seconds until Ray knows that a node is lost, whose processes fail at once (15 to 25)


class Nodes:
    """The nodes that may be used: those that are there, have the accelerators asked for, and passed their check.

    A cluster that was started here has one node, which is not checked.

    Args:
        begin_check: begins the check of a node.
        say: prints a line for the user.

    Attributes:
        cluster: the cluster, with the nodes that may be used now.
        on_change: called with the number of trials that run at once whenever it has changed.
    """

    def __init__(
        self, cluster: Cluster, options: Options, begin_check: Callable[[Node], Check], say: Callable[[str], None]
    ) -> None:
        self.options, self.begin_check, self.say = options, begin_check, say
        self.cluster = replace(cluster, nodes=()) if cluster.joined else cluster
        self.on_change: Callable[[int], None] = lambda concurrency: None
        self.checks: dict[str, Check] = {}  # by ids of nodes
        self.left_out: dict[str, str] = {}  # what was said, by names of nodes
        self.losses: list[float] = []  # when nodes were lost or began to be taken away (time.monotonic)
        self.next_look = self.next_request = self.suspicious_until = 0.0
        self.said = ""  # what is waited for
        count = options.workers_per_trial or options.max_workers or options.min_workers or 1
        self.wish = Workers(count, 1, options.gpus_per_worker or 0.0)  # the most
        self._workers: Workers | None = None

    @property
    def workers(self) -> Workers:
        """Workers of each trial, of elastic ones the least, which `gather` has found out."""
        assert self._workers is not None
        return self._workers

    @property
    def noticed(self) -> bool:
        """Whether the workers of trials watch for notices."""
        return self.cluster.joined or self.options.elastic

    @property
    def concurrency(self) -> int:
        """Number of trials that run at once."""
        return self.cluster.concurrency(self.workers, self.options)

    def gather(self) -> None:
        """Waits until every node that is there has been checked, and a trial fits on those that passed.

        Raises:
            NoRoom: no trial fits on a cluster that was started here.
            InputError: `options` are wrong in themselves.
        """
        began = time.monotonic()
        while True:
            present = self._look()
            pending = [key for key, check in self.checks.items() if check.reason is None]
            if pending and time.monotonic() - began > PATIENCE:
                names = [node.name for node in present if node.id in pending]
                self._say_once(f"waiting for the check of node {', '.join(names)}")
            if not pending:
                try:
                    self._workers = self.cluster.workers(self.options)
                    return
                except NoRoom as error:
                    if not self.cluster.joined:
                        raise
                    kinds = sorted({node.accelerator for node in present if node.accelerator and not node.gone})
                    there = f" (there are {', '.join(kinds)})" if kinds and self.options.accelerator_type else ""
                    self._wait(f"{error.problem}{there}; waiting for nodes, Ctrl-C ends")
            time.sleep(LOOK_INTERVAL)

    def place(self, training: Sequence[int], beginning: Callable[[], int]) -> dict[str, Any] | None:
        """Settings of one more trial that say on which nodes it runs, and with which workers; None if there is no room.

        Args:
            training: number of workers of each trial in training.
            beginning: returns the number of trials that could begin now, this one included.
        """
        if self.cluster.joined and time.monotonic() >= self.next_look:
            self.next_look = time.monotonic() + LOOK_INTERVAL
            self._follow()
        if time.monotonic() < self.suspicious_until:
            return None
        workers = self.cluster.sized(self.workers, self.options, training, beginning)
        if workers is None:
            if not self.concurrency:
                self._wait(f"no node has room for a trial of {self.workers}: waiting for nodes")
            elif self.cluster.joined and time.monotonic() >= self.next_request and beginning():
                self._ask(len(training))
            return None
        self.said = ""
        ids = ",".join(node.id for node in self.cluster.nodes)
        return {
            "nodes": {NODE_ID: f"in({ids})"} if self.cluster.joined else None,
            "noticed": self.noticed,
            "workers": workers.count,
            "threads": workers.threads,
            "resources": workers.resources,
        }

    def grown(self, others: Sequence[int], own: int, beginning: Callable[[], int]) -> int:
        """Number of workers with which an elastic trial in training that has `own` would go on, at least `own`.

        Args:
            others: number of workers of each other trial in training.
            beginning: returns the number of trials that wait to begin or go on.
        """
        if time.monotonic() < self.suspicious_until:
            return own
        return self.cluster.grown(self.workers, self.options, others, own, beginning)

    def suspect(self) -> None:
        """Lets no trial begin until Ray would know if a node was lost, because a trial has lost a process."""
        if self.cluster.joined:
            self.suspicious_until = time.monotonic() + SUSPICION

    def lost_between(self, since: float, until: float) -> bool:
        """Whether a node was lost between two times (time.monotonic), or so soon after that it may be the reason."""
        return any(since <= when <= until + SUSPICION for when in self.losses)

    def _follow(self) -> None:
        """Looks at the nodes while the sweep runs, and says what has changed."""
        before, known = self.concurrency, {node.id: node for node in self.cluster.nodes}
        present = {node.id: node for node in self._look()}
        used = {node.id: node.name for node in self.cluster.nodes}
        now = f"{self.concurrency} trials at once now"
        for node in known.values():
            if node.id not in used:
                self.losses.append(time.monotonic())
                self.suspicious_until = 0.0
                how = present[node.id].gone if node.id in present else "is lost"
                self.say(f"node {node.name} {how}: its trials go on elsewhere from their checkpoints; {now}")
        if joined := [name for key, name in used.items() if key not in known]:
            self.next_request = 0.0
            self.say(f"joined by node {', '.join(joined)}: {now}")
        if self.concurrency != before:
            self.on_change(self.concurrency)

    def _look(self) -> list[Node]:
        """Reads the nodes and the results of checks; returns all nodes, those that have gone included."""
        if not self.cluster.joined:
            return [*self.cluster.nodes]
        present = present_nodes()
        self.cluster = replace(self.cluster, nodes=[node for node in present if self._may_be_used(node)])
        return present

    def _may_be_used(self, node: Node) -> bool:
        """Whether a node is there and has passed its check, which begins when it is first seen."""
        wanted = self.options.accelerator_type
        if node.gone or node.cpus < 1 or (wanted and node.accelerator != wanted):
            return False
        check = self.checks.get(node.id)
        if check is None or (check.reason and time.monotonic() - check.began > check.recheck_after):
            check = self.checks[node.id] = self.begin_check(node)
        if check.reason and node.name not in self.left_out:
            self.left_out[node.name] = f"node {node.name} is left out: {check.reason}"
            self.say(self.left_out[node.name])
        return check.reason == ""

    def _wait(self, reason: str) -> None:
        """Says once what is waited for, and asks an autoscaler, if there is one, for it."""
        self._say_once(reason)
        self._ask(0)

    def _say_once(self, reason: str) -> None:
        if reason != self.said:
            self.say(reason)
            self.said = reason

    def _ask(self, training: int) -> None:
        """Asks an autoscaler, if there is one, for a cluster with room for more trials than those in training.

        That is for all that may run at once, or by default for one more: Ray's autoscaler does nothing for a cluster
        that is larger than it may be, and tells nobody how large that is.
        """
        trials = self.options.max_concurrent or training + 1
        if time.monotonic() < self.next_request or training >= trials:
            return
        self.next_request = time.monotonic() + REQUEST_INTERVAL
        wanted = self.options.accelerator_type
        known = self._workers or self.wish
        workers = replace(known, count=max(known.count, self.wish.count))
        ask_autoscaler(trials * workers.count, workers.resources, {ACCELERATOR_TYPE: wanted} if wanted else {})
