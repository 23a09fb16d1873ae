"""A plugin for pytest that hides all packages but those that `trainables` needs: `pytest -p alone`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Not scikit-learn: torch's compiler looks whether it is there, and would take the error below for its own.
HIDDEN = {
    "asr_platform", "av", "datasets", "espeakng_loader", "kaldi_native_fbank", "lhotse", "matplotlib", "mlflow",
    "num2words", "optuna", "optuna_dashboard", "plotly", "psutil",
    "pynvml", "ray", "requests", "rich", "search_spaces", "selenium", "soundfile", "soxr", "sqlalchemy",
    "transformers", "yaml",
}  # fmt: skip


class Hiding(MetaPathFinder):
    """Finds none of the hidden packages, and says so in Python's own words."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


sys.meta_path.insert(0, Hiding())
