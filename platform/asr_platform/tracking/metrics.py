"""The register of metrics that training reports after each epoch, with their units and names in MLflow.

A new metric needs one line here. A test trains a model of each kind, and fails if a reported metric has no line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from trainables.evaluation.metrics import objective_value

LoggedMetric = tuple[str, int, float]  # name in MLflow, epoch, value
NOT_METRICS = ("epoch", "checkpoint")


class Metric(NamedTuple):
    """How a metric is logged.

    Args:
        name: name in MLflow, which groups metrics by prefix.
        unit: unit of the value.
        best: name of a second metric that is logged after each epoch that is the best so far; empty: none. With the
            suffix `_percent`, a fraction is logged as a percentage.
    """

    name: str
    unit: str
    best: str = ""

    def best_value(self, value: float) -> float:
        """Value to log under the name `best`; percentages have three decimals, as MLflow's tables show every digit."""
        return round(100 * value, 3) if self.best.endswith("_percent") else float(value)


METRICS: Mapping[str, Metric] = {
    "train_loss": Metric("train/loss", "nats per token"),
    "train_cross_entropy": Metric("train/cross_entropy", "nats per token"),
    "train_ctc": Metric("train/ctc", "nats per token"),
    "infeasible_ctc": Metric("train/infeasible_ctc", "utterances with fewer encoder states than CTC needs"),
    "train_editing": Metric("train/editing", "nats per text position, CTC of the edited text"),
    "train_copying": Metric("train/copying", "nats per text position, cross-entropy of copying the draft"),
    "train_drafting": Metric("train/drafting", "nats per pooled state, CTC of the draft"),
    "train_spelling": Metric("train/spelling", "nats per encoder state, CTC of the mid head"),
    "own_drafts": Metric("train/own_drafts", "1: the editor learns from the encoder's drafts; 0: from corrupted texts"),
    "updates": Metric("train/updates", "optimizer updates since the trial's start"),
    "gradient_norm": Metric("train/gradient_norm", "L2 norm before clipping, last update"),
    "learning_rate": Metric("train/learning_rate", "last update"),
    "audio_hours": Metric("train/audio_hours", "hours since the trial's start"),
    "tokens": Metric("train/tokens", "tokens since the trial's start"),
    "val_loss": Metric("val/loss", "nats per token"),
    "val_cer": Metric("val/cer", "fraction", "asr/cer_percent"),
    "val_cer_single": Metric("val/cer_single", "fraction, without weight averaging"),
    "val_wer": Metric("val/wer", "fraction", "asr/wer_percent"),
    "val_ctc_cer": Metric("val/ctc_cer", "fraction, greedy CTC; a transcript editor's draft", "asr/ctc_cer_percent"),
    "val_one_step_cer": Metric("val/one_step_cer", "fraction, after one editing step", "asr/one_step_cer_percent"),
    "real_time_factor": Metric("val/real_time_factor", "seconds per second of audio", "asr/real_time_factor"),
    "real_time_factor_alone": Metric(
        "val/real_time_factor_alone", "seconds per second of audio, utterances one by one", "asr/real_time_factor_alone"
    ),
    "val_perplexity": Metric("val/perplexity", "per token"),
    "val_character_perplexity": Metric("val/character_perplexity", "per character", "lm/character_perplexity"),
    "val_character_perplexity_single": Metric(
        "val/character_perplexity_single", "per character, without weight averaging"
    ),
    "audio_seconds_per_second": Metric("system/audio_seconds_per_second", "seconds of audio per second"),
    "tokens_per_second": Metric("system/tokens_per_second", "tokens per second"),
    "padding_share": Metric("system/padding_share", "fraction of all frames"),
    "train_seconds": Metric("system/train_seconds", "seconds"),
    "validation_seconds": Metric("system/validation_seconds", "seconds"),
    "cpu_utilization": Metric("system/cpu_utilization", "fraction of torch's threads"),
    "memory_gb": Metric("system/memory_gb", "10^9 bytes, peak of the process"),
    "gpu_utilization": Metric("system/gpu_utilization", "fraction of the time"),
    "gpu_memory_gb": Metric("system/gpu_memory_gb", "10^9 bytes, peak of the epoch's tensors"),
}
"""Metrics of an epoch by their key in its report."""


def logged_metrics(curve: Sequence[Mapping[str, Any]]) -> Iterator[LoggedMetric]:
    """All metrics of a trial's epochs as (name, epoch, value), in the order of logging.

    MLflow's page that compares runs begins with the metric that was logged first, so metrics named by `Metric.best`
    come before the others. A key that is not in METRICS is logged under its own name.
    """
    best = float("inf")
    for row in curve:
        epoch = int(row["epoch"])
        if objective_value(row) <= best:
            best = objective_value(row)
            yield from best_metrics(row)
        for key, value in row.items():
            if key not in NOT_METRICS:
                yield METRICS[key].name if key in METRICS else key, epoch, float(value)


def best_metrics(row: Mapping[str, Any]) -> Iterator[LoggedMetric]:
    """Metrics of an epoch that is the best so far, under their names `Metric.best`."""
    for key, metric in METRICS.items():
        if metric.best and key in row:
            yield metric.best, int(row["epoch"]), metric.best_value(row[key])


def metric_histories(curve: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Metric histories of a trial by name in MLflow, each as (epoch, value) pairs in logging order."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, epoch, value in logged_metrics(curve):
        found.setdefault(name, []).append((epoch, value))
    return found
