"""Where the view of a sweep's trials does not fit MLflow, there is none, and nothing fails."""

from __future__ import annotations

import json
from typing import Any

import mlflow
import pytest
import records
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from asr_platform.tracking.shared_view import charts_of, share_view


class Client:
    """A client whose experiments take tags, or refuse them with an error code."""

    def __init__(self, error: int | None = None) -> None:
        self.error = error
        self.tags: dict[str, str] = {}

    def set_experiment_tag(self, experiment: str, key: str, value: str) -> None:
        if self.error is not None:
            raise MlflowException("no", self.error)
        self.tags[key] = value


def share(client: Any) -> str:
    return share_view(client, "1", "small-0123", "small", "a-run", records.space())


def test_a_view_is_a_tag_and_has_an_address() -> None:
    client = Client()
    path = share(client)
    assert path == "/#/experiments/1/runs?viewStateShareKey=small-0123&workflowType=machine_learning"
    assert "&compareRunsMode=CHART&" in charts_of(path)
    view = json.loads(client.tags["mlflow.sharedViewState.small-0123"])
    assert view["name"] == "small" and "tags.`mlflow.parentRunId` = 'a-run'" in view["state"]


def test_another_version_of_mlflow_has_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow, "__version__", "3.18.1")
    client = Client()
    assert share(client) == "" and not client.tags


def test_a_view_that_mlflow_refuses_is_left_out() -> None:
    """Such as one that is too long; a store that fails is another matter."""
    assert share(Client(INVALID_PARAMETER_VALUE)) == ""
    with pytest.raises(MlflowException):
        share(Client(INTERNAL_ERROR))
