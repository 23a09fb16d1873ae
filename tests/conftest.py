"""What every test may ask for: real speech, where there is some, a tiny corpus, a trained recogniser, the command."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import tiny
import torch
from browser import browser as browser
from browser import pictures as pictures
from webhook import Webhook, listening

from trainables.data.corpus import Corpus

if TYPE_CHECKING:  # what they need, tests of `trainables` do without
    from command import Platform
    from place import Run
    from servers import Postgres

REPOSITORY = Path(__file__).resolve().parents[1]

# A busy machine is no failure.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")
# Tensors as small as the tests' are slower with threads, and sums in another order round otherwise. So it is in the
# processes that tests start, where threads that outnumber the free cores also burn them as they wait for each other.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
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


@pytest.fixture(scope="session")
def learned(tiny_corpus: Corpus) -> tiny.Learned:
    """Trained until it transcribes the tiny corpus."""
    return tiny.learn(tiny_corpus, {"training.epochs": 36, "model.encoder_layers": 1, "model.decoder_layers": 1})


@pytest.fixture(scope="session")
def learned_editor(tiny_corpus: Corpus) -> tiny.Learned:
    """A transcript editor, trained until it transcribes the tiny corpus."""
    return tiny.learn(tiny_corpus, {**tiny.EDITING, "training.epochs": 24, "model.encoder_layers": 1})


@pytest.fixture(scope="session")
def database() -> Iterator[Postgres]:
    """A PostgreSQL server, on which each test makes databases of its own, and which none may stop."""
    import servers

    with servers.postgres() as server:
        yield server


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """Port of an S3 server, on which each test uses a folder of its own."""
    import servers

    with servers.s3() as port:
        yield port


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    from command import Platform

    running = Platform(tmp_path_factory.mktemp("platform"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, a model, a home with a sweep, and much that is wrong."""
    import place as places

    return places.furnish(tmp_path_factory.mktemp("place"))


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with listening() as server:
        yield server


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process, in the place."""
    from place import Ended

    from asr_platform.cli import main as cli

    monkeypatch.chdir(place)
    monkeypatch.delenv("ASR_PLATFORM_HOME", raising=False)

    def call(*words: str) -> Ended:
        monkeypatch.setattr("sys.argv", ["platform", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return Ended(code, *capfd.readouterr())

    return call
