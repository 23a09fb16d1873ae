"""The JSON schema takes every space that the reader takes, and refuses what can be seen in one key."""

from __future__ import annotations

import json

import jsonschema
import pytest
import records
from click.testing import CliRunner

from asr_platform.cli.main import cli
from search_spaces.reader import SHIPPED, parse_space, shipped
from search_spaces.schema import space_schema
from trainables.document import Document
from trainables.errors import InputError

SCHEMA = space_schema()
CHECK = jsonschema.Draft202012Validator(SCHEMA)


def mistakes(text: str) -> list[str]:
    """Places of the mistakes that an editor would mark, such as `vary/optimizer.lr`."""
    return ["/".join(map(str, error.absolute_path)) for error in CHECK.iter_errors(Document(text, "space.yaml").tree)]


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", shipped())
def test_spaces_that_ship_are_valid(name: str) -> None:
    assert mistakes((SHIPPED / f"{name}.yaml").read_text()) == []


@pytest.mark.parametrize("text", [
    records.SPACE,
    "base:\nvary:\nstart:\n",
    "base: {model: {d_model: 64}}\nvary: {model.feed_forward: fit, model.dropout: {float: [0, 0.2], step: 0.1}}\n",
    "vary: {optimizer.betas: {choice: [[0.9, 0.98], [0.9, 0.999]]}}\nstart: [{optimizer: {betas: [0.9, 0.98]}}]\n",
])  # fmt: skip
def test_other_spaces_are_valid(text: str) -> None:
    parse_space(text, "space.yaml")
    assert mistakes(text) == []


@pytest.mark.parametrize(("text", "place"), [
    ("budgte: 3", ""),
    ("trials: many", "trials"),
    ("epochs: 0", "epochs"),
    ("sampler: cmaes", "sampler"),
    ("asha: {reduction: 1}", "asha/reduction"),
    ("base: {model: {dropuot: 0.1}}", "base/model"),
    ("base: {model: {dropout: 2}}", "base/model/dropout"),
    ("base: {training: {epochs: 3}}", "base/training"),
    ("vary: {model.dropuot: {float: [0, 0.1]}}", "vary"),
    ("vary: {training.epochs: {int: [1, 3]}}", "vary"),
    ("vary: {model.dropout: [0, 0.1]}", "vary/model.dropout"),
    ("vary: {model.norm: {int: [1, 3]}}", "vary/model.norm"),
    ("vary: {model.norm: {choice: [layer, batch]}}", "vary/model.norm"),
    ("vary: {model.dropout: fit}", "vary/model.dropout"),
    ("vary: {model.norm: {choice: [layer], when: {model.nrom: rms}}}", "vary/model.norm"),
    ("start: {}", "start"),
])  # fmt: skip
def test_mistakes_are_marked_where_they_are(text: str, place: str) -> None:
    assert place in mistakes(text)
    with pytest.raises(InputError):
        parse_space(text, "space.yaml")


def test_every_key_says_what_it_means() -> None:
    """That is what an editor shows beside a key."""
    for section in (SCHEMA, *SCHEMA["$defs"].values()):
        for key, found in section["properties"].items():
            assert found.get("description") or "$ref" in found, key
    assert all(found["description"] for found in SCHEMA["properties"]["vary"]["properties"].values())


def test_it_is_printed_for_an_editor() -> None:
    ended = CliRunner().invoke(cli, ["schema"])
    assert (ended.exit_code, json.loads(ended.stdout)) == (0, SCHEMA)
