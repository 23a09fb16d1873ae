"""Importances find what matters, rest on finished trials alone, and claim nothing where there is nothing to claim."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import records
from click.testing import CliRunner
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import TrialState
from rich.console import Console

from asr_platform.analysis.importances import FEWEST, Importances, importances
from asr_platform.cli.main import cli
from asr_platform.cli.tables.comparison import print_importances
from asr_platform.study.ledger import Ledger

SPACE: dict[str, BaseDistribution] = {
    "optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True),
    "model.d_model": CategoricalDistribution((32, 64, 128)),
    "model.encoder_layers": IntDistribution(1, 4),
    "data.text": CategoricalDistribution((None, "more.txt")),
}
PARAMS = {"optimizer.lr": 1e-3, "model.d_model": 64, "model.encoder_layers": 2, "data.text": None}


def cer(params: Mapping[str, Any]) -> float:
    """What a rate costs, much; and layers, a little."""
    return 0.1 + abs(params["optimizer.lr"] - 3e-3) * 50 + 0.002 * params.get("model.encoder_layers", 1)


def ledger_of(trials: int, value: Callable[[Mapping[str, Any]], float] = cer) -> Ledger:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(trials):
        trial = study.ask(SPACE)
        study.tell(trial, value(trial.params))
    return Ledger(study)


def add(ledger: Ledger, space: Mapping[str, BaseDistribution], value: float, params: Mapping[str, Any]) -> None:
    ledger.study.add_trial(optuna.create_trial(params=dict(params), distributions=dict(space), value=value))


def test_they_are_optunas_and_find_what_matters() -> None:
    ledger = ledger_of(40)
    found = importances(ledger)
    assert found.finished == 40
    assert next(iter(found.shares)) == "optimizer.lr" and found.shares["optimizer.lr"] > 0.7
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    assert found.shares == pytest.approx(FanovaImportanceEvaluator(seed=0).evaluate(ledger.study))
    assert importances(ledger) == found, "the same each time"


def test_only_finished_trials_count() -> None:
    ledger = ledger_of(FEWEST)
    found = importances(ledger)
    for state in (TrialState.PRUNED, TrialState.FAIL):
        for number in range(20):
            values = {"value": 5.0 + number} if state == TrialState.PRUNED else {}
            ledger.study.add_trial(optuna.create_trial(state=state, params=PARAMS, distributions=SPACE, **values))
    assert importances(ledger) == found
    assert importances(ledger_of(FEWEST - 1)).shares == {}


def test_a_key_with_a_condition_or_with_one_value_is_not_judged() -> None:
    ledger = ledger_of(0)
    sizes = {**SPACE, "tokenizer.vocab_size": CategoricalDistribution((24, 32))}
    for number in range(12):
        params = {**PARAMS, "optimizer.lr": 1e-3 * (1 + number % 5), "model.d_model": 32}
        if number % 3:
            add(ledger, sizes, cer(params), {**params, "tokenizer.vocab_size": 24})
        else:
            add(ledger, SPACE, cer(params), params)
    found = importances(ledger)
    assert found.not_judged["tokenizer.vocab_size"] == "it applies to 8 of 12 finished trials"
    assert found.not_judged["model.d_model"] == "it was 32 in every finished trial"
    assert found.shares.keys() == {"optimizer.lr"}


def test_a_space_that_grew_is_judged_whole() -> None:
    wider = {
        **SPACE,
        "optimizer.lr": FloatDistribution(1e-5, 1e-2, log=True),
        "model.d_model": CategoricalDistribution((32, 64, 128, 256)),
        "model.encoder_layers": FloatDistribution(1, 4),
    }
    ledger = ledger_of(10)
    for number in range(10):
        params = {**PARAMS, "optimizer.lr": 1e-5 * 2**number, "model.d_model": 256}
        add(ledger, wider, cer(params), params)
    found = importances(ledger)
    assert found.shares.keys() == {"optimizer.lr", "model.d_model", "data.text"}
    assert found.not_judged == {"model.encoder_layers": "it varied in different ways"}
    assert next(iter(found.shares)) == "optimizer.lr"


@pytest.mark.parametrize("ledger", [ledger_of(20, lambda params: 0.5), ledger_of(0)])
def test_nothing_is_claimed_where_all_are_equally_good(ledger: Ledger) -> None:
    assert importances(ledger).shares == {}


def shown(found: Importances) -> str:
    target = Console(file=io.StringIO(), width=80, color_system=None, _environ={})
    print_importances(target, found)
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_people_are_told_what_it_rests_on() -> None:
    text = shown(Importances(24, {"optimizer.lr": 0.612, "model.norm": 0.01}, {"model.gated": "it was true in all"}))
    assert ["optimizer.lr", "61.2%"] in [line.split() for line in text.splitlines()]
    assert "Computed from 24 finished trials" in text
    assert "not judged: model.gated: it was true in all" in text
    text = shown(Importances(5, {}, {}))
    assert "No importances from 5 finished trials: 8 are needed." in text
    assert "%" not in text
    assert "nothing varied, or all trials are equally good" in shown(Importances(20, {}, {}))


def test_the_command(tmp_path: Path) -> None:
    ledger = records.ledger_in(tmp_path)
    for number in range(3):
        records.add(ledger, "complete", [0.5 - number / 10])
    home = ["--home", str(tmp_path), "importances"]
    tree = json.loads(CliRunner().invoke(cli, [*home, "small", "--json"]).stdout)
    assert list(tree) == ["finished_trials", "importances", "not_judged"]
    assert (tree["finished_trials"], tree["importances"]) == (3, {})
    assert "No importances from 3 finished trials" in CliRunner().invoke(cli, home).stdout
