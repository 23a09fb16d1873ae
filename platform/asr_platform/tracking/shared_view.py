"""A view of a sweep's trials in MLflow's pages: best first, with the values that vary, and with charts of the best ten.

MLflow keeps named views of an experiment's runs as tags of the experiment and lists them in its menu "Views". The form
of a view is not documented: it is the state of the frontend of MLflow 3.17. Other versions get no view.
"""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from asr_platform.compat.mlflow import SHARED_VIEW, VERSION
from asr_platform.tracking.runs import PARENT
from search_spaces.space import Space

RECOGNISER_METRICS = ("asr/best_cer_percent", "asr/cer_percent", "train/audio_hours")
LANGUAGE_MODEL_METRICS = ("lm/best_character_perplexity", "lm/character_perplexity", "train/tokens")
"""Metrics of the charts for each kind of model: what ranks trials, its learning curve, and the amount of training."""
MOST_AXES = 8  # of the parallel coordinates: with more, their titles overlap
BEST, CURVES = "the best ten", "learning curves"  # sections of charts
HEIGHT = 380  # of a chart, in pixels


def share_view(client: MlflowClient, experiment: str, key: str, name: str, parent: str, space: Space) -> str:
    """Adds the view of a sweep to its experiment, or replaces it; returns its path below the server's address.

    Args:
        key: key of the view, unique in the experiment.
        name: name of the sweep.
        parent: id of the sweep's run.

    Returns:
        An empty text where the installed MLflow is of another version, or does not take the view.
    """
    if not mlflow.__version__.startswith(f"{VERSION}."):
        return ""
    try:
        client.set_experiment_tag(experiment, SHARED_VIEW + key, json.dumps(_view(name, parent, space)))
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":  # such as a space of so many keys that the view is too long
            raise
        return ""
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={quote(key)}&workflowType=machine_learning"


def charts_of(path: str) -> str:
    """Path of a view's charts, from the path of its table."""
    return path.replace("&workflowType", "&compareRunsMode=CHART&workflowType")


def _view(name: str, parent: str, space: Space) -> dict[str, Any]:
    ranking = _metrics(space)[0]
    varied = [*space.vary, *_fitted(space)]
    widths = {
        _column("metrics", ranking): 130,
        _column("tags", "interval"): 110,
        _column("params", "parameters"): 90,
        _column("tags", "stopped"): 150,
        **{_column("params", key): max(90, 7 * len(key) + 30) for key in varied},
    }  # in pixels
    state = {
        "searchFilter": f"tags.`{PARENT}` = '{parent}'",
        "orderByKey": _column("metrics", ranking),
        "orderByAsc": True,
        "selectedColumns": list(widths),
        "columnOrder": list(widths),
        "columnWidths": widths,
        "compareRunSections": [
            {"uuid": section, "name": section, "display": True, "columns": columns, "cardHeight": HEIGHT}
            for section, columns in ((BEST, 1), (CURVES, 2))
        ],
        "isAccordionReordered": True,  # else sections are sorted by name
        "compareRunCharts": _charts(space),
    }
    now = int(time.time() * 1000)
    return {"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}


def _charts(space: Space) -> list[dict[str, Any]]:
    """Charts of the view: parallel coordinates, ranking metric against size, learning curves.

    The axes of the parallel coordinates are keys without a condition; MLflow leaves out trials without a value.
    """
    ranking, curve_metric, amount = _metrics(space)
    axes = [*(key for key, variable in space.vary.items() if not variable.when), *_fitted(space)]
    parallel = {"type": "PARALLEL", "selectedParams": axes[:MOST_AXES], "selectedMetrics": [ranking]}
    scatter = {
        "type": "SCATTER", "xaxis": {"key": "parameters", "type": "PARAM"}, "yaxis": {"key": ranking, "type": "METRIC"},
    }  # fmt: skip
    curve = {
        "type": "LINE", "metricKey": curve_metric, "selectedMetricKeys": [curve_metric], "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": False, "lineSmoothness": 0,  # smoothed curves end before the last epoch
    }  # fmt: skip
    by_epoch = {**curve, "xAxisKey": "step"}
    by_amount = {**curve, "xAxisKey": "metric", "selectedXAxisMetricKey": amount}
    always = {"deleted": False, "isGenerated": False, "showAllRuns": False}
    return [
        {"uuid": uuid, "metricSectionId": section, "runsCountToCompare": count, **always, **chart}
        for uuid, section, count, chart in (
            ("parallel", BEST, 10, parallel),
            ("scatter", BEST, 100, scatter),
            ("epochs", CURVES, 10, by_epoch),
            ("data", CURVES, 10, by_amount),
        )
    ]


def _fitted(space: Space) -> list[str]:
    return [space.fit.key] if space.fit else []


def _metrics(space: Space) -> tuple[str, str, str]:
    return RECOGNISER_METRICS if space.is_recogniser else LANGUAGE_MODEL_METRICS


def _column(kind: str, key: str) -> str:
    return f"{kind}.`{key}`"
