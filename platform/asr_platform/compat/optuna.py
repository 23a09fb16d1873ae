"""Tables and private names of Optuna (5.0) that its documentation does not promise, each with the reason for its use.

One more is used by `Sampler.notes` in `search_spaces/samplers.py`.
`tests/compat/test_optuna.py` fails when one of these is gone. Optuna takes a second to import: what needs it is in
`optuna_storage.py`.
"""

from __future__ import annotations

import json
from typing import Any

# SQL tables. `study/ledger_copies.py` copies the changed rows of one study, which no function of Optuna does.
STUDY_TABLES = ("studies", "study_directions", "study_user_attributes", "study_system_attributes")
TRIAL_TABLES = (
    "trials", "trial_user_attributes", "trial_system_attributes", "trial_params", "trial_values",
    "trial_intermediate_values", "trial_heartbeats",
)  # fmt: skip
LAST_TABLE = "alembic_version"  # the last one to be filled when Optuna makes a database
VERSION_TABLES = ("version_info", LAST_TABLE)
SCHEMA = "v3.2.0.a"  # revision in `LAST_TABLE`; of other revisions, Optuna itself says whether it can read them


def dashboard_note(text: str, version: int, trial_id: int) -> dict[str, Any]:
    """A note on a trial as Optuna Dashboard (0.21) keeps it: system attributes of the study, by the trial's id."""
    from optuna_dashboard import _note

    return {_note.note_ver_key(trial_id): version, **_note.split_body(text, trial_id)}


def is_dashboard_note(key: str, trial_id: int) -> bool:
    """Whether a system attribute of a study is a part of Optuna Dashboard's note on a trial."""
    from optuna_dashboard import _note

    return key == _note.note_ver_key(trial_id) or key.startswith(_note.note_str_key_prefix(trial_id))


def note_in_dashboard(attributes: dict[str, Any], trial_id: int) -> dict[str, Any]:
    """The note on a trial, `version` (0: none) and `body`, in a study's system attributes."""
    from optuna_dashboard import _note

    return dict(_note.get_note_from_system_attrs(attributes, trial_id))


def dashboard_picture(id: str, name: str, trial_id: int | None) -> dict[str, str]:
    """A PNG picture as Optuna Dashboard (0.21) lists it: a system attribute of the study.

    Args:
        id: id by which the artifact store knows it: hexadecimal digits and hyphens.
        trial_id: Optuna's id of the trial that it belongs to; None: the study.
    """
    from optuna_dashboard.artifact import _backend

    prefix = _backend.ARTIFACTS_ATTR_PREFIX if trial_id is None else _backend._dashboard_artifact_prefix(trial_id)
    return {f"{prefix}{id}": json.dumps({"artifact_id": id, "filename": name, "mimetype": "image/png"})}
