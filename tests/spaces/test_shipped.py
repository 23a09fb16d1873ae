"""Every space that ships loads, and proposes models that are valid and within its budget."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from proposals import NUM_FEATS, feasible

from search_spaces.budget import FILLED, check_budget
from search_spaces.reader import SHIPPED, load_space, shipped
from trainables.config.tree import Tokenizer
from trainables.data.text.tokenizer import Vocabulary
from trainables.training.pretrained import DECODER_KEYS

PROPOSALS = 200
CHARACTERS = Vocabulary(33, 28)  # A to Z, space, apostrophe; with the special tokens
LEAST_FEASIBLE = 0.2  # share of raw proposals: with less, a space wastes its sampler


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    return CHARACTERS._replace(tokens=tokenizer.vocab_size or CHARACTERS.tokens)


def test_what_ships() -> None:
    names = "digits digits_editor digits_kinds digits_lm hour hw4p1 hw4p2 hw4p2_editor speech synthetic"
    assert set(names.split()) == set(shipped()) == {path.stem for path in SHIPPED.glob("*.yaml")}


def test_hidden_files_are_no_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("digits.yaml", "._digits.yaml"):  # macOS leaves the second in archives
        (tmp_path / name).touch()
    monkeypatch.setattr("search_spaces.reader.SHIPPED", tmp_path)
    assert shipped() == ["digits"]


@pytest.mark.parametrize("name", shipped())
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_proposals_are_valid_and_within_budget(name: str) -> None:
    """Half of the proposals are random. Infeasible ones are told as failed and asked again, as a sweep does."""
    space = load_space(name)
    sampler = optuna.samplers.TPESampler(n_startup_trials=PROPOSALS // 2, multivariate=True, group=True, seed=0)
    study = optuna.create_study(sampler=sampler)
    accepted = asked = 0
    while accepted < PROPOSALS and asked < PROPOSALS / LEAST_FEASIBLE:
        trial = study.ask()
        values = space.propose(trial)
        asked += 1
        space.config(values)  # over budget it may be, but never refused
        found = feasible(space, values, vocabulary_of)
        if found is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        budget = space.settings.budget
        assert found.config == space.config({**values, **found.fitted})
        assert (FILLED * budget if space.fit else 0) < found.parameters <= budget <= 30_000_000
        study.tell(trial, found.parameters / budget)
        accepted += 1
    assert accepted == PROPOSALS


@pytest.mark.parametrize("name", shipped())
def test_the_base_is_a_model_within_budget(name: str) -> None:
    space = load_space(name)
    assert all(feasible(space, values, vocabulary_of) for values in space.start or ({},))
    assert check_budget(space, vocabulary_of, NUM_FEATS) == []
    assert 1 <= (space.settings.asha.grace or 1) <= space.settings.epochs


@pytest.mark.parametrize("name", ["hour", "speech", "digits", "digits_editor", "digits_kinds", "hw4p2", "hw4p2_editor"])
def test_the_base_is_tried_first(name: str) -> None:
    space = load_space(name)
    assert space.config(space.start[0]) == space.config({})


def test_the_language_model_of_the_digits_can_begin_their_decoder() -> None:
    language, digits = (load_space(name).config({}) for name in ("digits_lm", "digits"))
    assert language.tokenizer == digits.tokenizer
    for key in DECODER_KEYS:
        assert getattr(language.model, key) == getattr(digits.model, key), key
