"""The platform's own command: as a process with a home for each test module, and within this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import place as places
import pytest
from browser import browser as browser
from browser import pictures as pictures
from command import Platform
from place import Ended, Run
from webhook import Webhook, listening

from asr_platform import cli


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform(tmp_path_factory.mktemp("platform"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, a model, a home with a sweep, and much that is wrong."""
    return places.furnish(tmp_path_factory.mktemp("place"))


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with listening() as server:
        yield server


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process, in the place."""
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
