"""Why a trial failed, in words, from the one line on record."""

from __future__ import annotations

from pathlib import Path

import pytest
import records

from asr_platform.study.failures import (
    KNOWN,
    UNKNOWN,
    Streak,
    blame,
    diagnose,
    explained,
    most_specific,
)
from asr_platform.study.ledger import TrialRecord, TrialStatus

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
    "the storage is out of reach": [
        "StorageError: s3://speech/research: When getting information for key 'x': AWS Error NETWORK_CONNECTION"
    ],
    "the storage is full": [
        "StorageFullError: /shared/research: the storage is full, free space on it: [Errno 28] Error writing bytes to "
        "file. Detail: [errno 28] No space left on device",
        "StorageFullError: s3://speech/research: the storage is full, free space on it: When uploading object with key "
        "'x': AWS Error UNKNOWN (HTTP status 507) during PutObject operation: XMinioStorageFull",
        "OSError: When uploading object with key 'x': AWS Error UNKNOWN (HTTP status 403) during PutObject operation: "
        "Unable to parse ExceptionName: QuotaExceeded Message:",
    ],
    "the storage refuses": ["StorageError: s3://speech/research: AWS Error ACCESS_DENIED during PutObject"],
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
            [
                "node is lost",
                "out of reach",
                "the storage is out of reach",
                "killed or crashed",
                "lost touch",
                "file system",
                "did not start",
            ],
        ),
        ("sweep", ["disk is full", "the storage is full", "the storage refuses", "another than the sweep began with"]),
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
    assert "; try a lower training.pass_seconds" in text


def test_of_several_errors_the_one_with_the_most_specific_cause_counts() -> None:
    torn, unknown = "RuntimeError: Connection closed by peer", "ValueError: another"
    assert most_specific([unknown, torn, "MemoryError: "]) == "MemoryError: "
    assert most_specific([unknown, "KeyError: 'x'"]) == unknown


def test_a_failure_is_explained_in_a_few_lines() -> None:
    cause = diagnose("MemoryError: ")
    assert cause is not None
    lines = explained(cause, Path("sweeps/x/log.txt"), ["Traceback", "MemoryError"], "/tmp/ray")
    assert lines[0].startswith("cause: out of memory") and lines[1].startswith("try:   ")
    assert lines[2:] == ["log:   sweeps/x/log.txt, which ends:", "  | Traceback", "  | MemoryError"]
    assert explained(None, None, [], "/tmp/ray/logs") == ["log:   none of its own; Ray's: /tmp/ray/logs"]
    assert explained(None, Path("log.txt"), [], "/tmp/ray/logs") == ["log:   log.txt"]
