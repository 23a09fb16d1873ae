"""How Ray (2.60) starts worker processes, which it documents nowhere, for those that are forked (`tuning/processes`).

`tests/compat/test_ray.py` fails when one of these names is gone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import ray.actor
from ray import ActorClassID
from ray._private import ray_constants
from ray._private.runtime_env.context import RuntimeEnvContext
from ray._private.workers import setup_worker

SETUP_WORKER = setup_worker.__file__
"""Program with which Ray starts a worker: it sets up the runtime environment, and becomes the worker."""

SYSTEM_CONFIG = {"prestart_worker_first_driver": False, "worker_register_timeout_seconds": 300}
"""System configuration of a cluster with forked workers. No processes wait for tasks, since they would belong to no job
yet. A worker may take 300 s to start (default 60), as the fork server's imports can on a busy machine."""

IDENTITY = ("RAY_JOB_ID", "RAY_RAYLET_PID")
"""Environment variables that Ray reads when it is imported, and never again."""

OWN_VARIABLES = ("RAY_", "TUNE_", "PL_")
"""Prefixes of the environment variables that Ray Tune and Ray Train set for workers; none matters to an import."""


@contextmanager
def set_up_workers_with(program: Path) -> Iterator[None]:
    """Makes a cluster that is started in the block start its workers with `program` instead of `SETUP_WORKER`.

    Ray has no option for it. It joins a folder and the name of its program, where an absolute path replaces the folder.
    """
    before, ray_constants.SETUP_WORKER_FILENAME = ray_constants.SETUP_WORKER_FILENAME, str(program)
    try:
        yield
    finally:
        ray_constants.SETUP_WORKER_FILENAME = before


class WorkerCommand(NamedTuple):
    """A worker's program with its arguments, and the environment variables of its runtime environment."""

    arguments: list[str]
    variables: Mapping[str, str]


def worker_command(setup: Sequence[str]) -> WorkerCommand | None:
    """The worker that `SETUP_WORKER` becomes with the arguments `setup`.

    None if it has to be a new process: it has another Python or a container, or variables that matter to imports.
    """
    arguments, command = setup_worker.parser.parse_known_args(setup)
    context = RuntimeEnvContext.deserialize(arguments.serialized_runtime_env_context or "{}")
    plain = RuntimeEnvContext(env_vars=context.env_vars)
    if arguments.language != "PYTHON" or context.serialize() != plain.serialize():
        return None
    if not all(name.startswith(OWN_VARIABLES) for name in context.env_vars):
        return None
    while command[0].startswith("-"):  # flags of Python, which are those of this process
        del command[0]
    return WorkerCommand(command, context.env_vars)


@contextmanager
def unseeded_imports() -> Iterator[None]:
    """Keeps Ray from seeding its generator of IDs while modules are imported in the block.

    Ray seeds it at its first use, which is for an actor class of an imported module, and never again. Forked processes
    would then give equal IDs to different objects, and wait for each other's objects forever.
    """

    class Unseeded:
        @staticmethod
        def from_random() -> ActorClassID:
            return ActorClassID(os.urandom(ActorClassID.size()))

    ray.actor.ActorClassID = Unseeded
    try:
        yield
    finally:
        ray.actor.ActorClassID = ActorClassID
