"""Notices that tell the workers of a trial to save a checkpoint and end: their node is about to be taken away, or the
sweep asks for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import ray

from asr_platform.compat.ray import draining_nodes, has_flag, set_flag

CHECK_INTERVAL = 2.0  # seconds
BEGUN = " has begun"  # after the name of a run: the flag of its workers


def give_notice(run: str) -> None:
    """Tells the workers of a trial to save a checkpoint and end.

    Args:
        run: name of the trial's run (Ray Tune's id), which no other run has.
    """
    set_flag(run)


def has_begun(run: str) -> bool:
    """Whether a worker of the run has begun to watch for notices, on whatever node; False if the head is away."""
    with suppress(Exception):
        return has_flag(run + BEGUN)
    return False


def watch(run: str, node: str) -> Callable[[], bool]:
    """Begins to watch for notices in a worker, and notes that; returns a function that tells whether there was one.

    Args:
        run: name of the trial's run.
        node: id of the node of the trial's own process, with which its workers end.
    """
    with suppress(Exception):
        set_flag(run + BEGUN)
    nodes, told = {node, ray.get_runtime_context().get_node_id()}, threading.Event()

    def check() -> None:
        while not told.is_set():
            with suppress(Exception):  # the head is away for a moment; one that is gone takes this worker along
                if has_flag(run) or not nodes.isdisjoint(draining_nodes()):
                    told.set()
            time.sleep(CHECK_INTERVAL)

    threading.Thread(target=check, name="notices", daemon=True).start()
    return told.is_set
