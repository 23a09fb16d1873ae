"""What `compat/ray.py` and `compat/environment.py` name is there in the installed Ray."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray._private import node, ray_constants, state, worker
from ray._private.runtime_env.context import RuntimeEnvContext
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import _AutoscalingCoordinatorActor
from ray.exceptions import RayTaskError
from ray.experimental import internal_kv
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group.state import WorkerGroupState
from ray.train.v2._internal.execution.worker_group.worker import RayTrainWorker

from asr_platform.compat import environment, ray_workers
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
    assert compat.NODE_ID == ray._raylet.RAY_NODE_ID_KEY
    assert compat.ACCELERATOR_TYPE == ray._raylet.RAY_NODE_ACCELERATOR_TYPE_KEY
    assert callable(state.state.get_draining_nodes)
    assert callable(internal_kv._internal_kv_put) and callable(internal_kv._internal_kv_exists)
    made = inspect.getsource(compat.single_worker_trainer()._create_default_callbacks)
    assert "PlacementGroupCleanerCallback()" in made and "DatasetsCallback(" in made
    begun = inspect.getsource(RayTrainWorker.init_train_context)
    assert 'dataset_shard_provider: Optional["DatasetShardProvider"] = None' in begun
    assert callable(WorkerGroupCallback.after_worker_group_start)
    assert WorkerGroupState.__dataclass_fields__["placement_group_handle"]
    taken = inspect.signature(_AutoscalingCoordinatorActor.request_resources).parameters
    assert {"requester_id", "resources", "label_selectors", "expire_after_s"} <= {*taken}


def test_a_program_takes_the_place_of_rays_own() -> None:
    """Ray joins its folder and the program's name, and drops a program of its own name where nothing is to set up."""
    own = Path(ray_workers.SETUP_WORKER)
    joined = 'os.path.dirname(os.path.abspath(__file__)),\n                "workers",\n'
    assert joined + "                ray_constants.SETUP_WORKER_FILENAME" in inspect.getsource(node)
    assert own.name == ray_constants.SETUP_WORKER_FILENAME
    with ray_workers.set_up_workers_with(Path("/folder/program.py")):
        assert str(own.parent / ray_constants.SETUP_WORKER_FILENAME) == "/folder/program.py"
    assert own.name == ray_constants.SETUP_WORKER_FILENAME


def setup(**context: Any) -> list[str]:
    """Arguments with which Ray calls its program to start a worker."""
    worker = ["-s", "default_worker.py", "--worker-id=1"]
    return [
        *worker,
        "--language=PYTHON",
        f"--serialized-runtime-env-context={RuntimeEnvContext(**context).serialize()}",
    ]


def test_a_worker_without_a_runtime_environment_of_its_own_is_taken_out_of_rays_arguments() -> None:
    variables = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1"}
    assert ray_workers.worker_command(setup(env_vars=variables)) == (["default_worker.py", "--worker-id=1"], variables)


@pytest.mark.parametrize(
    "context",
    [{"env_vars": {"PYTHONPATH": "/x"}}, {"py_executable": "uv run"}, {"command_prefix": ["cd", "/x", "&&"]}],
)
def test_a_worker_with_a_runtime_environment_of_its_own_is_not(context: dict[str, Any]) -> None:
    assert ray_workers.worker_command(setup(**context)) is None


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
