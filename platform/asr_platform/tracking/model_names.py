"""What MODEL may be in a command: a model directory, or the name of a model in MLflow."""

from __future__ import annotations

from pathlib import Path

IN_MLFLOW = ("models:/", "runs:/")
# The folder of a registered model: MLflow's file, the model directory, and the language model that its search uses.
MLMODEL, MODEL, LANGUAGE_MODEL = "MLmodel", "model", "language_model"


def registered_language_model(model: Path) -> Path | None:
    """The language model's directory that was registered together with the model directory `model`, if any."""
    language_model = model.with_name(LANGUAGE_MODEL)
    return language_model if model.with_name(MLMODEL).is_file() and language_model.is_dir() else None


def located(home: Path, model: str) -> Path:
    """The model directory that is meant; one of MLflow's store may have been fetched for that.

    Args:
        home: whose sweeps' stores are asked, after that of $MLFLOW_TRACKING_URI.
        model: a directory, which need not be there; `models:/NAME@champion`, `models:/NAME/3`; `runs:/ID` of a sweep;
            of a trial, where its home is; `runs:/ID/PATH`.

    Raises:
        InputError: MLflow has no such model; the message lists those there are.
    """
    if not model.startswith(IN_MLFLOW):
        return Path(model)
    from asr_platform.tracking.download import fetch  # MLflow, whose import takes a second

    return fetch(home, model)
