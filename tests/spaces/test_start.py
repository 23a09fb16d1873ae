"""Configurations that a space names to be tried first, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from proposals import Drawn

from search_spaces.reader import parse_space
from search_spaces.space import STRUCTURED, Space
from trainables.config.parsing import unflatten
from trainables.errors import InputError

SPACE = """
base:
  tokenizer: {kind: bpe, vocab_size: 1000}
  model: {d_model: 64, heads: 2, dropout: 0}
  optimizer: {lr: 1e-3}
vary:
  tokenizer.vocab_size: {choice: [1000, 5000], when: {tokenizer.kind: [bpe, unigram]}}
  tokenizer.kind: {choice: [char, bpe, unigram]}
  model.heads: {choice: [2, 4, 7]}
  model.encoder_layers: {int: [2, 8], step: 2}
  model.conv_channels: {choice: [32, 64, 256], when: {model.encoder_layers: 2, tokenizer.kind: char}}
  model.d_model: {fit: [56, 512]}
  model.dropout: {float: [0, .2], step: 5e-2}
  optimizer.lr: {log: [5e-4, 3.0E-3]}
  optimizer.betas: {choice: [[0.9, 0.95], [0.9, 0.98]]}
  training.stages: {choice: [[], [{epochs: 2, freeze: [decoder.*]}]]}
"""
BASE = {
    "tokenizer.kind": "bpe",
    "tokenizer.vocab_size": 1000,
    "model.heads": 2,
    "model.encoder_layers": 2,
    "model.d_model": 64,
    "model.dropout": 0.0,
    "optimizer.lr": 1e-3,
    "optimizer.betas": "[0.9, 0.98]",
    "training.stages": "[]",
}


def with_start(entries: Any) -> Space:
    return parse_space(SPACE + yaml.safe_dump({"start": entries}), "my.yaml")


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.booleans(), st.data())
def test_every_proposal_can_be_an_entry(seed: int, nested: bool, data: st.DataObject) -> None:
    """By paths or in sections, and without what the base says already."""
    space = with_start([])
    values = space.propose(Drawn(seed))
    values["model.d_model"] = values["model.heads"] * data.draw(st.integers(14, 36)) * 2
    entry = {key: json.loads(value) if key in STRUCTURED else value for key, value in values.items()}
    left = {key: value for key, value in entry.items() if values[key] != BASE.get(key) or data.draw(st.booleans())}
    (start,) = with_start([unflatten(left) if nested else left]).start
    assert start == values
    assert space.config(start).model.d_model == values["model.d_model"]


def test_an_empty_entry_is_the_base() -> None:
    (start,) = with_start([{}]).start
    assert start == BASE
    assert with_start([{}]).config(start) == with_start([{}]).config({})


def test_a_width_that_nobody_says_is_left_to_be_solved_for() -> None:
    space = parse_space("vary:\n  model.feed_forward: fit\nstart: [{}, {model.feed_forward: 512}]\n", "my.yaml")
    assert space.start == ({}, {"model.feed_forward": 512})


def test_what_does_not_take_part_is_left_out() -> None:
    (start,) = with_start([{"tokenizer.kind": "char"}]).start
    assert start == {**{key: BASE[key] for key in BASE if key != "tokenizer.vocab_size"}, "tokenizer.kind": "char"} | {
        "model.conv_channels": 256
    }


def test_numbers_are_of_the_type_that_is_proposed() -> None:
    (start,) = with_start([{"model.dropout": 0, "model.encoder_layers": 4.0}]).start
    assert (repr(start["model.dropout"]), repr(start["model.encoder_layers"])) == ("0.0", "4")


def test_the_order_is_that_of_the_file() -> None:
    assert [values["model.heads"] for values in with_start([{"model.heads": n} for n in (4, 2)]).start] == [4, 2]
    assert parse_space(SPACE, "my.yaml").start == ()
    assert parse_space(f"{SPACE}start:\n", "my.yaml").start == ()


@pytest.mark.parametrize(
    ("entry", "place", "reason"),
    [
        ("{model.depth: 3}", "start.1.model.depth", "does not vary; what varies is tokenizer.vocab_size, tokenizer"),
        ("{model: {heads: 2, depth: 3}}", "start.1.model.depth", "does not vary"),
        ("{model.heads: 2, model: {heads: 2}}", "start.1.model.heads", "given twice, once by its path"),
        ("{model.heads: 2, model.heads: 4}", "start.1.model.heads", "given twice; the first is on line"),
        ("{model.heads: 3}", "start.1.model.heads", "3 is not one of 2, 4, 7"),
        ("{model.heads: [2]}", "start.1.model.heads", "'[2]' is not one of"),
        ("{model.encoder_layers: 10}", "start.1.model.encoder_layers", "10 is not in [2, 8] in steps of 2"),
        ("{model.encoder_layers: 3}", "start.1.model.encoder_layers", "3 is not in [2, 8] in steps of 2"),
        ("{model.encoder_layers: two}", "start.1.model.encoder_layers", "'two' is not in [2, 8]"),
        ("{model.dropout: 0.3}", "start.1.model.dropout", "0.3 is not in [0, 0.2]"),
        ("{model.dropout: 0.12}", "start.1.model.dropout", "0.12 is not 0 and a number of steps of 0.05"),
        ("{model.dropout: .nan}", "start.1.model.dropout", "nan is not in [0, 0.2]"),
        ("{model.dropout: null}", "start.1.model.dropout", "None is not in [0, 0.2]"),
        ("{model.d_model: 600}", "start.1.model.d_model", "600 is not in [56, 512]"),
        ("{model.d_model: fit}", "start.1.model.d_model", "'fit' is not in [56, 512]"),
        ("{optimizer.betas: [0.9, 0.9]}", "start.1.optimizer.betas", "'[0.9, 0.9]' is not one of"),
        ("{optimizer.betas: [2020-01-01]}", "start.1.optimizer.betas", "not JSON serializable"),
        ("{tokenizer: {kind: char, vocab_size: 1000}}", "start.1.tokenizer.vocab_size",
         "has no meaning here: it varies when tokenizer.kind is bpe or unigram"),
        ("{model.heads: 7}", "start.1", "heads must divide d_model, but got heads=7, d_model=64"),
        ("3", "start.1", "must be a mapping of varied keys to values, but got 3"),
    ],
)  # fmt: skip
def test_mistakes_in_an_entry(entry: str, place: str, reason: str) -> None:
    text = f"{SPACE}start:\n  - {{}}\n  - {entry}\n"
    with pytest.raises(InputError) as error:
        parse_space(text, "my.yaml")
    (_, found) = error.value.problem.splitlines()
    assert found.startswith(f"  line {len(text.splitlines())}: {place}: ") and reason in found, found


@pytest.mark.parametrize("start", ["3", "{}", "{model.heads: 2}", "fit"])
def test_a_start_that_is_no_list(start: str) -> None:
    with pytest.raises(InputError, match="start: must be a list of configurations"):
        parse_space(f"{SPACE}start: {start}\n", "my.yaml")


def test_a_value_that_comes_from_the_base_is_said_to() -> None:
    text = "vary:\n  model.dropout: {float: [0.2, 0.3]}\nstart:\n  - {}\n"
    with pytest.raises(InputError) as error:
        parse_space(text, "my.yaml")
    (_, found) = error.value.problem.splitlines()
    assert found == (
        "  line 4: start.0.model.dropout: 0.1 is not in [0.2, 0.3]; it is the base's: "
        "give the key a value in this entry, or widen what varies"
    )


def test_mistakes_elsewhere_come_first() -> None:
    """An entry lies over the base: where that is wrong, only what needs no base is said of the entry."""
    text = "base: {model: {heads: 3}}\nvary: {model.dropout: {float: [0, 1]}}\nstart: [{model.dropout: 3, a: 1}]\n"
    with pytest.raises(InputError) as error:
        parse_space(text, "my.yaml")
    assert [line.split(":")[1].strip() for line in error.value.problem.splitlines()[1:]] == [
        "base.model", "vary.model.dropout", "start.0.a"
    ]  # fmt: skip


def test_paths_are_relative_to_a_folder(tmp_path: Path) -> None:
    text = "vary: {pretrained.decoder: {choice: [null, models/one]}}\nstart: [{}, {pretrained.decoder: models/one}]\n"
    first, second = parse_space(text, "space.yaml", tmp_path).start
    assert first == {"pretrained.decoder": None}
    assert second == {"pretrained.decoder": str(tmp_path / "models/one")}
