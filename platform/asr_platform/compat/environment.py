"""What Ray and MLflow read from the environment, some of it as they are imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how often reports are fetched; 2 s by default
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process fewer a trial
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # 60 s by default, which a busy machine can take
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our recorder writes; no files of Tune's own a trial
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # nothing of Tune's is ever restored
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that ends without a word has failed; the sweep goes on
    "RAY_AIR_NEW_OUTPUT": "0",  # the terminal is ours; with the old output, verbose=0 is silent
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def keep_loopback_off_proxies(environment: MutableMapping[str, str]) -> None:
    """Adds this machine's own addresses to `no_proxy` and `NO_PROXY`, beside those that are there.

    Where a proxy is set without them, Ray's calls to its own dashboard go to the proxy and fail: nothing then frees
    what a stopped trial's workers held. Without a proxy variable the environment stays as it is, because `no_proxy`
    alone would make Python ignore the proxy settings of macOS.
    """
    names = ("no_proxy", "NO_PROXY")
    proxies = [name for name, value in environment.items() if name.lower().endswith("_proxy") and value]
    if all(name in names for name in proxies):
        return
    listed = ",".join(environment.get(name, "") for name in names).split(",")
    hosts = dict.fromkeys(host.strip() for host in (*listed, *LOOPBACK) if host.strip())
    for name in names:  # programs differ in which they read, and in which one they prefer
        environment[name] = "*" if "*" in hosts else ",".join(hosts)  # an asterisk means all only where it is alone


def set_environment() -> None:
    """Sets what is not set yet."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    keep_loopback_off_proxies(os.environ)
