"""The platform's own command with a home for each test module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from command import Platform


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    running = Platform(tmp_path_factory.mktemp("platform"))
    yield running
    running.stop()
