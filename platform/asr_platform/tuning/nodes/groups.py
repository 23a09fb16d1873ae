"""Frees resources that Ray has left reserved, and finds trials that wait for resources."""

from __future__ import annotations

import threading
from typing import Self

import ray
import requests
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.state import list_actors, list_placement_groups
from ray.util.state.exception import RayStateApiException

CHECK_INTERVAL = 5.0  # seconds
CHECKS_BEFORE_REMOVAL = 6
STATE_API = {"limit": 10_000, "timeout": 5}  # most entries in an answer; seconds


class PlacementGroupCleaner:
    """Removes placement groups of stopped trials for as long as its block lasts, in a thread.

    In Ray Train (2.60), a process of each trial should do so, but ends at the first failed call; then the next trial
    may wait forever. A placement group of this job is removed if it has no living actor for half a minute.

    Args:
        dashboard: address of the cluster's dashboard.
    """

    def __init__(self, dashboard: str) -> None:
        self.dashboard = dashboard
        self.job = ray.get_runtime_context().get_job_id()
        self.idle_checks: dict[str, int] = {}
        self._done = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="placement group cleaner", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()

    def _run(self) -> None:
        while not self._done.wait(CHECK_INTERVAL):
            self.check()

    def check(self) -> None:
        """Removes the placement groups that had no living actors at enough checks in a row, this one included."""
        try:
            groups = list_placement_groups(self.dashboard, filters=[("state", "=", "CREATED")], **STATE_API)
            actors = list_actors(self.dashboard, filters=[("state", "!=", "DEAD")], detail=True, **STATE_API)
        except (RayStateApiException, requests.RequestException, ConnectionError, RuntimeError, ValueError):
            return  # the dashboard is busy: the next check is soon
        used = {actor.placement_group_id for actor in actors}
        own = {group.placement_group_id for group in groups if group.creator_job_id == self.job}
        self.idle_checks = {group: self.idle_checks.get(group, 0) + 1 for group in own - used}
        for group, checks in self.idle_checks.items():
            if checks >= CHECKS_BEFORE_REMOVAL:
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
