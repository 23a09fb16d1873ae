"""What a sweep sets in the environment of its process and of the processes that it starts, and no import does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhook import Webhook

from asr_platform.compat.environment import (
    ENVIRONMENT,
    LOOPBACK,
    LOOPBACK_HOSTS,
    keep_loopback_off_proxies,
    sweep_environment,
)

DEAD = "http://127.0.0.1:9"  # the discard port: nothing answers there
PROXIES = ["http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "grpc_proxy"]
HOSTS = st.lists(st.sampled_from([*LOOPBACK_HOSTS, ".example.org", "10.0.0.0/8", "host:8080"])).map(",".join)
# Ray's state API and MLflow call with requests, this test's servers and others with urllib.
CALLS = {
    "requests": "import requests; print(requests.post(sys.argv[1], timeout=20).status_code)",
    "urllib": "import urllib.request; print(urllib.request.urlopen(sys.argv[1], b'{}', timeout=20).status)",
}


def without_proxies(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, **changes}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_calls_to_this_machine_use_no_proxy(call: str, host: str, webhook: Webhook) -> None:
    """Through a proxy that is dead, they would fail; a child process inherits what was set."""
    child = f"import subprocess, sys; code = {'import sys; ' + CALLS[call]!r}\n"
    child += "from asr_platform.compat.environment import set_environment; set_environment()\n"
    child += "sys.exit(subprocess.run([sys.executable, '-c', code, sys.argv[1]]).returncode)"
    address = webhook.url.replace("127.0.0.1", host)
    done = subprocess.run(
        [sys.executable, "-c", child, address], env=without_proxies(http_proxy=DEAD, NO_PROXY="example.org"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr


@given(proxy=st.sampled_from(PROXIES), lower=st.none() | HOSTS, upper=st.none() | HOSTS)
def test_hosts_that_a_person_named_are_kept(proxy: str, lower: str | None, upper: str | None) -> None:
    given_ = {name: value for name, value in (("no_proxy", lower), ("NO_PROXY", upper)) if value is not None}
    environment = {proxy: DEAD, **given_}
    keep_loopback_off_proxies(environment)
    named = {host for value in given_.values() for host in value.split(",") if host}
    for name in ("no_proxy", "NO_PROXY"):
        assert set(environment[name].split(",")) == named | set(LOOPBACK_HOSTS)
    before = dict(environment)
    keep_loopback_off_proxies(environment)
    assert environment == before


def test_all_hosts_stay_all_hosts() -> None:
    """Python's urllib takes an asterisk for all hosts only where it is alone."""
    environment = {"http_proxy": DEAD, "no_proxy": "*"}
    keep_loopback_off_proxies(environment)
    assert environment["no_proxy"] == environment["NO_PROXY"] == "*"


@pytest.mark.parametrize("environment", [{}, {"PATH": "/bin"}, {"http_proxy": ""}, {"no_proxy": "example.org"}])
def test_without_a_proxy_nothing_is_changed(environment: dict[str, str]) -> None:
    before = dict(environment)
    keep_loopback_off_proxies(environment)
    assert environment == before


@pytest.mark.parametrize(("said", "expected"), [(None, "True"), ("false", "False")])
def test_mlflow_sends_no_telemetry_unless_it_is_asked_to(said: str | None, expected: str) -> None:
    known = {name: value for name, value in os.environ.items() if name != "MLFLOW_DISABLE_TELEMETRY"}
    code = "from asr_platform.compat.mlflow import configure; configure()\n"
    code += "from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY as own; print(own.get())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=known if said is None else {**known, "MLFLOW_DISABLE_TELEMETRY": said},
    )  # fmt: skip
    assert done.stdout == f"{expected}\n"


@pytest.mark.parametrize("imported", ["asr_platform", "asr_platform.notebook.sweep", "Sweep, load_model, InputError"])
def test_importing_the_package_changes_no_variable(imported: str) -> None:
    code = f"from asr_platform import {imported}" if "," in imported else f"import {imported}"
    program = f"import os; before = dict(os.environ); {code}; print(before == dict(os.environ))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_sweep_leaves_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that have a value keep it; processes that start in the block inherit the rest."""
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("RAY_TRAIN_METRICS_ENABLED", "1")
    monkeypatch.delenv("RAY_AIR_NEW_OUTPUT", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    before = dict(os.environ)
    with sweep_environment():
        expected = {**ENVIRONMENT, **{name: before[name] for name in ENVIRONMENT if name in before}}
        assert {name: os.environ[name] for name in ENVIRONMENT} == expected
        assert os.environ["RAY_TRAIN_METRICS_ENABLED"] == "1" and LOOPBACK in os.environ["no_proxy"]
    assert dict(os.environ) == before
