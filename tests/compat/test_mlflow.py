"""The undocumented parts of MLflow that the platform uses are there in the installed version."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import mlflow
import pytest
from mlflow import environment_variables
from mlflow.pyfunc import scoring_server
from mlflow.store.db import utils
from mlflow.store.db.base_sql_model import Base
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.store.tracking.dbmodels.models import SqlExperiment
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils import environment, mlflow_tags, validation

from asr_platform.compat import mlflow as compat
from asr_platform.tracking import registry, runs
from asr_platform.tracking.metrics import METRICS
from asr_platform.tracking.packaging import SERVING


def test_the_version_is_the_one_that_was_looked_at() -> None:
    """After an upgrade, look at the reasons in compat/mlflow.py and at MLflow's pages, then change VERSION."""
    assert version("mlflow").startswith(f"{compat.VERSION}.")


def test_tags_have_the_names_that_mlflow_gives_them() -> None:
    assert compat.MODEL_VERSIONS == mlflow_tags.MLFLOW_MODEL_VERSIONS
    assert compat.DATASET_CONTEXT == mlflow_tags.MLFLOW_DATASET_CONTEXT
    assert compat.EXTERNAL == mlflow_tags.MLFLOW_MODEL_IS_EXTERNAL
    assert (runs.PARENT, runs.DESCRIPTION) == (mlflow_tags.MLFLOW_PARENT_RUN_ID, mlflow_tags.MLFLOW_RUN_NOTE)


@pytest.mark.parametrize("tag", [compat.SHARED_VIEW, compat.EXPERIMENT_KIND])
def test_mlflows_pages_read_the_tag(tag: str) -> None:
    scripts = Path(mlflow.__file__).parent.joinpath("server/js/build/static/js").glob("main.*.js")
    assert any(f'"{tag}"' in script.read_text(encoding="utf-8") for script in scripts)


@pytest.mark.parametrize("name", [name for name in compat.ENVIRONMENT if name.startswith("MLFLOW_")])
def test_variables_are_read(name: str) -> None:
    assert getattr(environment_variables, name).name == name


def test_the_folder_of_a_database_is_made_by_the_function_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utils, "_make_parent_dirs_if_sqlite", utils._make_parent_dirs_if_sqlite)
    assert "_make_parent_dirs_if_sqlite(db_uri)" in inspect.getsource(utils.create_sqlalchemy_engine_with_retry)


def test_attempts_to_connect_are_counted_by_the_number_that_is_replaced() -> None:
    """With MLflow's own number, a command waits two minutes for a database that is away."""
    compat.configure()
    assert utils.MAX_RETRY_COUNT == compat.CONNECTION_ATTEMPTS
    assert "attempts < MAX_RETRY_COUNT" in inspect.getsource(utils.create_sqlalchemy_engine_with_retry)


def test_requirements_are_compared_by_the_function_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "warn_dependency_requirement_mismatches"
    monkeypatch.setattr(environment, name, getattr(environment, name))
    assert f"{name}(sanitized_pip_reqs)" in inspect.getsource(environment._process_pip_requirements)


@pytest.mark.parametrize(("table", "column"), compat.ARTIFACT_COLUMNS)
def test_a_column_of_artifacts_is_in_the_database(table: str, column: str) -> None:
    assert SqlExperiment.metadata is SqlModelVersion.metadata is Base.metadata, "both stores share a database"
    assert column in Base.metadata.tables[table].columns


def test_no_other_column_contains_addresses_of_artifacts() -> None:
    """A column that a later version adds would keep its old addresses when a home is moved."""
    named = {
        (table.name, column.name)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if column.name.startswith(("artifact_", "storage_"))
    }
    assert named == set(compat.ARTIFACT_COLUMNS) - {("model_versions", "source")}


def test_errors_have_the_texts_by_which_they_are_known() -> None:
    assert compat.OTHER_SCHEMA in inspect.getsource(utils._verify_schema)
    for check in (SqlAlchemyStore._check_run_is_active, SqlAlchemyStore._check_experiment_is_active):
        assert compat.NOT_ACTIVE in inspect.getsource(check)


def test_a_description_fits_into_its_column() -> None:
    assert SqlModelVersion.description.type.length == registry.MOST_CHARACTERS


def test_metrics_of_so_many_epochs_fit_into_a_call() -> None:
    assert (
        runs.EPOCHS_AT_ONCE * (len(METRICS) + sum(bool(metric.best) for metric in METRICS.values()))
        < validation.MAX_METRICS_PER_BATCH
    )


def test_the_scoring_server_is_a_fastapi_application_of_the_module_that_is_looked_for() -> None:
    """serving.py replaces the application's class where this module loads the model."""
    (line,) = (line for line in SERVING.read_text(encoding="utf-8").splitlines() if line.startswith("SERVER = "))
    spec = importlib.util.find_spec(line.split('"')[1])
    assert spec is not None and spec.origin is not None
    assert "load_model" in Path(spec.origin).read_text(encoding="utf-8")
    assert "    from fastapi import FastAPI" in inspect.getsource(scoring_server.init), "after the model is loaded"


def test_importing_the_compatibility_module_imports_no_mlflow() -> None:
    code = "import sys; from asr_platform.compat import mlflow; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "False\n"
