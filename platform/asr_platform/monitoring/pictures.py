"""Pictures of a sweep and its trials as artifacts of Optuna Dashboard, drawn from the ledger when a page asks for one.

Nothing is stored: the name of an artifact says what it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from matplotlib.figure import Figure
from optuna.artifacts.exceptions import ArtifactNotFound

from asr_platform.compat.optuna import dashboard_picture
from asr_platform.reporting import plots
from asr_platform.study.ledger import Ledger, TrialRecord
from trainables.evaluation.examples import ATTENTION, Examples

OF_TRIALS = (plots.LEARNING_CURVES, plots.CROSS_ATTENTION, plots.SELF_ATTENTION)


def pictures_of(ledger: Ledger, trials: Sequence[tuple[int, TrialRecord]]) -> dict[str, str]:
    """System attributes of a study by which Optuna Dashboard lists the pictures of a sweep and its trials.

    Args:
        trials: the trials, each with Optuna's id of it.
    """
    found: dict[str, str] = {}
    if any(trial.curve for _, trial in trials):
        found |= dashboard_picture(f"{ledger.study._study_id:x}", plots.SWEEP_CURVES, None)
    for trial_id, trial in trials:
        has_examples = trial.checkpoint and (Path(trial.checkpoint) / ATTENTION).is_file()
        for place, name in enumerate(OF_TRIALS if has_examples else OF_TRIALS[: 1 if trial.curve else 0]):
            found |= dashboard_picture(f"{ledger.study._study_id:x}-{trial.number:x}-{place:x}", name, trial_id)
    return found


class Pictures:
    """An artifact store of Optuna that draws what it is asked for.

    Args:
        ledger_of: returns the ledger of a study, given Optuna's id of it.
    """

    def __init__(self, ledger_of: Callable[[int], Ledger]) -> None:
        self.ledger_of = ledger_of

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The picture as PNG.

        Raises:
            ArtifactNotFound: there is no such picture, or no longer, since its checkpoint was removed.
        """
        try:
            study, *rest = (int(part, 16) for part in artifact_id.split("-"))
            ledger = self.ledger_of(study)
            figure = _of_trial(ledger.trial(rest[0]), OF_TRIALS[rest[1]]) if rest else _of_sweep(ledger)
        except (ValueError, KeyError, IndexError):
            raise ArtifactNotFound(artifact_id) from None
        if figure is None:
            raise ArtifactNotFound(artifact_id)
        content = BytesIO()
        plots.save(figure, content)
        content.seek(0)
        return content

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Refuses, as the pages change nothing but notes."""
        raise PermissionError(artifact_id)

    def remove(self, artifact_id: str) -> None:
        """Refuses, as the pages change nothing but notes."""
        raise PermissionError(artifact_id)


def _of_sweep(ledger: Ledger) -> Figure | None:
    trials = ledger.trials()
    return plots.sweep_curves(trials) if any(trial.curve for trial in trials) else None


def _of_trial(trial: TrialRecord, name: str) -> Figure | None:
    if name == plots.LEARNING_CURVES:
        return plots.trial_curves(trial) if trial.curve else None
    examples = Examples.load(Path(trial.checkpoint)) if trial.checkpoint else None
    if examples is None:
        return None
    draw = plots.cross_attention if name == plots.CROSS_ATTENTION else plots.self_attention
    return draw(examples.attention)
