"""Joins a Ray cluster, or starts one on this machine."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import ray

from asr_platform.compat.environment import LOOPBACK, sweep_environment
from asr_platform.compat.ray import (
    ACCELERATOR_TYPE,
    LOOPBACK_OPTIONS,
    draining_nodes,
    loopback_only,
    running_cluster,
    silence_workers,
)
from asr_platform.compat.ray_workers import SYSTEM_CONFIG
from asr_platform.storage.ports import accepts
from asr_platform.tuning.cluster import LOCAL, RAY_ADDRESS, Cluster, Node, chosen_address
from asr_platform.tuning.processes.forking import fork_server
from trainables.errors import InputError
from trainables.folders import has_ended, this_process

PACKAGES = ("asr_platform", "search_spaces", "trainables")  # sent to workers on other machines
DASHBOARD_HOST = "ASR_PLATFORM_DASHBOARD_HOST"  # a property of the machine, hence not an option of sweeps
OWNER = "asr_platform.pid"  # file in the session folder of a cluster started here: the driver's process
AUTO = "auto"  # the address that Ray finds itself
AUTH_MODE = "RAY_AUTH_MODE"  # variable with how Ray proves who it is: token, or disabled
SHUTDOWN_TIMEOUT = 30  # seconds
ADDRESS_TIMEOUT = 5  # seconds
CONNECT_TIMEOUT = 2.0  # seconds
# Client preface of an HTTP/2 connection (RFC 9113, section 3.4), and type of the frame that answers it. Ray itself
# would wait for minutes if another kind of server listened.
HTTP2_PREFACE, SETTINGS_FRAME = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), b"\x04"
# A call that Ray's head alone knows. Its other servers speak gRPC too (10001 is that of Ray's client), and `ray.init`
# asks them for most of a minute.
HEAD_METHOD = "/ray.rpc.NodeInfoGcsService/GetClusterId"
LONGEST_ERROR = 300  # characters of Ray's own message


@contextmanager
def connect(address: str | None) -> Iterator[Cluster]:
    """A connection to the cluster at `address` or $RAY_ADDRESS, or to one started here that ends with the block.

    Ray prints nothing: its logs are files in the folder `Cluster.logs`. The dashboard of a cluster started here
    listens on 127.0.0.1 unless $ASR_PLATFORM_DASHBOARD_HOST names another host. It always runs: without it, Ray (2.60)
    never frees the resources of a stopped trial's workers.

    Raises:
        InputError: no cluster is at the address, or none can be started.
    """
    address = chosen_address(address)
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    silence_workers()
    with sweep_environment(), nullcontext() if address else local() as begin_imports:
        try:
            cluster = _join(address) if address else _start()
            if begin_imports:
                begin_imports()
            yield cluster
        finally:
            if ray.is_initialized() or not address:
                _shutdown()


@contextmanager
def local() -> Iterator[Callable[[], None]]:
    """Context in which a cluster is started here: it listens on this machine alone, and its workers are forked.

    Yields a function to call once the cluster has started (see `fork_server`).
    """
    with loopback_only(), fork_server() as begin_imports:
        yield begin_imports


def _join(address: str) -> Cluster:
    check_address(address)
    # As folders: Ray copies the environment of a driver that is a job (`ray job submit`), and no module can be copied.
    folders = [import_module(name).__path__[0] for name in PACKAGES]
    join = partial(_init, f"at {address}", address=address, runtime_env={"py_modules": folders})
    return _described(_in_thread(join), joined=True)


def _in_thread(action: Callable[[], Any]) -> Any:
    """Result of an action in a thread, which is left behind on Ctrl-C: Ray waits for a silent head, and is deaf to it.

    Raises:
        BaseException: the action's error.
    """
    ended: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def act() -> None:
        try:
            ended.put((action(), None))
        except BaseException as error:
            ended.put((None, error))

    threading.Thread(target=act, name="joining the cluster", daemon=True).start()
    result, error = ended.get()
    if error:
        raise error
    return result


def _start() -> Cluster:
    host = os.environ.get(DASHBOARD_HOST, LOOPBACK)
    options = {"include_dashboard": True, "dashboard_host": host, **LOOPBACK_OPTIONS}
    context = _init("on this machine", address="local", _system_config=SYSTEM_CONFIG, **options)
    session = Path(context.address_info["session_dir"])
    (session / OWNER).write_text(this_process())
    remove_old_sessions(session.parent)
    return _described(context, joined=False)


def _init(where: str, **options: Any) -> Any:
    """Calls `ray.init`, and restores the handler of SIGTERM, which `ray.init` replaces (2.60).

    Raises:
        InputError: no cluster can be joined or started.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray raises a bare Exception after a slow start, and many kinds for a wrong address
        if re.search("unauthenticated|auth.*token", f"{error} {error.__cause__}", re.IGNORECASE | re.DOTALL):
            mode = os.environ.get(AUTH_MODE, "not set")
            raise InputError(
                f"the Ray cluster {where} refuses this driver's token ({AUTH_MODE} is {mode} here)",
                f"Set {AUTH_MODE}=token, and RAY_AUTH_TOKEN to what ray get-auth-token prints on the head's machine.",
            ) from None
        problem = " ".join(str(error).split())[:LONGEST_ERROR]
        raise InputError(
            f"no Ray cluster {where}: {type(error).__name__}: {problem}",
            "Try again on a machine that is less busy; check --address, free ports, memory and disk space.",
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _shutdown() -> None:
    """Disconnects from the cluster, or ends it if it was started here; gives up after `SHUTDOWN_TIMEOUT`."""
    leaving = threading.Thread(target=ray.shutdown, name="shutdown", daemon=True)
    leaving.start()
    leaving.join(SHUTDOWN_TIMEOUT)


def remove_old_sessions(folder: Path) -> None:
    """Removes Ray's session folders (hundreds of megabytes) of clusters whose drivers on this machine have ended."""
    for owner in folder.glob(f"session_*/{OWNER}"):
        with suppress(OSError):
            if has_ended(owner.read_text()):
                shutil.rmtree(owner.parent, ignore_errors=True)


def _described(context: Any, joined: bool) -> Cluster:
    here = ray.get_runtime_context()
    host, _, port = here.gcs_address.rpartition(":")
    node = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())
    dashboard = urlsplit(f"http://{context.dashboard_url}")
    parts = {
        "Ray's head": (host.strip("[]"), int(port)),
        "the raylet of this machine": (node["NodeManagerAddress"], node["NodeManagerPort"]),
    }
    # A dashboard on another machine may listen for that machine alone, and cannot be watched from here.
    if dashboard.hostname and dashboard.port and accepts(dashboard.hostname, dashboard.port, CONNECT_TIMEOUT):
        parts["Ray's dashboard"] = (dashboard.hostname, dashboard.port)
    logs = str(Path(context.address_info["session_dir"]) / "logs")
    nodes = [node for node in present_nodes() if not node.gone]
    return Cluster(nodes, dashboard.geturl(), logs, parts, joined)


def present_nodes() -> list[Node]:
    """The nodes that the connected cluster has or had."""
    draining = draining_nodes()
    return [
        Node(
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            accelerator=node["Labels"].get(ACCELERATOR_TYPE, ""),
            id=node["NodeID"],
            name=f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})",
            gone=_gone(node, draining),
        )
        for node in ray.nodes()
    ]


def _gone(node: Mapping[str, Any], draining: Collection[str]) -> str:
    """`Node.gone` of an entry of Ray's list of nodes."""
    if not node["Alive"]:
        return f"is lost ({node['DeathReasonMessage'] or 'it was stopped'})"
    return "is about to be taken away" if node["NodeID"] in draining else ""


def check_address(address: str | None, of_before: bool = False) -> None:
    """Checks within seconds that a Ray cluster listens at `address` or $RAY_ADDRESS, if one is to be joined.

    Args:
        of_before: whether the address is the one that a sweep ran on before, and nobody has given it now.

    Raises:
        InputError: the address is malformed or for Ray's client (ray://), or no Ray cluster listens there.
    """
    address = chosen_address(address)
    if address is None:
        return
    named = f"{RAY_ADDRESS}={address}" if address == os.environ.get(RAY_ADDRESS) else f"--address {address}"
    if of_before:
        named += " (where the sweep ran before)"
    if address == AUTO:
        if (address := running_cluster()) is None:
            raise InputError(f"{named}: no Ray cluster runs here", "ray start --head starts one; or give HOST:PORT.")
        named += f" ({address})"
    elsewhere = f" Or give --address: HOST:PORT, or {LOCAL} for this machine." if of_before else ""
    if "://" in address:
        raise InputError(
            f"{named}: a sweep's driver runs within the cluster",
            "Give HOST:PORT of Ray's head, on one of its machines; or ray job submit -- platform ... --address auto; "
            f"or --address {LOCAL} for this machine.",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"{named}: not HOST:PORT", "For example: --address 10.0.0.1:6379, or auto.")
    encrypted = os.environ.get("RAY_USE_TLS", "0") != "0"  # then only Ray can ask
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ADDRESS_TIMEOUT) as connection:
            connection.sendall(HTTP2_PREFACE)
            answer = b"" if encrypted else connection.recv(4, socket.MSG_WAITALL)
    except OSError as error:
        raise InputError(
            f"{named}: nobody answers ({error})", f"ray status, on the head, says whether it runs and where.{elsewhere}"
        ) from None
    if not encrypted and (answer[3:] != SETTINGS_FRAME or not _is_head(address)):
        raise InputError(
            f"{named}: not Ray's head", "ray status, on the head, says where that listens: mostly at port 6379."
        )


def _is_head(address: str) -> bool:
    """Whether a gRPC server is Ray's head; True if it gives no answer within `ADDRESS_TIMEOUT`, or wants a token."""
    import grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:  # as Ray's own
        try:
            channel.unary_unary(HEAD_METHOD)(b"", timeout=ADDRESS_TIMEOUT)
        except grpc.RpcError as error:
            return bool(error.code() is not grpc.StatusCode.UNIMPLEMENTED)
    return True
