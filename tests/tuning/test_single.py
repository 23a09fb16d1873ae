"""The space of a single training keeps the budget and the rules of the space that it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
import records
import yaml

from asr_platform.storage.home import Home
from asr_platform.tuning.single import UNLIMITED, single
from trainables.errors import InputError

SPACE = records.SPACE + "budget: 123456\nrules: hw4p2\n"


def test_a_trial_and_a_base_keep_budget_and_rules(tmp_path: Path) -> None:
    ledger = records.ledger_in(Home.at(tmp_path).path, space=SPACE)
    records.add(ledger, "complete", [0.5])
    (tmp_path / "space.yaml").write_text(SPACE)
    for source, origin in ((str(tmp_path / "space.yaml"), None), (None, "small"), (None, "small:0")):
        settings = single(tmp_path, source, origin, None).settings
        assert (settings.budget, settings.rules, settings.trials) == (123_456, "hw4p2", 1)


def test_a_base_that_breaks_the_rules_is_refused(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("base: {data: {train: train-other}}\nrules: hw4p2\n")
    with pytest.raises(InputError, match=r"line 1: base\.data\.train: train-other"):
        single(tmp_path, str(tmp_path / "space.yaml"), None, None)


def test_a_configuration_has_neither(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"d_model": 64}}))
    settings = single(tmp_path, str(tmp_path / "config.yaml"), None, None).settings
    assert (settings.budget, settings.rules) == (UNLIMITED, None)
