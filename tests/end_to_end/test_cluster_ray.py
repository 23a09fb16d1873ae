"""What needs a running Ray cluster, and little else."""

from __future__ import annotations

import socket
import time
from urllib.parse import urlsplit

import pytest
import ray
from ray.util.placement_group import placement_group

from asr_platform.compat.ray import free_placement_group
from asr_platform.tuning import connection
from asr_platform.tuning.nodes.groups import PlacementGroupKeeper


def test_placement_groups_without_actors_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(connection.DASHBOARD_HOST, "0.0.0.0")
    with connection.connect(None) as machine:
        port = urlsplit(machine.dashboard).port
        with socket.create_connection(("127.0.0.2", port), timeout=60):
            pass  # by default it listens on 127.0.0.1 alone, as the sweeps of other tests say
        orphan, used = placement_group([{"CPU": 0.1}]), placement_group([{"CPU": 0.1}])
        ray.get([orphan.ready(), used.ready()])

        @ray.remote(num_cpus=0.1)
        class Tenant:
            def ready(self) -> bool:
                return True

        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(used)
        tenant = Tenant.options(scheduling_strategy=strategy).remote()
        assert ray.get(tenant.ready.remote())
        cleaner = PlacementGroupKeeper(machine.dashboard, list, print)
        deadline = time.monotonic() + 60
        while (states := _states())[orphan.id.hex()] != "REMOVED":
            assert time.monotonic() < deadline, states
            cleaner.check()
        assert _states()[used.id.hex()] == "CREATED"
        ray.kill(tenant)
        while (states := _states())[used.id.hex()] != "REMOVED":  # at the first check that knows of its actor's end
            assert time.monotonic() < deadline, states
            cleaner.check()
            assert cleaner.idle_checks.get(used.id.hex(), 0) <= 1
        free_placement_group(used.id.hex())  # a second time is no error
        connection.check_address(ray.get_runtime_context().gcs_address)  # Ray's head is told from other servers


def _states() -> dict[str, str]:
    return {key: group["state"] for key, group in ray.util.placement_group_table().items()}
