"""Why a trial failed: found in Ray's layers, told in words from the one line on record."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import records
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

from asr_platform.study.failures import (
    KNOWN,
    LONGEST_REASON,
    UNKNOWN,
    Streak,
    blame,
    diagnose,
    explained,
    reason_in,
    reason_of,
)
from asr_platform.study.ledger import TrialRecord, TrialStatus
from trainables.errors import DivergedError, InputError

REASONS = {
    "GPU": [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.81 GiB",
        "RuntimeError: CUDA error: out of memory CUDA kernel errors might be asynchronously reported",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
    "memory: that of the machine": [
        "MemoryError: ",
        "_ArrayMemoryError: Unable to allocate 7.28 TiB for an array with shape (1000000, 1000000)",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 12800000000000 bytes. Error code 12 (Cannot allocate memory)",
        "OSError: [Errno 12] Cannot allocate memory",
        "RuntimeError: std::bad_alloc",
    ],
    "memory: Ray ended": [
        "OutOfMemoryError: Task was killed due to the node running low on memory. Memory on the node"
    ],
    "diverged": [
        "DivergedError: the train_loss became nan in epoch 1: try a lower optimizer.lr, a longer optimizer.warmup",
        "DivergedError: the gradient norm became inf in epoch 3: try a lower optimizer.lr",
    ],
    "disk is full": [
        "OSError: [Errno 28] No space left on device: '/home/x/checkpoint'",
        "SafetensorError: Error while serializing: I/O error: No space left on device (os error 28)",
        "OSError: [Errno 122] Disk quota exceeded",
        "OSError: [Errno 27] File too large",
    ],
    "bad data": [
        "InputError: corpora/x: no corpus here Run platform prepare",
        "ArrowInvalid: Not an Arrow file",
        "DamagedError: checkpoint_1/model.safetensors: damaged: its SHA-256 is not the one in checksums.json",
    ],
    "node is lost": ["NodeDiedError: the node is unreachable", "LocalRayletDiedError: The task's local raylet died."],
    "out of reach": [
        "ActorUnavailableError: The actor 82 is unavailable: The actor is temporarily unavailable: RpcError"
    ],
    "killed or crashed": ["WorkerCrashedError: The worker died unexpectedly while executing this task."],
    "another than the sweep began with": [
        "InputError: /data/corpus: not the corpus that the sweep began with Put that one back."
    ],
    "lost touch": [
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:33221",
        "DistBackendError: NCCL error, remote process exited or there was a network error",
        "ConnectionRefusedError: [Errno 111] Connection refused",
        "WorkerHealthCheckTimeoutError: A worker health check has been hanging for 600 seconds",
        "BroadcastCollectiveTimeoutError: The broadcast operation timed out after 30.0 seconds",
        "OwnerDiedError: Failed to retrieve object",
        "DistBackendError: [Rank 1] Watchdog caught collective operation timeout: NCCL operation timed out",
    ],
    "file system": ["OSError: [Errno 5] Input/output error: '/home/x'", "OSError: [Errno 116] Stale file handle"],
    "did not start": ["WorkerGroupStartupTimeoutError: The worker group startup timed out after 300.0 seconds"],
}


@pytest.mark.parametrize(("words", "reason"), [(words, one) for words, many in REASONS.items() for one in many])
def test_a_cause_in_words(words: str, reason: str) -> None:
    cause = diagnose(reason)
    assert cause is not None and words in cause.words and cause.remedy


def test_every_cause_is_met_and_what_is_unknown_stays_unknown() -> None:
    assert {diagnose(reason) for reasons in REASONS.values() for reason in reasons} == set(KNOWN.values())
    for reason in ("", UNKNOWN, "ended before its last epoch", "KeyError: 'memory'", "ValueError: a node is wrong"):
        assert diagnose(reason) is None


@pytest.mark.parametrize(
    ("whose", "words"),
    [
        ("configuration", ["GPU", "memory: that of the machine", "memory: Ray ended", "diverged", "bad data"]),
        (
            "machine",
            ["node is lost", "out of reach", "killed or crashed", "lost touch", "file system", "did not start"],
        ),
        ("sweep", ["disk is full", "another than the sweep began with"]),
    ],
)
def test_what_the_machine_took_is_not_the_configurations_failure(whose: str, words: list[str]) -> None:
    assert {blame(reason) for word in words for reason in REASONS[word]} == {whose}
    assert blame("ValueError: what nobody knows") == "configuration"


def stopped_after(*endings: tuple[TrialStatus, str]) -> int:
    """After how many of these endings, one trial after the other, a sweep stops; 0 where it goes on."""
    streak, trials = Streak(), list[TrialRecord]()
    for number, (state, reason) in enumerate(endings):
        trials.append(records.trial(number, state, reason=reason))
        if streak.add(trials[-1], trials):
            return number + 1
    return 0


GOOD: tuple[TrialStatus, str] = ("complete", "")
WRONG: tuple[TrialStatus, str] = ("failed", "ValueError: no such file")
DIVERGED: tuple[TrialStatus, str] = ("failed", "DivergedError: the train_loss became nan in epoch 3")


def test_three_trials_in_a_row_that_fail_alike_stop_a_sweep() -> None:
    assert stopped_after(WRONG, WRONG, WRONG) == 3
    assert stopped_after(GOOD, WRONG, WRONG, WRONG) == 4
    assert stopped_after(WRONG, WRONG, GOOD, WRONG, ("pruned", "rung"), WRONG, WRONG) == 0
    assert stopped_after(WRONG, ("failed", "KeyError: 'x'"), WRONG, WRONG) == 0
    alike = [("failed", f"ValueError: item {number} is wrong") for number in range(3)]
    assert stopped_after(*alike) == 3


def test_divergence_stops_a_sweep_only_where_nothing_else_has_come_of_it() -> None:
    """To find out which configurations diverge is what a search is for."""
    assert stopped_after(DIVERGED, DIVERGED, DIVERGED) == 3
    assert stopped_after(GOOD, DIVERGED, DIVERGED, DIVERGED, DIVERGED) == 0


def test_why_a_sweep_stops_names_trials_cause_and_remedy() -> None:
    streak, trials = Streak(), [records.trial(number, "failed", reason="MemoryError: ") for number in (4, 6, 7)]
    *_, text = [streak.add(trial, trials) for trial in trials]
    assert text.startswith("the same failure ended trials 4, 6, 7 one after the other: out of memory: that of")
    assert "; try a lower training.batch_seconds" in text


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
    """It pickles errors of tasks and of actors that died, and no others, such as this one of Ray's memory monitor."""
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


def test_a_failure_is_explained_in_a_few_lines() -> None:
    cause = diagnose("MemoryError: ")
    assert cause is not None
    lines = explained(cause, Path("sweeps/x/log.txt"), ["Traceback", "MemoryError"], "/tmp/ray")
    assert lines[0].startswith("cause: out of memory") and lines[1].startswith("try:   ")
    assert lines[2:] == ["log:   sweeps/x/log.txt, which ends:", "  | Traceback", "  | MemoryError"]
    assert explained(None, None, [], "/tmp/ray/logs") == ["log:   none of its own; Ray's: /tmp/ray/logs"]
    assert explained(None, Path("log.txt"), [], "/tmp/ray/logs") == ["log:   log.txt"]
