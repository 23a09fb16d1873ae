"""The nodes of a cluster as they come and go, and what Ray reserves on them."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from command import unused_port

from asr_platform.compat.ray import NODE_ID
from asr_platform.tuning.cluster import Cluster, Node, NoRoom, Options
from asr_platform.tuning.nodes import groups, membership
from asr_platform.tuning.nodes.check import RECHECK_AFTER
from asr_platform.tuning.nodes.groups import abandoned
from asr_platform.tuning.nodes.membership import Nodes


class Check:
    """A check whose result is known."""

    def __init__(self, reason: str | None) -> None:
        self.reason, self.began, self.recheck_after = reason, time.monotonic(), RECHECK_AFTER


class Joined:
    """Nodes of a joined cluster, whose list and checks are given."""

    def __init__(self, patch: pytest.MonkeyPatch, *nodes: Node, **options: Any) -> None:
        self.present, self.reasons, self.said = [*nodes], dict[str, str | None](), list[str]()
        self.asked: list[tuple[int, Any]] = []
        patch.setattr(membership, "present_nodes", lambda: self.present)
        patch.setattr(membership, "ask_autoscaler", lambda count, *wish: self.asked.append((count, wish)))
        patch.setattr(membership, "LOOK_INTERVAL", 0.0)
        self.nodes = Nodes(Cluster((), joined=True), Options(**options), self.check, self.said.append)

    def check(self, node: Node) -> Any:
        return Check(self.reasons.get(node.id, ""))

    def place(self, training: int) -> Any:
        """Where one more trial runs, beside so many of one worker each."""
        place = self.nodes.place([1] * training, lambda: 1)
        return place and place["nodes"][NODE_ID]

    def change(self, number: int, **fields: Any) -> None:
        self.present[number] = replace(self.present[number], **fields)


ONE, TWO, HEAD = (Node(1.0, id=name, name=name) for name in ("one", "two", "head"))


def test_nodes_are_used_while_they_are_there_and_have_passed_their_check(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Joined(monkeypatch, replace(HEAD, cpus=0.0), ONE, TWO)
    there.reasons["two"] = "it cannot read the corpus"
    there.nodes.gather()
    assert there.said == ["node two is left out: it cannot read the corpus"]
    assert there.place(0) == "in(one)" and there.place(1) is None
    changes: list[int] = []
    there.nodes.on_change = changes.append
    there.present.append(Node(2.0, id="three", name="three"))
    assert there.place(1) == "in(one,three)" and there.place(3) is None
    before = time.monotonic()
    there.change(1, gone="is lost (no heartbeat)")
    assert there.place(0) == "in(three)" and there.place(2) is None
    assert there.nodes.lost_between(before - 9, before) and not there.nodes.lost_between(before + 9, before + 10)
    there.change(3, gone="is about to be taken away")
    assert there.place(0) is None and there.place(0) is None
    assert there.said[1:] == [
        "joined by node three: 3 trials at once now",
        "node one is lost (no heartbeat): its trials go on elsewhere from their checkpoints; 2 trials at once now",
        "node three is about to be taken away: its trials go on elsewhere from their checkpoints; 0 trials at once now",
        "no node has room for a trial of 1 worker of 1 CPU: waiting for nodes",
    ]
    assert changes == [3, 2, 0]
    one = {"CPU": 1.0}, {}
    assert there.asked == [(2, one), (4, one)], "an autoscaler is asked for one more, once a minute and as nodes join"


def test_no_more_nodes_are_asked_for_than_trials_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Joined(monkeypatch, ONE)
    there.nodes.gather()
    assert there.nodes.place([1], lambda: 0) is None and there.asked == []
    alone = Nodes(Cluster([ONE]), Options(), lambda node: pytest.fail("checked"), print)
    alone.gather()
    assert alone.place([1], lambda: 5) is None and there.asked == [], "a cluster that was started here never grows"
    capped = Joined(monkeypatch, ONE, max_concurrent=3)
    capped.nodes.gather()
    assert capped.place(1) is None and [count for count, _ in capped.asked] == [3], "the whole cluster, not the rest"


def test_a_node_whose_folders_come_late_is_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Joined(monkeypatch, ONE, TWO)
    there.reasons["two"] = "it cannot use the home"
    there.nodes.gather()
    there.reasons.clear()
    assert there.place(1) is None
    there.nodes.checks["two"].began -= 2 * RECHECK_AFTER
    assert there.place(1) is not None
    assert there.said[1:] == ["joined by node two: 2 trials at once now"]


def test_a_node_that_is_still_being_checked_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first trial, which else might not find the room that it asks for."""
    there = Joined(monkeypatch, ONE, TWO, workers_per_trial=2)
    checks = [Check(""), Check(None)]
    there.nodes.begin_check = lambda node: checks[node.id == "two"]  # type: ignore[assignment, return-value]
    monkeypatch.setattr(time, "sleep", lambda seconds: setattr(checks[1], "reason", ""))
    there.nodes.gather()
    assert there.nodes.concurrency == 1 and not there.said
    checks[1].reason = None
    monkeypatch.setattr(membership, "PATIENCE", 0.0)
    there.nodes.gather()
    assert there.said == ["waiting for the check of node two"]


def test_gpus_that_are_to_come_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Joined(monkeypatch, ONE, gpus_per_worker=1.0, accelerator_type="A100", max_concurrent=4)

    def comes(seconds: float) -> None:
        kinds = {"H100": "three", "A100": "four"}
        there.present += [Node(8.0, 2.0, kind, name, name) for kind, name in kinds.items()]

    monkeypatch.setattr(time, "sleep", comes)
    there.nodes.gather()
    assert there.said == [
        "a trial of 1 worker of 1 CPU and 1 GPU does not fit on the cluster: no nodes with A100; "
        "waiting for nodes, Ctrl-C ends"
    ]
    assert there.asked == [(4, ({"CPU": 1.0, "GPU": 1.0}, {"ray.io/accelerator-type": "A100"}))]
    assert there.place(0) == "in(four)" and there.place(2) is None


def test_a_machine_that_is_too_small_is_an_error_at_once() -> None:
    nodes = Nodes(Cluster([ONE]), Options(workers_per_trial=2), lambda node: pytest.fail("checked"), print)
    with pytest.raises(NoRoom):
        nodes.gather()


def test_a_dashboard_that_stays_silent_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups.ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "job"))
    said = list[str]()
    keeper = groups.PlacementGroupKeeper(f"http://127.0.0.1:{unused_port()}", list, said.append)
    for _ in range(2 * groups.MOST_FAILURES):
        keeper.check()
    assert len(said) == 1 and "does not answer this machine" in said[0] and "--dashboard-host" in said[0]


def test_groups_of_killed_drivers_are_found() -> None:
    jobs = [SimpleNamespace(job_id="dead", status="SUCCEEDED"), SimpleNamespace(job_id="alive", status="RUNNING")]
    groups = [
        SimpleNamespace(placement_group_id=name, creator_job_id=job, is_detached=detached)
        for name, job, detached in (
            ("left", "dead", False), ("used", "dead", False), ("kept", "dead", True), ("own", "alive", False),
        )
    ]  # fmt: skip
    assert abandoned(groups, {"used"}, jobs) == ["left"]
