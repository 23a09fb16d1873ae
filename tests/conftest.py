"""What every test may ask for: real speech, where there is some."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """The folder of real recordings: `SPEECH_DATA`, or `../shared/data` beside the repository."""
    folder = Path(os.environ.get("SPEECH_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real speech at {folder}; set SPEECH_DATA")
    return folder
