"""From what a cluster has to what trials ask for: they fit together, whatever the numbers."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest
import records
import tiny
from command import PLATFORM, unused_port
from hypothesis import assume, given
from hypothesis import strategies as st
from webhook import Webhook

from asr_platform.tuning.cluster import TRIAL_CPUS, UNITS, Cluster, Options, Workers, chosen_address, resources
from asr_platform.tuning.connection import OWNER, check_address, connect, remove_old_sessions
from trainables.errors import InputError
from trainables.folders import this_process


def cluster(cpus: float, gpus: float = 0) -> Cluster:
    return Cluster(float(cpus), float(gpus), "http://127.0.0.1:8265")


def in_units(amount: float) -> int:
    """As Ray counts: in ten-thousandths, rounded to the nearest."""
    return int(amount * UNITS + 0.5)


@pytest.mark.parametrize(
    ("machine", "options", "expected", "concurrent"),
    [
        (cluster(2), Options(), Workers(1, 1, 0.0), 2),
        (cluster(16), Options(), Workers(1, 1, 0.0), 16),
        (cluster(16), Options(max_concurrent=3), Workers(1, 1, 0.0), 3),
        (cluster(16), Options(max_concurrent=99), Workers(1, 1, 0.0), 16),
        (cluster(7), Options(workers_per_trial=2), Workers(2, 1, 0.0), 3),
        (cluster(16, 4), Options(), Workers(1, 1, 1.0), 4),
        (cluster(3, 4), Options(), Workers(1, 1, 1.0), 3),
        (cluster(16, 4), Options(workers_per_trial=2), Workers(2, 1, 1.0), 2),
        (cluster(16, 4), Options(gpus_per_worker=2), Workers(1, 1, 2.0), 2),
        (cluster(16, 1), Options(gpus_per_worker=0.25), Workers(1, 1, 0.25), 4),
        (cluster(16, 1), Options(gpus_per_worker=1 / 3), Workers(1, 1, 0.3333), 3),
        (cluster(16, 1), Options(gpus_per_worker=1 / 6), Workers(1, 1, 0.1666), 6),
        (cluster(16, 2), Options(gpus_per_worker=0.6), Workers(1, 1, 0.6), 2),
        (cluster(16, 4), Options(gpus_per_worker=0), Workers(1, 1, 0.0), 16),
        (cluster(2), Options(alone=True), Workers(1, 2, 0.0), 1),
        (cluster(7), Options(alone=True, workers_per_trial=2), Workers(2, 3, 0.0), 1),
        (cluster(16, 4), Options(alone=True), Workers(4, 4, 1.0), 1),
        (cluster(16, 4), Options(alone=True, workers_per_trial=1), Workers(1, 16, 1.0), 1),
        (cluster(16, 4), Options(alone=True, gpus_per_worker=2), Workers(2, 8, 2.0), 1),
        (cluster(16, 4), Options(alone=True, gpus_per_worker=0), Workers(1, 16, 0.0), 1),
        (cluster(2, 8), Options(alone=True), Workers(2, 1, 1.0), 1),
    ],
)
def test_workers_and_concurrency(machine: Cluster, options: Options, expected: Workers, concurrent: int) -> None:
    workers = machine.workers(options)
    assert workers == expected
    assert machine.concurrency(workers, options) == concurrent


@pytest.mark.parametrize(
    ("machine", "options"),
    [
        (cluster(2), Options(workers_per_trial=3)),
        (cluster(2), Options(gpus_per_worker=1)),
        (cluster(2), Options(gpus_per_worker=0.1)),
        (cluster(16, 1), Options(workers_per_trial=2)),
        (cluster(16, 2), Options(workers_per_trial=3, gpus_per_worker=0.6)),
        (cluster(16, 1), Options(alone=True, gpus_per_worker=2)),
        (cluster(2), Options(alone=True, workers_per_trial=3)),
        (cluster(0.5), Options()),
    ],
)
def test_a_trial_that_cannot_fit_is_refused(machine: Cluster, options: Options) -> None:
    """The message says what was asked for and what there is."""
    with pytest.raises(InputError, match=f"does not fit: the cluster has {machine.cpus:g} CPUs") as error:
        machine.workers(options)
    assert "--workers-per-trial" in error.value.remedy and "--gpus-per-worker" in error.value.remedy


def test_parts_of_several_gpus_are_refused() -> None:
    with pytest.raises(InputError, match=r"--gpus-per-worker 1\.5"):
        cluster(16, 4).workers(Options(gpus_per_worker=1.5))


@given(
    cpus=st.integers(1, 200),
    gpus=st.integers(0, 16),
    count=st.none() | st.integers(1, 120),
    share=st.none() | st.integers(0, 4) | st.floats(0, 1),
    alone=st.booleans(),
    most=st.none() | st.integers(1, 50),
)
def test_concurrent_trials_never_ask_for_more_than_there_is(
    cpus: int, gpus: int, count: int | None, share: float | None, alone: bool, most: int | None
) -> None:
    """In Ray's own counting, with the process that each trial is itself, and with shares of one GPU on one GPU."""
    options = Options(most, count, share, None, alone)
    machine = cluster(cpus, gpus)
    try:
        workers = machine.workers(options)
    except InputError:
        assume(False)
    trials = machine.concurrency(workers, options)
    assert trials >= 1
    asked = workers.resources
    assert asked["CPU"] > 0
    of_a_trial = in_units(TRIAL_CPUS) + workers.count * in_units(asked["CPU"])
    assert trials * of_a_trial <= in_units(cpus)
    a_gpu = in_units(asked.get("GPU", 0.0))
    if a_gpu >= UNITS:
        assert a_gpu % UNITS == 0
        assert trials * workers.count * a_gpu <= in_units(gpus)
    elif a_gpu:
        assert trials * workers.count <= gpus * (UNITS // a_gpu)


def test_workers_without_a_gpu_ask_for_none() -> None:
    """To Ray, a share of 0 is still a wish for a GPU."""
    assert Workers(2, 3, 0.0).resources == {"CPU": 3 - TRIAL_CPUS / 2}
    assert Workers(1, 1, 0.5).resources == {"CPU": 1 - TRIAL_CPUS, "GPU": 0.5}


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("ray://10.0.0.1:10001", "a sweep's driver runs within the cluster"),
        ("10.0.0.1", "not HOST:PORT"),
        ("10.0.0.1:port", "not HOST:PORT"),
        ("10.0.0.1:99999", "not HOST:PORT"),
        ("no.such.host.invalid:6379", "nobody answers"),
    ],
)
def test_an_address_that_cannot_be_joined_is_refused(address: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as error:
        check_address(address)
    assert f"--address {address}" in error.value.problem and error.value.remedy


def test_nobody_at_an_address_is_an_error_at_once() -> None:
    address = f"127.0.0.1:{unused_port()}"
    with pytest.raises(InputError, match=f"--address {address}: nobody answers"), connect(address):
        pass


def test_the_address_is_that_of_rays_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which `ray job submit` sets; an option takes precedence, and `local` stands for this machine."""
    assert [chosen_address(address) for address in (None, "local", "auto")] == [None, None, "auto"]
    address = f"127.0.0.1:{unused_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert [chosen_address(given) for given in (None, "local", "auto")] == [address, None, "auto"]
    with pytest.raises(InputError, match=f"RAY_ADDRESS={address}: nobody answers"), connect(None):
        pass
    with resources("local") as machine:
        assert machine.cpus >= 1
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(InputError, match=r"RAY_ADDRESS=http://127.0.0.1:8265: a sweep's driver") as error:
        check_address(None)
    assert "ray job submit" in error.value.remedy and "--address local" in error.value.remedy


def test_an_address_where_nobody_says_a_word_does_not_hold_a_command_up(tmp_path: Path) -> None:
    tiny.write_corpus(tmp_path / "corpus", {"train": ["A"], "dev": ["A"]})
    (tmp_path / "small.yaml").write_text(records.SPACE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        words = (PLATFORM, "sweep", "small.yaml", "--data", "corpus", "--address", address)
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--address {address}: nobody answers (timed out)" in done.stderr


def test_another_server_at_an_address_is_refused_at_once(webhook: Webhook) -> None:
    address = webhook.url.removeprefix("http://").split("/")[0]
    with pytest.raises(InputError, match=f"--address {address}: not Ray's head"):
        check_address(address)


def test_folders_of_clusters_whose_drivers_have_ended_are_removed(tmp_path: Path) -> None:
    """Those that `ray start` made have no owner, and stay."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    here = this_process().rpartition("-")[0]
    owners = {
        "dead": f"{here}-{ended.pid}", "alive": this_process(), "elsewhere": f"x-{ended.pid}", "of-ray-start": None,
    }  # fmt: skip
    for name, owner in owners.items():
        folder = tmp_path / f"session_{name}"
        (folder / "logs").mkdir(parents=True)
        if owner:
            (folder / OWNER).write_text(owner)
    remove_old_sessions(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"session_{name}" for name in ("alive", "elsewhere", "of-ray-start")
    ]
