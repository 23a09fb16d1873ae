"""Tables of learning curves are read, drawn from and answered."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from answers import Answers, Forest, RandomDraw
from curve_tables import CURVES, DIGITS, Table, read_table

from asr_platform.study.samplers import distributions_of
from search_spaces.distributions import Float
from search_spaces.reader import load_space, parse_space
from trainables.errors import InputError


@pytest.fixture(scope="module")
def digits() -> Table:
    return read_table(DIGITS)


def arrays(path: Path, **changed: np.ndarray) -> Path:
    """A table of three configurations; the second diverges in its third epoch."""
    loss_NE = np.array([[0.7, 0.6, 0.5, 0.4], [0.7, 0.65, 0.6, np.nan], [0.7, 0.69, 0.68, 0.67]], np.float32)
    tree = {
        "keys": np.array(["beta1", "learning_rate", "fixed"]),
        "hyperparameters": np.array([[0.9, 1e-3, 1.0], [0.99, 1e-1, 1.0], [0.5, 1e-2, 1.0]]),
        "validation_loss": loss_NE,
    }
    np.savez(path, **{**tree, **changed})
    return path


@pytest.mark.parametrize("path", sorted(CURVES.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_recorded_table_is_of_its_space(path: Path) -> None:
    table = read_table(path)
    assert len({curve.number for curve in table.curves}) == len(table.curves) >= 60
    for curve in table.curves:
        assert not table.space.take(curve.values)[1] and table.space.config(dict(curve.values))
        assert [row["epoch"] for row in curve.epochs] == list(range(1, len(curve.epochs) + 1))
        assert all(row["cpu_seconds"] > 0 for row in curve.epochs)
        assert len(curve.epochs) == table.epochs or not curve.epochs or curve.best > 0.5  # diverged


def test_a_table_is_searched_with_the_settings_of_a_plain_space(digits: Table, tmp_path: Path) -> None:
    """Whatever its own space says about stopping."""
    recorded = load_space(str(DIGITS.with_suffix(".yaml")))
    plain = parse_space("epochs: 16\nvary: {model.dropout: {float: [0, 0.3]}}\n", "plain.yaml").settings
    assert digits.space.settings == plain != recorded.settings and digits.space.vary == recorded.vary
    assert read_table(arrays(tmp_path / "t.npz")).space.settings == plain.model_copy(update={"epochs": 3})


def test_losses_of_arrays_are_the_values_that_rungs_compare(tmp_path: Path) -> None:
    table = read_table(arrays(tmp_path / "t.npz"), epoch_seconds=2.0)
    vary = {key: variable.distribution for key, variable in table.space.vary.items()}
    assert list(vary) == ["beta1", "learning_rate"] and vary["learning_rate"] == Float(1e-3, 1e-1, log=True)
    assert [curve.values["beta1"] for curve in table.curves] == pytest.approx([0.1, 0.01, 0.5])
    assert [len(curve.epochs) for curve in table.curves] == [3, 2, 3]
    assert table.curves[0].epochs[0] == {"epoch": 1, "val_cer": pytest.approx(0.6), "cpu_seconds": 2.0}
    assert (table.epochs, table.seconds) == (3, 16.0) and table.best == pytest.approx(0.4)
    assert set(distributions_of(table.space)) == set(vary)


def test_an_epoch_of_arrays_costs_as_much_as_one_of_the_digits(digits: Table, tmp_path: Path) -> None:
    assert read_table(arrays(tmp_path / "t.npz")).epoch_seconds == pytest.approx(digits.epoch_seconds)


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    alone = tmp_path / "alone.jsonl"
    alone.write_text(json.dumps({"number": 0}))
    negative = arrays(tmp_path / "negative.npz", hyperparameters=np.full((3, 3), -1.0))
    np.savez(tmp_path / "other.npz", keys=np.array(["a"]))
    for path, what in [
        (tmp_path / "none.npz", "no such table"),
        (alone, "no such space"),
        (negative, "positive"),
        (tmp_path / "other.npz", "hyperparameters"),
    ]:
        with pytest.raises(InputError, match=what):
            read_table(path)


def test_subsets_are_drawn_by_their_seed(digits: Table) -> None:
    one, same, other = digits.subset(1), digits.subset(1), digits.subset(2)
    assert one.curves == same.curves != other.curves and len(one.curves) == 40
    assert {curve.number for curve in one.curves} <= {curve.number for curve in digits.curves}
    assert one.space.settings.trials == 40 and len(digits.subset(0, 7).curves) == 7
    left = digits.without_best()
    assert len(left.curves) == len(digits.curves) - 1 and left.best > digits.best


def test_a_configuration_answers_its_own_values(digits: Table) -> None:
    answers = Answers(digits)
    assert all(answers(digits.curves, curve.values) is curve for curve in digits.curves)
    assert answers(digits.curves[1:2], digits.curves[0].values) is digits.curves[1]


def test_a_sampler_meets_what_it_proposes(digits: Table) -> None:
    """However many others are left; and random proposals meet every configuration."""
    answers, draw = Answers(digits), RandomDraw(1)
    met = Counter(answers(digits.curves, digits.space.propose(draw)).number for _ in range(1000))
    assert len(met) == len(digits.curves)
    for curve in digits.curves:
        values = {**curve.values, "model.dropout": min(0.3, curve.values["model.dropout"] + 0.01)}
        assert answers(digits.curves, values) is curve


def test_a_forest_answers_proposals_as_they_are(tmp_path: Path) -> None:
    table = read_table(arrays(tmp_path / "t.npz"), epoch_seconds=2.0)
    forest = Forest(table)
    assert forest.table.curves[0].best < forest.table.curves[2].best  # as recorded
    values = {"beta1": 0.2, "learning_rate": 0.05}
    answer = forest(forest.table.curves[1:], values)
    assert answer == forest(forest.table.curves[1:], values) and (answer.number, answer.values) == (1, values)
    assert [row["cpu_seconds"] for row in answer.epochs] == [2.0] * 3
    assert all(0.4 <= row["val_cer"] <= 0.7 for row in answer.epochs)
