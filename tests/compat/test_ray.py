"""What `compat/ray.py` and `compat/environment.py` name is there in the installed Ray."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path

import pytest
import ray
import ray.train
from ray._private import ray_constants, worker
from ray.exceptions import RayTaskError

from asr_platform.compat import environment
from asr_platform.compat import ray as compat

OF_RAY = sorted(name for name in environment.ENVIRONMENT if name.startswith(("RAY_", "TUNE_")))


@cache
def sources() -> str:
    """Text of all modules of the installed Ray that read settings."""
    folder = Path(ray.__file__).parent
    rooms = [folder / name for name in ("_common", "air", "train", "tune")]
    return "\n".join(path.read_text(encoding="utf-8") for room in rooms for path in room.rglob("*.py"))


@pytest.mark.parametrize("name", OF_RAY)
def test_an_environment_variable_is_read(name: str) -> None:
    assert f'"{name}"' in sources()


def test_names_are_there() -> None:
    assert worker._worker_logs_enabled in (True, False)
    assert "_worker_logs_enabled" in inspect.getsource(worker.print_worker_logs)
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool)
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR.startswith("RAY_")
    assert all(f'"{name}"' in inspect.getsource(ray.init) for name in compat.LOOPBACK_OPTIONS)
    assert compat.CHECKPOINT_LIST.endswith(".json")
    assert compat.default_cpus() >= 1
    assert callable(compat.single_worker_trainer().fit)


def test_errors_are_found_inside_their_wrappers() -> None:
    """As Ray Train wraps the error of each worker, and Ray Tune the trainer's."""
    own, other = ValueError("own"), OSError("other")
    workers = ray.train.WorkerGroupError("two failed", worker_failures={1: other, 0: own})
    controller = ray.train.ControllerError(workers)
    task = RayTaskError("step", "traceback", controller).as_instanceof_cause()
    assert list(compat.root_errors(controller)) == [own, other]
    assert list(compat.root_errors(workers)) == [own, other]
    assert [str(root) for root in compat.root_errors(task)] == ["own", "other"]
    assert list(compat.root_errors(own)) == [own]


@pytest.mark.parametrize("name", compat.INNER_ERRORS)
def test_an_inner_error_is_named_by_ray(name: str) -> None:
    exceptions = Path(ray.__file__).parent / "exceptions.py"
    assert f"self.{name}" in sources() + exceptions.read_text(encoding="utf-8")
