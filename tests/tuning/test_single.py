"""The space of a single training keeps the budget and the rules of the space that it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import records
import yaml

from asr_platform.storage.home import Home
from asr_platform.tuning.single import UNLIMITED, single
from trainables.config.parsing import parse_config
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


@pytest.mark.parametrize(
    ("kind", "section", "keys"),
    [
        ("transcript_editor", {"loss": {"ctc_weight": 0.5}}, ["loss.ctc_weight=0.5"]),
        (
            "transcript_editor",
            {"model": {"decoder_layers": 3}, "decoding": {"repeat_penalty": 2.0}},
            ["model.decoder_layers=3", "decoding.repeat_penalty=2.0"],
        ),
        ("encoder_decoder", {"decoding": {"editing_steps": 3}}, ["decoding.editing_steps=3"]),
        ("encoder_decoder", {"model": {"editor": {"layers": 3}}}, ["model.editor.layers=3"]),
    ],
)
def test_a_configuration_file_changes_no_key_of_another_kind(
    kind: str, section: dict[str, Any], keys: list[str], tmp_path: Path
) -> None:
    tree = {**section, "model": {"kind": kind, **section.get("model", {})}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(InputError) as error:
        single(tmp_path, str(tmp_path / "config.yaml"), None, None)
    assert f"no meaning with model.kind={kind}: {', '.join(keys)}" in error.value.problem


@pytest.mark.parametrize("kind", ["transcript_editor", "encoder_decoder", "language_model"])
def test_a_configuration_file_may_have_every_key_with_its_default(kind: str, tmp_path: Path) -> None:
    whole = parse_config({"model": {"kind": kind}}, "test").model_dump(mode="json")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(whole))
    assert single(tmp_path, str(tmp_path / "config.yaml"), None, None).kinds == (kind,)
