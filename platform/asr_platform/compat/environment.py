"""Settings of Ray (2.60) that are read from environment variables while a sweep runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # seconds between fetching reports; default 2
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # saves a process in each trial
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # default 60, which a busy machine can take
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # else the dashboard lists no Train runs
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger has the results
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # how many run at once follows the nodes (tuning/nodes/membership.py)
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's own state is never restored
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # see tuning/interrupts.py
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",  # until a stopped trial is killed in the middle of an epoch; default 600
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial without results fails alone
    "RAY_AIR_NEW_OUTPUT": "0",  # with the old output, verbose=0 prints nothing
}
LOOPBACK = "127.0.0.1"
LOOPBACK_HOSTS = (LOOPBACK, "localhost", "::1")


def keep_loopback_off_proxies(environment: MutableMapping[str, str]) -> None:
    """Adds this machine's own addresses to `no_proxy` and `NO_PROXY`.

    Otherwise Ray's calls to its own dashboard would go to a proxy and fail, and the resources of stopped trials would
    never be freed. Without a proxy variable nothing is changed, because `no_proxy` alone would make Python ignore the
    proxy settings of macOS.
    """
    names = ("no_proxy", "NO_PROXY")
    proxies = [name for name, value in environment.items() if name.lower().endswith("_proxy") and value]
    if all(name in names for name in proxies):
        return
    listed = ",".join(environment.get(name, "") for name in names).split(",")
    hosts = dict.fromkeys(host.strip() for host in (*listed, *LOOPBACK_HOSTS) if host.strip())
    for name in names:  # programs read either, or prefer one
        environment[name] = "*" if "*" in hosts else ",".join(hosts)  # an asterisk means all only where it is alone


def set_environment(variables: Mapping[str, str] = ENVIRONMENT) -> None:
    """Sets those `variables` that are unset, and exempts this machine's own addresses from proxies."""
    for variable, value in variables.items():
        os.environ.setdefault(variable, value)
    keep_loopback_off_proxies(os.environ)


@contextmanager
def sweep_environment() -> Iterator[None]:
    """Context with Ray's environment variables set, for the processes that are started in it."""
    before = dict(os.environ)
    set_environment()
    try:
        yield
    finally:
        for variable in (*ENVIRONMENT, "no_proxy", "NO_PROXY"):
            if variable in before:
                os.environ[variable] = before[variable]
            else:
                os.environ.pop(variable, None)
