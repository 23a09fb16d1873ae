"""Clusters that a sweep joins: an address that cannot be joined is refused at once, with the remedy."""

from __future__ import annotations

import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import grpc
import pytest
import records
import tiny
from command import PLATFORM, unused_port
from webhook import Webhook

from asr_platform.tuning.cluster import Options, chosen_address, resources
from asr_platform.tuning.connection import OWNER, check_address, connect, remove_old_sessions
from trainables.errors import InputError
from trainables.folders import this_process


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


def test_the_address_that_ray_finds_itself_is_checked_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray believes $RAY_ADDRESS, and the file of the last cluster that was started here, which a killed head leaves."""
    address = f"127.0.0.1:{unused_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=rf"--address auto \({address}\): nobody answers"), connect("auto"):
        pass
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: set[str]())
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda folder: None)
    with pytest.raises(InputError, match="--address auto: no Ray cluster runs here"), connect("auto"):
        pass


def test_a_sweep_goes_on_at_the_address_that_is_given_or_where_it_ran_before(monkeypatch: pytest.MonkeyPatch) -> None:
    before = f"127.0.0.1:{unused_port()}"
    options = Options(address=before)
    assert options.changed(None, None, True).address == before
    with pytest.raises(InputError, match=r"where the sweep ran before\): nobody answers") as error:
        check_address(before, of_before=True)
    assert "--address: HOST:PORT, or local" in error.value.remedy
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert options.changed(None, None, True).address == "10.0.0.1:6379"
    assert options.changed("local", None, True).address == "local"


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


@pytest.mark.parametrize(("service", "known"), [("NodeInfoGcsService", True), ("RayletDriver", False)])
def test_the_head_is_told_from_other_servers_of_ray(service: str, known: bool) -> None:
    """The head has the call that is asked; the server of Ray's client, and the nodes', speak gRPC as well."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")

    server = grpc.server(ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(f"ray.rpc.{service}", {"GetClusterId": handler})]
    )
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        with nullcontext() if known else pytest.raises(InputError, match=f"--address {address}: not Ray's head"):
            check_address(address)
    finally:
        server.stop(None)


def test_folders_of_clusters_whose_drivers_have_ended_are_removed(tmp_path: Path) -> None:
    """Folders of clusters that `ray start` made have no owner, and stay."""
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
