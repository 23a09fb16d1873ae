"""Tables and private names of Optuna (5.0) that its documentation does not promise, each with the reason for its use.

One more is used by `Sampler.notes` in `search_spaces/samplers.py`.
`tests/compat/test_optuna.py` fails when one of these is gone. Optuna takes a second to import: what needs it is in
`optuna_storage.py`.
"""

from __future__ import annotations

# SQL tables. `study/ledger_copies.py` copies the changed rows of one study, which no function of Optuna does.
STUDY_TABLES = ("studies", "study_directions", "study_user_attributes", "study_system_attributes")
TRIAL_TABLES = (
    "trials", "trial_user_attributes", "trial_system_attributes", "trial_params", "trial_values",
    "trial_intermediate_values", "trial_heartbeats",
)  # fmt: skip
LAST_TABLE = "alembic_version"  # the last one to be filled when Optuna makes a database
VERSION_TABLES = ("version_info", LAST_TABLE)
SCHEMA = "v3.2.0.a"  # revision in `LAST_TABLE`; of other revisions, Optuna itself says whether it can read them
