"""The reason of a failure, in one line, from the errors and files that Ray leaves of a trial."""

from __future__ import annotations

import pickle
from pathlib import Path

from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

from asr_platform.study.failures import LONGEST_REASON, UNKNOWN, diagnose
from asr_platform.tuning.loop.failure_reasons import reason_in, reason_of
from trainables.errors import DivergedError, InputError


def died(detail: str) -> ActorDiedError:
    """As Ray 2.60 tells of a worker that is gone."""
    error = ActorDiedError()
    error.error_msg = f"{ActorDiedError.BASE_ERROR_MSG}\n\tclass_name: RayTrainWorker\n\tactor_id: 88f\n{detail}"
    return error


def unhealthy(error: Exception) -> WorkerHealthCheckFailedError:
    return WorkerHealthCheckFailedError("A worker health check failed.", error)


def of_workers(*errors: Exception) -> RayTaskError:
    """As Tune leaves it of a trial whose workers failed so."""
    group = WorkerGroupError("...", dict(enumerate(errors)))
    return RayTaskError("run_trial", "Traceback ...", group, pid=1, ip="127.0.0.1")


def test_the_error_is_found_in_the_layers_around_it() -> None:
    diverged = DivergedError("the train_loss became nan")
    assert reason_of(diverged) == "DivergedError: the train_loss became nan"
    assert reason_of(of_workers(diverged)) == "DivergedError: the train_loss became nan"
    assert reason_of(of_workers(UserExceptionWithTraceback(diverged, "Traceback"))) == reason_of(diverged)
    assert reason_of(of_workers(InputError("a file", "mend it"))) == "InputError: a file mend it"
    assert reason_of(ControllerError(NodeDiedError("gone"))) == "NodeDiedError: gone"
    lost = reason_of(of_workers(unhealthy(died("The actor died because its node has died."))))
    assert lost.startswith("ActorDiedError: ") and diagnose(lost) == diagnose("NodeDiedError: gone")


def test_of_several_workers_the_one_that_says_most_counts() -> None:
    """One ran out of memory; the others lost touch with it, or never noticed."""
    torn, full = RuntimeError("Connection closed by peer"), OutOfMemoryError("the node running low on memory")
    assert reason_of(of_workers(torn, unhealthy(full), torn)) == "OutOfMemoryError: the node running low on memory"
    assert reason_of(of_workers(torn, ValueError("another"))) == "RuntimeError: Connection closed by peer"
    killed = died("worker process was killed")
    assert reason_of(of_workers(unhealthy(killed), MemoryError())) == "MemoryError: "


def test_what_is_on_record_is_one_line_of_bounded_length(tmp_path: Path) -> None:
    path = tmp_path / "error.pkl"
    path.write_bytes(pickle.dumps(of_workers(RuntimeError("a\n  long\tstory " * 100))))
    reason = reason_in(str(path), None)
    assert reason.startswith("RuntimeError: a long story a long") and len(reason) == LONGEST_REASON
    path.write_bytes(b"no pickle")
    assert reason_in(str(path), None) == reason_in(None, str(tmp_path / "absent")) == UNKNOWN


def test_an_error_that_tune_has_only_printed(tmp_path: Path) -> None:
    """Tune pickles errors of tasks and of dead actors, and no others, such as this one of Ray's memory monitor."""
    text = tmp_path / "error.txt"
    killed = "1 worker(s) were killed due to the node running low on memory. Memory on the node\n  (IP: 127.0.0.1)\n"
    text.write_text(f"Failure # 1 (occurred at 2026-11-21_23-02-37)\n{killed}")
    reason = reason_in(None, str(text))
    assert reason == " ".join(killed.split())
    cause = diagnose(reason)
    assert cause is not None and "Ray ended a worker" in cause.words
    text.write_text("Failure # 1\n\x1b[36mray::run()\x1b[39m (pid=1)\n  File 'a'\nValueError: no such tokens\n")
    assert reason_in(None, str(text)) == "ValueError: no such tokens"
    text.write_text("")
    assert reason_in(None, str(text)) == UNKNOWN
