"""Uses of MLflow (3.17.2) beyond its documented interface.

MLflow is imported by `configure` alone, so that a command without a store does not wait for the import.
tests/compat/test_mlflow.py fails when one of the names is gone.
"""

from __future__ import annotations

import logging
import os

VERSION = "3.17"  # the version in which all of these were found

# Tags that MLflow's pages read. Its documentation does not list them.
EXPERIMENT_KIND = "mlflow.experimentKind"  # without it, the pages guess the kind and ask about it
MODEL_VERSIONS = "mlflow.modelVersions"  # of a run's model: a link to its versions in the registry
SHARED_VIEW = "mlflow.sharedViewState."  # of an experiment: prefix of a view of its runs (tracking/shared_view.py)
EXTERNAL = "mlflow.model.isExternal"  # of a run's model: MLflow does not have its files
DATASET_CONTEXT = "mlflow.data.context"  # of a run's dataset: what it was used for

# Tables and columns of the database that contain addresses of artifacts. They are absolute, and no function of MLflow
# changes them, so `storage/relocation.py` rewrites them after a home was moved or copied.
EXPERIMENT_ARTIFACTS = ("experiments", "artifact_location")
ARTIFACT_COLUMNS = (
    EXPERIMENT_ARTIFACTS,
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)

# Texts in MLflow's errors, which have no codes of their own.
OTHER_SCHEMA = "mlflow db upgrade"  # the tables of the database are of another version
NOT_ACTIVE = "'active' state"  # the run or experiment has been deleted

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",  # no warning where git is not installed
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # 7 by default, minutes; one is needed for a connection closed meanwhile
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "PGCONNECT_TIMEOUT": "10",  # seconds for a server that is silent; the system's is two minutes
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run, within the live table
}
"""Variables that MLflow and its driver of PostgreSQL read at each use."""
CONNECTION_ATTEMPTS = 3  # to a database, 0.1 and 0.3 s apart; 10 by default, with 102 s between them altogether


def configure() -> None:
    """Sets up MLflow in this process before a store is used; variables that are set already keep their values."""
    telemetry = "MLFLOW_DISABLE_TELEMETRY" not in os.environ
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # no line for each migration of a database's tables
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # errors of a database are raised as well
    import mlflow.utils.environment
    from mlflow.store.db import utils
    from mlflow.telemetry import set_telemetry_client

    if telemetry:
        set_telemetry_client()  # MLflow reads the variable as it is imported, which somebody else may have done before
    # MLflow makes the folder of a SQLite file by the text of its address: for `q%2541`, which means `q%41`, a second
    # folder. Whoever opens a store has made the folder already.
    utils._make_parent_dirs_if_sqlite = lambda uri: None
    utils.MAX_RETRY_COUNT = CONNECTION_ATTEMPTS
    # Saving a model would compare its requirements with this environment, for which MLflow reads the metadata of every
    # installed package: more than a second. They are taken from this environment (tracking/packaging.py).
    mlflow.utils.environment.warn_dependency_requirement_mismatches = lambda requirements: None
