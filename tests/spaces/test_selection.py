"""The shipped space for a first sweep depends on the hours of speech and on the GPUs."""

from __future__ import annotations

import pytest

from search_spaces.reader import shipped
from search_spaces.selection import LARGE, LEAST_HOURS, SMALL, select_space


@pytest.mark.parametrize(("hours", "gpus", "name", "reason"), [
    (0.5, 0, SMALL, "30 minutes of speech and no GPU: small models"),
    (100, 0, SMALL, "100.0 hours of speech and no GPU: small models"),
    (1, 1, SMALL, "1.0 hours of speech, less than 5 hours: small models"),
    (LEAST_HOURS, 0.5, LARGE, "5.0 hours of speech and a GPU: models of up to 30 million parameters"),
])  # fmt: skip
def test_the_space_and_the_reason(hours: float, gpus: float, name: str, reason: str) -> None:
    assert select_space(hours, gpus) == (name, reason)
    assert name in shipped()
