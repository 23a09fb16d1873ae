"""A confirmation trains the best configurations as they were, but for the seed, and ranks them by their means."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import records
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from asr_platform.cli.live import LiveDisplay
from asr_platform.cli.main import cli
from asr_platform.cli.tables.comparison import print_confirmation
from asr_platform.storage.home import Home
from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.recorded_space import RECORDED_DEFAULTS, defaults_to_record
from asr_platform.tuning.cluster import Options
from asr_platform.tuning.confirm import Confirmation, candidates, confirm, confirmation_space, folds_of, results
from search_spaces.reader import load_space, shipped
from search_spaces.space import Space
from trainables.config.tree import Config
from trainables.data.corpus import Corpus
from trainables.errors import InputError

# Conditions, a list, a path, a seed: all that a key can be.
SPACE = """
base:
  decoding: {method: beam, beam: 3}
vary:
  tokenizer.kind: {choice: [char, bpe, unigram]}
  tokenizer.vocab_size: {choice: [24, 32], when: {tokenizer.kind: [bpe, unigram]}}
  model.d_model: {choice: [32, 64, 128]}
  model.dropout: {float: [0, 0.2]}
  optimizer.betas: {choice: [[0.9, 0.98], [0.9, 0.999]]}
  optimizer.lr: {log: [1e-4, 1e-2]}
  training.seed: {choice: [0, 1, 3]}
trials: 20
epochs: 9
asha: {grace: 3, promotion: null, reduction: 3}
limits: {hours: 1}
"""


def trials_of(space: Space, count: int, first: int = 0) -> list[TrialRecord]:
    """The first is the best."""
    return [
        records.trial(number, "complete", [0.1 + number / 100], space.propose(records.Dice(first + number)))
        for number in range(count)
    ]


def stripped(config: Config) -> dict[str, Any]:
    """A configuration but for its seed."""
    tree = config.model_dump(mode="json")
    del tree["training"]["seed"]
    return tree


def proposals(space: Space) -> list[Mapping[str, Any]]:
    """What the ledger proposes for a space, to its last trial."""
    ledger = records.ledger_in_memory(space.settings.trials)
    return [ledger.propose(space, lambda values: records.counting(1000)).params for _ in range(space.settings.trials)]


@pytest.mark.parametrize("name", [*shipped(), "made up"])
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), top=st.integers(1, 5))
def test_every_trial_is_a_candidate_with_a_new_seed(name: str, seed: int, top: int) -> None:
    space = records.space(SPACE) if name == "made up" else load_space(name)
    trials = trials_of(space, 6, seed)
    chosen = candidates(space, trials, top, {})
    again = confirmation_space(space, "small", chosen, [7, 8])
    assert again.settings.trials == len(again.start) == 2 * len(chosen) <= 2 * top
    assert again.settings.epochs == again.settings.asha.grace == space.settings.epochs
    assert again.settings.rules == space.settings.rules
    for number, values in enumerate(again.start):
        config, original = again.config(values), space.config(chosen[number % len(chosen)].trial.params)
        assert config.training.seed == [7, 8][number // len(chosen)]
        assert stripped(config) == stripped(original)


def test_the_ledger_proposes_them_all_and_their_results_are_told_apart() -> None:
    """Through Optuna and back: a list and a word, a condition that holds for some."""
    space = records.space(SPACE)
    chosen = candidates(space, trials_of(space, 6), 4, {})
    again = confirmation_space(space, "small", chosen, [7, 8, 9])
    values = proposals(again)
    assert values == [dict(entry) for entry in again.start]
    runs = [
        records.trial(number, "complete", [0.5 - (number % 4) / 10 + number / 1000], params)
        for number, params in enumerate(values)
    ]
    found = results(chosen, runs)
    assert [one.trial.number for one in found] == [3, 2, 1, 0]
    assert [run.number for run in found[0].runs] == [3, 7, 11]
    assert found[0].values == pytest.approx([0.203, 0.207, 0.211])
    assert found[0].mean == pytest.approx(0.207) and found[0].deviation == pytest.approx(0.004)


def test_every_seed_is_trained_for_every_fold() -> None:
    """And a configuration without some of the folds ranks behind those that have all: folds differ."""
    space = records.space(SPACE.replace("base:\n", "base:\n  data: {folds: 3}\n"))
    chosen = candidates(space, trials_of(space, 2), 2, {})
    assert folds_of(chosen) == [1, 2, 3]
    again = confirmation_space(space, "small", chosen, [7, 8])
    assert again.settings.trials == 2 * 3 * 2
    runs = [(again.config(values).training.seed, again.config(values).data.fold) for values in again.start]
    assert sorted(runs) == sorted(2 * [(seed, fold) for seed in (7, 8) for fold in (1, 2, 3)])
    assert [fold for _, fold in runs[:4]] == [1, 1, 2, 2], "all configurations have a fold before the next"
    found = [
        records.trial(number, "complete", [0.5 - (number % 2) / 10], params)
        for number, params in enumerate(proposals(again)[:-1])
    ]
    whole, short = results(chosen, found)
    assert (len(whole.values), len(short.values)) == (6, 5) and (whole.mean or 0) > (short.mean or 0)


def test_the_same_configuration_is_confirmed_once() -> None:
    """Seeds aside, which the sweep may have varied."""
    space = records.space(SPACE)
    first, second = trials_of(space, 2)
    params = {**first.params, "training.seed": 3 - first.params["training.seed"] % 2}
    twins = [first, replace(second, params=params)]
    assert [one.trial.number for one in candidates(space, twins, 2, {})] == [0]


def test_trials_without_an_epoch_are_no_candidates() -> None:
    space = records.space(SPACE)
    trials = [*trials_of(space, 1), records.trial(1, "failed", params=space.propose(records.Dice(9)))]
    assert [one.trial.number for one in candidates(space, trials, 5, {})] == [0]
    assert candidates(space, trials[1:], 5, {}) == []


def test_the_search_asked_for_takes_the_place_of_the_configurations() -> None:
    space = records.space(SPACE)
    chosen = candidates(space, trials_of(space, 3), 2, {"method": "joint", "beam": 8})
    again = confirmation_space(space, "small", chosen, [5])
    for entry in again.start:
        decoding = again.config(entry).decoding
        assert (decoding.method, decoding.beam) == ("joint", 8)
    with pytest.raises(InputError, match="lm_weight"):
        candidates(space, trials_of(space, 3), 2, {"lm_weight": 0.3})


def confirmed(*curves: list[float | None]) -> Confirmation:
    """A configuration for each list of CERs from its seeds; None where it failed."""
    space = records.space(SPACE)
    chosen = candidates(space, trials_of(space, len(curves)), len(curves), {})
    assert len(chosen) == len(curves)
    runs = []
    for candidate, cers in zip(chosen, curves, strict=True):
        values = {key: from_value(value) for key, value in candidate.active.items()}
        for seed, cer in enumerate(cers):
            number, params = len(runs), {**values, "training.seed": seed}
            ended = records.trial(number, "failed" if cer is None else "complete", [] if cer is None else [cer], params)
            runs.append(ended)
    return Confirmation("small-confirm-1", 3, results(chosen, runs), False)


def from_value(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def test_means_rank_and_those_that_failed_come_last() -> None:
    found = confirmed([0.30, 0.10, 0.20], [0.19, 0.19, 0.19], [0.01, None, 0.02], [])
    assert [row["trial"] for row in found.as_tree()] == [1, 0, 2, 3]
    best, second, third, last = found.as_tree()
    assert (best["mean"], best["standard_deviation"]) == (pytest.approx(0.19), pytest.approx(0))
    assert (second["mean"], second["standard_deviation"]) == (pytest.approx(0.2), pytest.approx(0.1))
    assert (third["failed"], third["values"]) == (1, [0.01, 0.02])
    assert (last["mean"], last["standard_deviation"], last["values"]) == (None, None, [])


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_has_mean_and_spread(width: int) -> None:
    target = Console(file=io.StringIO(), width=width, color_system=None, _environ={})
    print_confirmation(target, confirmed([0.30, 0.10, 0.20], [0.19], [0.01, None]))
    assert isinstance(target.file, io.StringIO)
    lines = [line.split() for line in target.file.getvalue().splitlines()]
    assert ["1", "1", "19.00%", "19.00%", "19.00%", "1", "1,234,567"] in lines
    assert ["2", "0", "20.00%", "10.00%", "10.00%", "30.00%", "3", "1,234,567"] in lines
    assert ["3", "2", "1.00%", "1.00%", "1.00%", "1,", "1", "failed", "1,234,567"] in lines
    assert [line[:1] for line in lines].count(["model.d_model"]) == 1
    assert max(map(len, target.file.getvalue().splitlines())) <= width


def test_a_confirmation_is_found_again_and_told(tiny_corpus: Corpus, tmp_path: Path) -> None:
    """Its space is one that a sweep begins with; the same question finds the sweep that has answered it."""
    home = Home.at(tmp_path)
    text = "vary:\n  model.d_model: {choice: [32, 64]}\n  optimizer.lr: {log: [1.0e-4, 1.0e-2]}\nepochs: 9\n"
    about = {"corpus": str(tiny_corpus.path), "corpus_hash": tiny_corpus.hash, "options": asdict(Options())}
    about[RECORDED_DEFAULTS] = defaults_to_record()
    ledger = records.ledger_in(tmp_path, **about, space=text)
    space = records.space(text)
    for cer in (0.3, 0.1, 0.2):
        number = ledger.propose(space, lambda values: records.counting(1000)).number
        ledger.record(number, records.row(1, cer))
        ledger.finish(number, "complete")
    chosen = candidates(space, ledger.trials(), 2, {})
    again = confirmation_space(space, "small", chosen, [1, 2])
    feasibility = Feasibility(again, tiny_corpus)
    assert feasibility.check() == []
    own = records.ledger_in(tmp_path, "small-confirm-1", **{**about, "space": again.text, "trials": 4})
    for cer in (0.15, 0.1, 0.25, 0.1):
        number = own.propose(again, feasibility).number
        own.record(number, records.row(9, cer))
        own.finish(number, "complete")
    found = confirm(home, "small", 2, 2, {}, None, LiveDisplay(Console(file=io.StringIO())))
    assert (found.name, found.interrupted) == ("small-confirm-1", False)
    assert [(row["trial"], row["values"]) for row in found.as_tree()] == [(2, [0.1, 0.1]), (1, [0.15, 0.25])]
    printed = CliRunner().invoke(cli, ["--home", str(tmp_path), "confirm", "small", "--top", "2", "--seeds", "2"])
    assert printed.exit_code == 0
    assert ["1", "2", "10.00%", "0.00%", "10.00%", "10.00%", "2"] in [
        line.split()[:7] for line in printed.stdout.splitlines()
    ]


def test_a_sweep_that_has_learned_nothing_is_not_confirmed(tiny_corpus: Corpus, tmp_path: Path) -> None:
    about = {"corpus": str(tiny_corpus.path), "corpus_hash": tiny_corpus.hash, "options": asdict(Options())}
    records.add(records.ledger_in(tmp_path, **about), "complete", [0.97])
    with pytest.raises(InputError, match=r"the sweep small has learned nothing \(val CER 97\.00%\)") as error:
        confirm(Home.at(tmp_path), "small", 2, 2, {}, None, LiveDisplay(Console(file=io.StringIO())))
    assert "--init-from MODEL" in error.value.remedy
    assert Ledger.names(Home.at(tmp_path).studies) == ["small"]
