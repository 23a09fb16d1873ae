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
    """How a metric is logged after each epoch.

    Args:
        name: name in MLflow, which groups metrics by prefix.
        unit: unit of the logged value; a fraction is logged as a percentage if the unit begins with `percent`.
        best: name of a second metric: the value at the trial's best epoch so far; empty: none.
    """

    name: str
    unit: str
    best: str = ""

    def logged(self, value: float) -> float:
        """The value in the metric's unit; percentages have three decimals, as MLflow's tables show every digit."""
        return round(100 * value, 3) if self.unit.startswith("percent") else float(value)


METRICS: Mapping[str, Metric] = {
    "train_loss": Metric("train/loss", "nats per token"),
    "train_cross_entropy": Metric("train/cross_entropy", "nats per token"),
    "train_ctc": Metric("train/ctc", "nats per token"),
    "infeasible_ctc": Metric("train/infeasible_ctc", "utterances with fewer encoder states than CTC needs"),
    "stray_attention": Metric("train/stray_attention", "share of the attention that is far from the token's place"),
    "train_editing": Metric("train/editing", "nats per text position, CTC of the edited text"),
    "train_copying": Metric("train/copying", "nats per text position, cross-entropy of copying the draft"),
    "train_drafting": Metric("train/drafting", "nats per pooled state, CTC of the draft"),
    "train_spelling": Metric("train/spelling", "nats per encoder state, CTC of the mid head"),
    "own_drafts": Metric("train/own_drafts", "1: the editor learns from the encoder's drafts; 0: from corrupted texts"),
    "pretrained_share": Metric("train/pretrained_share", "share of the parameters that began with another model's"),
    "updates": Metric("train/updates", "optimizer updates since the trial's start"),
    "gradient_norm": Metric("train/gradient_norm", "L2 norm before clipping, last update"),
    "learning_rate": Metric("train/learning_rate", "last update"),
    "audio_hours": Metric("train/audio_hours", "hours since the trial's start"),
    "tokens": Metric("train/tokens", "tokens since the trial's start"),
    "val_loss": Metric("val/loss", "nats per token"),
    "val_cer": Metric("asr/cer_percent", "percent", "asr/best_cer_percent"),
    "val_cer_single": Metric("asr/cer_single_percent", "percent, without weight averaging"),
    "val_wer": Metric("asr/wer_percent", "percent", "asr/best_wer_percent"),
    "val_ctc_cer": Metric(
        "asr/ctc_cer_percent", "percent, greedy CTC; a transcript editor's draft", "asr/best_ctc_cer_percent"
    ),
    "val_one_step_cer": Metric(
        "asr/one_step_cer_percent", "percent, after one editing step", "asr/best_one_step_cer_percent"
    ),
    "real_time_factor": Metric("asr/real_time_factor", "seconds per second of audio", "asr/best_real_time_factor"),
    "real_time_factor_alone": Metric(
        "asr/real_time_factor_alone",
        "seconds per second of audio, utterances one by one",
        "asr/best_real_time_factor_alone",
    ),
    "val_perplexity": Metric("val/perplexity", "per token"),
    "val_character_perplexity": Metric("lm/character_perplexity", "per character", "lm/best_character_perplexity"),
    "val_character_perplexity_single": Metric(
        "lm/character_perplexity_single", "per character, without weight averaging"
    ),
    "audio_seconds_per_second": Metric("system/audio_seconds_per_second", "seconds of audio per second"),
    "tokens_per_second": Metric("system/tokens_per_second", "tokens per second"),
    "padding_share": Metric("system/padding_share", "fraction of all frames"),
    "workers": Metric("system/workers", "workers of the trial at the end of the epoch"),
    "train_seconds": Metric("system/train_seconds", "seconds"),
    "validation_seconds": Metric("system/validation_seconds", "seconds"),
    "cpu_utilization": Metric("system/cpu_utilization", "fraction of torch's threads"),
    "memory_gb": Metric("system/memory_gb", "10^9 bytes, peak of the process"),
    "gpu_utilization": Metric("system/gpu_utilization", "fraction of the time"),
    "gpu_memory_gb": Metric("system/gpu_memory_gb", "10^9 bytes, peak of the epoch's tensors"),
}
"""Metrics of an epoch by their key in its report."""


def logged_metrics(curve: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None = None) -> Iterator[LoggedMetric]:
    """All metrics of a trial's epochs as (name, epoch, value), in the order of logging.

    MLflow's page that compares runs begins with the metric that was logged first, so metrics named by `Metric.best`
    come before the others. A key that is not in METRICS is logged under its own name.

    Args:
        best: metrics of the best epoch before these; None if there is none.
    """
    for row in curve:
        epoch = int(row["epoch"])
        if best is None or objective_value(row) <= objective_value(best):
            best = row
        yield from best_metrics(best, epoch)
        for key, value in row.items():
            if key not in NOT_METRICS:
                metric = METRICS.get(key, Metric(key, ""))
                yield metric.name, epoch, metric.logged(value)


def best_metrics(best: Mapping[str, Any], epoch: int) -> Iterator[LoggedMetric]:
    """Metrics of the best epoch so far, under their names `Metric.best`, as they are logged at `epoch`."""
    for key, metric in METRICS.items():
        if metric.best and key in best:
            yield metric.best, epoch, metric.logged(best[key])


def metric_histories(curve: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Metric histories of a trial by name in MLflow, each as (epoch, value) pairs in logging order."""
    found: dict[str, list[tuple[int, float]]] = {}
    for name, epoch, value in logged_metrics(curve):
        found.setdefault(name, []).append((epoch, value))
    return found
