"""Every sampler keeps the same promises: what it proposes fits, follows from the ledger alone, and is tried once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
import records
from optuna.trial import TrialState

from asr_platform.study import samplers
from asr_platform.study.ledger import Ledger, TrialRecord
from asr_platform.study.samplers import Observation, observe, propose
from search_spaces.samplers import SAMPLERS, SamplerName
from search_spaces.space import Space
from trainables.errors import InputError

GRID = """
vary:
  tokenizer.kind: {choice: [char, bpe]}
  tokenizer.vocab_size: {choice: [24, 32], when: {tokenizer.kind: bpe}}
  model.d_model: {choice: [32, 64, 128]}
  model.encoder_layers: {int: [2, 6], step: 2}
  model.dropout: {float: [0, 0.3], step: 0.1}
"""
POINTS = 3 * 3 * 3 * 4  # the three tokenizers, widths, depths, dropouts
NAMES = get_args(SamplerName)
SEVERAL = {"nsga2": ("val_cer", "real_time_factor", "parameters")}
KINDS = [(name, ("val_cer",)) for name in NAMES] + [
    (name, SEVERAL.get(name, ("val_cer", "parameters"))) for name in NAMES if SAMPLERS[name].several_objectives
]
TRIALS = 12


def space_of(sampler: str, objectives: tuple[str, ...] = ("val_cer",), start: tuple[dict[str, Any], ...] = ()) -> Space:
    """A space for the sampler; all but the grid's vary real numbers too."""
    text = GRID if sampler == "grid" else records.SPACE
    space = records.space(f"{text}\nsampler: {sampler}\nobjectives: [{', '.join(objectives)}]\n")
    return replace(space, start=start)


every_kind = pytest.mark.parametrize(("sampler", "objectives"), KINDS, ids=lambda value: "".join(value[:4]))


def end(ledger: Ledger, trial: TrialRecord) -> None:
    """Finishes a trial as its number and its values have it; a third of the trials stop early, one fails."""
    params = trial.params
    cer = 0.1 + abs(params["model.dropout"] - 0.1) + 5 / params["model.d_model"] + 0.1 * (trial.number % 3)
    factor = params["model.d_model"] / 10_000
    for epoch in (1, 2) if trial.number % 3 else (1, 2, 3):
        ledger.record(trial.number, {**records.row(epoch, cer + 1 / epoch), "real_time_factor": factor})
    ledger.finish(trial.number, "failed" if trial.number == 4 else "pruned" if trial.number % 3 else "complete")


def search(ledger: Ledger, space: Space, trials: int = TRIALS) -> list[dict[str, Any]]:
    """The values of so many trials, one after the other."""
    for _ in range(trials):
        end(ledger, ledger.propose(space, records.parameters_of))
    return [trial.params for trial in ledger.trials()]


@pytest.fixture(scope="module")
def searched() -> Callable[[Space], Ledger]:
    """The ledger of a whole search, made once for each space."""
    known: dict[str, Ledger] = {}

    def of(space: Space) -> Ledger:
        if space.text not in known:
            known[space.text] = records.ledger_in_memory(TRIALS)
            search(known[space.text], space)
        return known[space.text]

    return of


def values_of(ledger: Ledger) -> list[dict[str, Any]]:
    return [trial.params for trial in ledger.trials()]


Searched = Callable[[Space], Ledger]


@every_kind
def test_what_is_proposed_can_be_a_trial_and_is_new(
    sampler: str, objectives: tuple[str, ...], searched: Searched
) -> None:
    space = space_of(sampler, objectives)
    proposed = values_of(searched(space))
    for number, values in enumerate(proposed):
        assert records.parameters_of(values) is not None
        assert set(values) == {key for key in space.vary if space.is_active(key, values)}
        space.config(values)
        assert values not in proposed[:number]
    assert {values["tokenizer.kind"] for values in proposed} == {"char", "bpe"}


@every_kind
def test_proposals_follow_from_the_ledger_alone(
    sampler: str, objectives: tuple[str, ...], searched: Searched, tmp_path: Path
) -> None:
    """Searched twice; and with a ledger that is read from its file between trials."""
    space = space_of(sampler, objectives)
    ledger, again = searched(space), records.ledger_in_memory(TRIALS)
    assert search(again, space) == values_of(ledger)
    trials, storage = ledger.study.get_trials(), records.storage_in(tmp_path)
    records.ledger_in(tmp_path).study.add_trials(trials[:-1])
    read = Ledger.open(storage, "small").study.get_trials()
    assert propose(space, records.observed(read), records.parameters_of)[0].params == trials[-1].params
    other_seed = replace(space, settings=space.settings.model_copy(update={"seed": 5_000_000_000}))
    assert search(records.ledger_in_memory(TRIALS), other_seed, 2) != values_of(ledger)[:2]


@every_kind
def test_trials_that_run_are_not_proposed_again(sampler: str, objectives: tuple[str, ...], searched: Searched) -> None:
    space = space_of(sampler, objectives)
    trials = records.observed(searched(space).study.get_trials())
    for _ in range(3):
        suggestion = propose(space, trials, records.parameters_of)[0]
        trials.append(Observation(suggestion.params, "running", None, None, {}, suggestion.notes))
    proposed = [trial.params for trial in trials[-3:]]
    assert all(values not in proposed[:number] for number, values in enumerate(proposed))


@every_kind
def test_starts_come_first(sampler: str, objectives: tuple[str, ...]) -> None:
    """One that does not fit leaves its turn to the sampler."""
    first = {"tokenizer.kind": "char", "model.d_model": 64, "model.dropout": 0.1}
    first |= {"model.encoder_layers": 4} if sampler == "grid" else {"optimizer.lr": 2e-3}
    wide, last = {**first, "model.d_model": 128}, {**first, "tokenizer.kind": "bpe", "tokenizer.vocab_size": 32}
    space = space_of(sampler, objectives, (first, wide, last))
    proposed = search(records.ledger_in_memory(TRIALS), space, 4)
    assert [proposed[0], proposed[2]] == [first, last]
    assert proposed[1]["model.d_model"] < 128 and proposed[3] not in proposed[:3]


@every_kind
def test_other_sweeps_trials_are_learned_from(sampler: str, objectives: tuple[str, ...], searched: Searched) -> None:
    """Where their values are possible; by the samplers that learn."""
    space = space_of(sampler, objectives)
    seed = space.settings.model_copy(update={"seed": 1})  # with that of the others, it might begin as they did
    ledger, space = searched(space), replace(space, settings=seed)
    others = [seen for seen in records.observed(ledger.study.get_trials()) if seen.state != "failed"]
    cold = propose(space, [], records.parameters_of)[0].params
    outside = [replace(seen, params={**seen.params, "model.d_model": 999}) for seen in others]
    unmeasured = [replace(seen, values={"val_cer": 0.5}) for seen in others] if len(objectives) > 1 else []
    assert propose(space, [], records.parameters_of, [*outside, *unmeasured])[0].params == cold
    stored = [Observation(**json.loads(json.dumps(asdict(seen)))) for seen in others]
    warm = propose(space, [], records.parameters_of, stored)[0].params
    assert (warm != cold) == SAMPLERS[sampler].learns


@every_kind
def test_a_search_where_nothing_fits_ends_with_a_word(
    sampler: str, objectives: tuple[str, ...], searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers, "PROPOSALS", 12)
    monkeypatch.setattr(samplers, "OF_THE_SAMPLER", 2)
    space = space_of(sampler, objectives)
    for trials in ([], records.observed(searched(space).study.get_trials())):
        with pytest.raises(
            InputError, match=r"small\.yaml: (none of 12 proposals fits|no point of the grid|the grid is|nothing new)"
        ):
            propose(space, trials, lambda values: None)


def test_when_a_space_is_used_up_the_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "PROPOSALS", 200)
    space = records.space("vary: {model.d_model: {choice: [32, 64, 128]}, model.encoder_layers: {int: [2, 3]}}")
    ledger = records.ledger_in_memory(TRIALS)
    for _ in range(4):
        ledger.finish(ledger.propose(space, records.parameters_of).number, "failed")
    with pytest.raises(
        InputError, match=r"nothing new to try: of 200 proposals \d+ have been tried, the others do not"
    ):
        ledger.propose(space, records.parameters_of)
    assert len({tuple(values.items()) for values in values_of(ledger)}) == 4


def test_where_nothing_varies_a_failed_trial_is_repeated() -> None:
    ledger = records.ledger_in_memory(2)
    for _ in range(2):
        ledger.finish(ledger.propose(records.space("trials: 2"), lambda values: records.counting(1)).number, "failed")
    assert values_of(ledger) == [{}, {}]


# The grid


def test_the_grid_is_all_combinations_once(tmp_path: Path) -> None:
    space = space_of("grid")
    orders = []
    for seed in (0, 1):
        seeded = replace(space, settings=space.settings.model_copy(update={"seed": seed}))
        trials = [trial.params for trial in samplers._grid(seeded)]
        orders.append(trials)
        assert len(trials) == POINTS == len({tuple(sorted(values.items())) for values in trials})
        for values in trials:
            assert ("tokenizer.vocab_size" in values) == (values["tokenizer.kind"] == "bpe")
        assert {values["model.dropout"] for values in trials} == {0.0, 0.1, 0.2, 0.3}
        assert {values["model.encoder_layers"] for values in trials} == {2, 4, 6}
    assert orders[0] != orders[1]
    ledger = records.ledger_in_memory(POINTS)
    fitting = [values for values in orders[0] if values["model.d_model"] < 128]
    for values in fitting:
        assert ledger.propose(space, records.parameters_of).params == values
    with pytest.raises(InputError, match=r"small\.yaml: the grid is done: all of its points that fit have been tried"):
        ledger.propose(space, records.parameters_of)


def test_a_grid_without_end_is_refused() -> None:
    with pytest.raises(InputError) as error:
        records.space(records.SPACE + "sampler: grid\n")
    assert "vary.model.dropout: the grid sampler needs a step" in error.value.problem
    assert "vary.optimizer.lr" in error.value.problem
    wide = "vary: {model.dropout: {float: [0, 0.5], step: 0.0001}, loss.ctc_weight: {float: [0, 0.5], step: 0.01}}"
    with pytest.raises(InputError, match="a grid of 255,051 points, more than 100,000"):
        propose(records.space(f"{wide}\nsampler: grid"), [], lambda values: records.counting(1))


# What the samplers are told


def test_nsga2_evolves(searched: Searched) -> None:
    """Children have their parents' values; drawn at random, no two trials would share a real number."""
    for objectives in (("val_cer",), ("val_cer", "real_time_factor", "parameters")):
        trials = searched(space_of("nsga2", objectives)).trials()
        generations = [trial.about["sampler_notes"]["NSGAIISampler:generation"] for trial in trials]
        assert generations == sorted(generations) and generations[-1] == 2
        shared = [
            any(trial.params[key] == older.params[key] for older in trials[: trial.number])
            for trial in trials
            for key in ("model.dropout", "optimizer.lr")
        ]
        begun = 2 * generations.count(0)
        assert not any(shared[:begun]) and sum(shared[begun:]) > len(shared[begun:]) / 2


SEEN = [
    Observation({"model.dropout": 0.1}, "complete", 9, 0.35, {"val_cer": 0.3, "parameters": 5}),
    Observation({"model.dropout": 0.0}, "complete", 9, 0.2, {"val_cer": 0.2, "parameters": 7}),
    Observation({"model.dropout": 0.2}, "pruned", 3, 0.95, {"val_cer": 0.9, "parameters": 6}),
    Observation({"model.dropout": 0.15}, "running", 3, 0.5, {"val_cer": 0.5, "parameters": 6}),
]


@pytest.mark.parametrize(
    ("settings", "stopped", "finished"),
    [
        ("", (TrialState.PRUNED, None, {3: 0.95}), [0.3]),
        ("sampler: gp", (TrialState.COMPLETE, [0.3], {}), [0.3]),
        ("sampler: nsga2", (TrialState.COMPLETE, [0.9], {}), [0.3]),
        ("objectives: [val_cer, parameters]", (TrialState.COMPLETE, [0.9, 6.0], {}), [0.3, 5.0]),
    ],
)
def test_stopped_trials_are_told_as_the_sampler_can_use_them(
    settings: str, stopped: tuple[Any, ...], finished: list[float]
) -> None:
    """TPE ranks them itself; elsewhere they are as they were, for a Gaussian process no worse than a finished one."""
    space = records.space("vary: {model.dropout: {float: [0, 0.2]}}\n" + settings)
    first, _, pruned, running = samplers._copies(space, SEEN)
    assert (pruned.state, pruned.values, pruned.intermediate_values) == stopped
    assert (first.state, first.values) == (TrialState.COMPLETE, finished)
    assert (running.state, running.values) == (TrialState.RUNNING, None)


def test_a_ledger_tells_what_its_trials_reached() -> None:
    """The best epoch's values, and the last one's to rank stopped trials by; of a failed one nothing."""
    ledger = records.ledger_in_memory(TRIALS)
    numbers = [ledger.propose(records.space(), records.parameters_of).number for _ in range(3)]
    for epoch, cer in enumerate([0.9, 0.2, 0.4], start=1):
        ledger.record(numbers[0], {**records.row(epoch, cer), "real_time_factor": epoch / 100})
    ledger.finish(numbers[0], "pruned")
    ledger.finish(numbers[1], "failed")
    pruned, failed, running = records.observed(ledger.study.get_trials())
    trial = ledger.trial(0)
    values = {"val_cer": 0.2, "parameters": trial.about["parameters"], "real_time_factor": 0.02}
    assert pruned == Observation(trial.params, "pruned", 3, 0.4, values)
    assert failed.state == "failed"
    assert running == Observation(ledger.trial(2).params, "running", None, None, {})
    ledger.record(numbers[2], records.row(1, 0.8))
    begun = ledger.study.get_trials()[2]
    told = [observe(begun, begun.params, promotions) for promotions in ([], [2, 4], [1, 2])]
    assert [seen.state for seen in told] == ["running", "running", "pruned"], "one that waits may wait for long"


def test_what_varies_together_includes_conditional_keys() -> None:
    """For a Gaussian process and NSGA-II, which else would draw them at random."""
    for sampler in ("gp", "nsga2"):
        space = space_of(sampler)
        values = {"tokenizer.kind": "char", "model.d_model": 32, "model.dropout": 0.1, "optimizer.lr": 1e-3}
        seen = [Observation(values, "complete", 1, 0.5, {"val_cer": 0.5})]
        assert samplers._copies(space, seen)[0].params == {**values, "tokenizer.vocab_size": 24}


def test_a_narrowed_space_learns_from_what_it_still_has() -> None:
    space = records.space("vary: {model.dropout: {float: [0.05, 0.2]}}")
    assert [trial.params for trial in samplers._copies(space, SEEN)] == [
        {"model.dropout": value} for value in (0.1, 0.2, 0.15)
    ]


def test_a_language_model_has_no_decoding_time() -> None:
    with pytest.raises(InputError, match="objectives: a language model has no real_time_factor"):
        records.space("base: {model: {kind: language_model}}\nobjectives: [val_cer, real_time_factor]")


# The table of samplers


def test_every_sampler_has_an_entry_and_a_class_of_optuna() -> None:
    assert set(SAMPLERS) == set(NAMES)
    for name, one in SAMPLERS.items():
        assert (one.optuna is None) == (name == "grid")
        assert one.optuna is None or issubclass(getattr(optuna.samplers, one.optuna), optuna.samplers.BaseSampler)


def test_generations_of_earlier_versions_are_known() -> None:
    """Fitted widths stood beside the count of parameters, and in the observations of a warm start."""
    old = optuna.create_trial(state=TrialState.RUNNING, user_attrs={"generation": 3})
    assert observe(old, {}).notes == {"NSGAIISampler:generation": 3}
    ledger = records.ledger_in_memory(TRIALS)
    ledger.note("warm_start", [{**asdict(SEEN[0]), "generation": 0}])
    assert ledger.propose(records.space(), records.parameters_of).number == 0
