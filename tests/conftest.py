"""What every test may ask for: real speech, where there is some, and a tiny corpus."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest
import tiny
import torch

from trainables.data.corpus import Corpus

REPOSITORY = Path(__file__).resolve().parents[1]

# A busy machine is no failure.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")
# Tensors as small as the tests' are slower with threads, and sums in another order round otherwise.
torch.set_num_threads(1)
# A shell's background is deaf to Ctrl-C, and so would be all that a test starts there and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """The folder of real recordings: `SPEECH_DATA`, or `../shared/data` beside the repository."""
    folder = Path(os.environ.get("SPEECH_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real speech at {folder}; set SPEECH_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Twenty training and ten validation utterances of the same sentences."""
    folder = tmp_path_factory.mktemp("corpora") / "tiny"
    return tiny.write_corpus(folder, {"train": tiny.SENTENCES * 2, "dev": tiny.SENTENCES})
