"""The placement groups of a cluster, in which Ray reserves resources: frees those that nothing uses any more, and tells
which trials wait for one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Self

import ray
import requests
from ray.util.state import list_actors, list_jobs, list_placement_groups
from ray.util.state.exception import RayStateApiException

from asr_platform.compat.ray import free_placement_group

CHECK_INTERVAL = 5.0  # seconds
CHECKS_BEFORE_REMOVAL = 6  # of a group that never had a living actor: its first may take long to begin
MOST_FAILURES = 12  # checks in a row that may fail before that is said
LIVING = ("ALIVE", "PENDING_CREATION", "DEPENDENCIES_UNREADY", "RESTARTING")  # states of actors but DEAD
PATIENCE = 30.0  # seconds for which a placement group waits for room before that is said
STATE_API = {"limit": 10_000, "timeout": 5}  # most entries in an answer; seconds


class PlacementGroupKeeper:
    """Checks the placement groups for as long as its block lasts, in a thread.

    A trial frees its placement group when it ends (`tuning/trial.py`), unless its process was killed. So one of this
    job is removed that had living actors and has none, or had none for half a minute, and one of a driver that was
    killed at once: else the next trial may wait forever.

    Args:
        dashboard: address of the cluster's dashboard.
        waiting_trials: lines on the trials whose workers have not begun (`Watch.waiting`).
        say: prints a line for the user.
    """

    def __init__(self, dashboard: str, waiting_trials: Callable[[], Sequence[str]], say: Callable[[str], None]) -> None:
        self.dashboard, self.waiting_trials, self.say = dashboard, waiting_trials, say
        self.job = ray.get_runtime_context().get_job_id()
        self.idle_checks: dict[str, int] = {}
        self.used: set[str] = set()  # groups that had living actors
        self.failures = 0  # checks in a row that failed
        self.waiting: dict[str, float] = {}  # since when placement groups have been waiting (time.monotonic)
        self.said: list[str] = []  # on the trials that wait
        self._done = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="placement groups", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()

    def _run(self) -> None:
        while not self._done.wait(CHECK_INTERVAL):
            self.check()

    def check(self) -> None:
        """Removes the groups that nothing uses any more, and says which trials wait."""
        try:
            groups = list_placement_groups(
                self.dashboard, filters=[("state", "!=", "REMOVED")], detail=True, **STATE_API
            )
            used = {actor.placement_group_id for state in LIVING for actor in self._actors(state)}
            jobs = list_jobs(self.dashboard, detail=True, **STATE_API)
        except (RayStateApiException, requests.RequestException, ConnectionError, RuntimeError, ValueError) as error:
            self.failures += 1  # the dashboard is busy: the next check is soon
            if self.failures == MOST_FAILURES:
                self.say(
                    f"Ray's dashboard at {self.dashboard} does not answer this machine ({type(error).__name__}): what "
                    "killed trials had reserved is not freed; ray start --head --dashboard-host 0.0.0.0 opens it"
                )
            return
        self.failures = 0
        own = {group.placement_group_id: group.state for group in groups if group.creator_job_id == self.job}
        created = {group for group, state in own.items() if state == "CREATED"}
        self.idle_checks = {group: self.idle_checks.get(group, 0) + 1 for group in created - used}
        idle = [
            group for group, checks in self.idle_checks.items() if checks >= CHECKS_BEFORE_REMOVAL or group in self.used
        ]
        self.used = (self.used | used) & own.keys()
        for group in [*idle, *abandoned(groups, used, jobs)]:
            free_placement_group(group)
        self._tell_waiting([group for group, state in own.items() if state != "CREATED"])

    def _actors(self, state: str) -> list[Any]:
        """All actors in a state; Ray looks for equal states before it counts how many it may list."""
        return list(list_actors(self.dashboard, filters=[("state", "=", state)], detail=True, **STATE_API))

    def _tell_waiting(self, groups: Collection[str]) -> None:
        """Says which trials have been waiting for longer than `PATIENCE`, once each time that they wait."""
        now = time.monotonic()
        self.waiting = {group: self.waiting.get(group, now) for group in groups}
        if not any(now - since > PATIENCE for since in self.waiting.values()):
            self.said = [] if not groups else self.said
            return
        lines = self.waiting_trials()
        for line in lines:
            if line not in self.said:
                self.say(line)
        self.said = [*lines]


def abandoned(groups: Sequence[Any], used: Collection[str], jobs: Sequence[Any]) -> list[str]:
    """Ids of the placement groups that drivers have left behind which were killed.

    Args:
        groups: placement groups, as Ray's state API lists them.
        used: ids of those that have living actors.
        jobs: jobs, as Ray's state API lists them.
    """
    ended = {job.job_id for job in jobs if job.status not in ("PENDING", "RUNNING")}
    return [
        group.placement_group_id
        for group in groups
        if group.creator_job_id in ended and not group.is_detached and group.placement_group_id not in used
    ]
