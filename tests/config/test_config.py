"""What a configuration refuses, and how it is taken apart and put together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from trainables.config.parsing import flatten, known_keys, load_config, parse_config, unflatten
from trainables.config.tree import Config
from trainables.errors import InputError

keys = st.text("abcdefgh_", min_size=1, max_size=6)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers())
trees = st.recursive(
    st.dictionaries(keys, leaves, min_size=1),
    lambda children: st.dictionaries(keys, leaves | children, min_size=1),
    max_leaves=20,
)


def problem(tree: dict[str, Any]) -> str:
    with pytest.raises(InputError) as error:
        parse_config(tree, "here.yaml")
    assert error.value.problem.startswith("here.yaml: ")
    assert error.value.remedy
    return error.value.problem


def sections(section: type[BaseModel] = Config) -> Iterator[type[BaseModel]]:
    yield section
    for field in section.model_fields.values():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from sections(part)


@pytest.mark.parametrize("section", sections())
def test_every_section_and_field_is_described(section: type[BaseModel]) -> None:
    assert section.__doc__ and section.__doc__ != BaseModel.__doc__
    for key, field in section.model_fields.items():
        assert section is Config or field.description, key


@given(trees)
def test_unflatten_is_the_inverse_of_flatten(tree: dict[str, Any]) -> None:
    assert unflatten(dict(flatten(tree))) == tree


def test_every_key_of_a_configuration_survives_flattening_and_json() -> None:
    config = Config()
    assert parse_config(unflatten(dict(flatten(config.model_dump()))), "test") == config
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_flat_keys_are_section_and_field() -> None:
    flat = dict(flatten(Config().model_dump()))
    assert flat["model.dropout"] == 0.1
    assert {key.split(".")[0] for key in flat} == set(known_keys())
    assert {key for key in flat if key.startswith("loss.")} == {f"loss.{key}" for key in known_keys(("loss",))}


def test_an_unknown_key_is_named_with_the_keys_that_there_are() -> None:
    found = problem({"model": {"d_modle": 256}})
    assert "model.d_modle: unknown key" in found
    assert all(key in found for key in known_keys(("model",)))


def test_an_unknown_section_is_named_with_the_sections_that_there_are() -> None:
    found = problem({"modle": {}})
    assert "modle: unknown key; the keys here are data, features" in found


def test_all_mistakes_are_in_one_message() -> None:
    found = problem({"model": {"dropout": 1.5, "depth": 3}, "training": {"epochs": 0}})
    assert "model.dropout" in found and "1.5" in found
    assert "model.depth" in found
    assert "training.epochs" in found and "got 0" in found


ODD = {"d_model": 9, "heads": 3, "encoder_positions": "none", "decoder_positions": "none"}


@pytest.mark.parametrize(
    "fields",
    [
        ODD,
        {"kind": "transcript_editor", "d_model": 9, "heads": 3, "encoder_positions": "relative_keys"},
        {"kind": "language_model", "d_model": 9, "heads": 3, "decoder_positions": "none"},
        {"kind": "transcript_editor", "editor": {"d_model": 9, "heads": 3, "positions": "none"}},
        {"kind": "transcript_editor", "projector": {"d_model": 3, "heads": 3}},
    ],
)
def test_a_width_may_be_odd_or_small_where_there_are_no_sinusoids(fields: dict[str, Any]) -> None:
    """Positions of a stack that this kind of model does not have do not count."""
    assert parse_config({"model": fields}, "test").model.kind == fields.get("kind", "encoder_decoder")


@pytest.mark.parametrize(
    ("section", "fields", "expected"),
    [
        ("model", {"d_model": 256, "heads": 3}, "heads must divide d_model, but got heads=3, d_model=256"),
        ("model", {"d_model": 9, "heads": 3}, "d_model must be even for sinusoidal positions, but got d_model=9"),
        ("model", {**ODD, "encoder_positions": "transformer_xl"}, "must be even for transformer_xl positions"),
        ("model", {**ODD, "encoder_positions": "rotary"}, "rotary positions need an even head size, but it is 3"),
        ("model", {**ODD, "reduction": "lstm"}, "d_model must be even for reduction=lstm, but got d_model=9"),
        (
            "model",
            {"kind": "transcript_editor", "editor": {"d_model": 9, "heads": 3, "positions": "sinusoidal"}},
            "d_model must be even",
        ),
        ("model", {"kind": "language_model", "d_model": 9, "heads": 3}, "d_model must be even for sinusoidal"),
        ("model", {"reduction_factor": 0}, "model.reduction_factor"),
        ("model", {"dropout": 1.0}, "model.dropout"),
        ("model", {"layer_drop": -0.1}, "model.layer_drop"),
        ("tokenizer", {"kind": "char", "vocab_size": 100}, "vocab_size=100 has no meaning with kind=char"),
        ("tokenizer", {"kind": "bpe"}, "kind=bpe needs a vocab_size"),
        ("tokenizer", {"kind": "words"}, "tokenizer.kind"),
        ("features", {"num_feats": 0}, "features.num_feats"),
        ("specaugment", {"time_width": 1.5}, "specaugment.time_width"),
        ("loss", {"label_smoothing": 1.0}, "loss.label_smoothing"),
        ("optimizer", {"lr": 0.0}, "optimizer.lr"),
        ("optimizer", {"lr": float("nan")}, "optimizer.lr"),
        ("optimizer", {"lr": float("inf")}, "optimizer.lr"),
        ("optimizer", {"betas": [0.9]}, "optimizer.betas"),
        ("optimizer", {"betas": [0.9, 1.0]}, "optimizer.betas"),
        ("optimizer", {"warmup": 1.5}, "optimizer.warmup"),
        ("training", {"update_seconds": 0}, "training.update_seconds"),
        ("training", {"precision": "fp16"}, "training.precision"),
        ("training", {"seed": -1}, "training.seed"),
    ],
)
def test_what_cannot_work_is_refused(section: str, fields: dict[str, Any], expected: str) -> None:
    assert expected in problem({section: fields})


def test_what_no_transcript_editor_can_have_is_refused_for_it_alone() -> None:
    editing = {"model": {"kind": "transcript_editor"}}
    staged = {"training": {"stages": [{}, {"label_smoothing": 0.1}]}}
    assert "training.stages.1: label_smoothing has no meaning with model.kind=transcript_editor" in problem(
        {**editing, **staged}
    )
    draft = {"decoding": {"method": "ctc_beam", "editing_steps": 2}}
    assert "decoding.editing_steps=2 has no meaning with method=ctc_beam" in problem({**editing, **draft})
    parse_config({**staged, **draft}, "test")  # the base of a space over both kinds can have the editor's keys


def test_a_stage_has_no_more_layers_than_the_model() -> None:
    stages = [{"encoder_layers": 2}, {"decoder_layers": 3}]
    found = problem({"model": {"encoder_layers": 2, "decoder_layers": 2}, "training": {"stages": stages}})
    assert "training.stages.1: decoder_layers=3 of model.decoder_layers=2" in found
    assert "stages.0" not in found


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().model.dropout = 0.5  # type: ignore[misc]


def test_a_file_is_read_and_named_in_its_errors(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {heads: 2}\noptimizer: {lr: 1.0e-3}\n")
    assert load_config(file).model.heads == 2
    file.write_text("model: {head: 2}\n")
    with pytest.raises(InputError, match=r"run\.yaml: model\.head: unknown key"):
        load_config(file)


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "", "\xff"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"run\.yaml"):
        load_config(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


FORMER: dict[str, dict[str, Any]] = {
    "a_batch": {"batch_seconds": 90},
    "batches": {"batch_seconds": 180, "accumulation": 12},
    "batches_by_default": {"accumulation": 3},
    "tokens": {"batch_tokens": 1024, "accumulation": 2},
    "others_beside_them": {"batch_seconds": 2.5, "ema": 0.9},
}
NOW: dict[str, dict[str, Any]] = {
    "a_batch": {"update_seconds": 90},
    "batches": {"update_seconds": 2160, "update_tokens": 12 * 8192},
    "batches_by_default": {"update_seconds": 600, "update_tokens": 3 * 8192},
    "tokens": {"update_seconds": 400, "update_tokens": 2048},
    "others_beside_them": {"update_seconds": 2.5, "ema": 0.9},
}


@pytest.mark.parametrize("case", FORMER)
def test_former_keys_are_read_as_the_audio_of_an_update(case: str, tmp_path: Path) -> None:
    """Silently in what the program itself has written; of a file, its reader is told."""
    assert parse_config({"training": FORMER[case]}, "test") == parse_config({"training": NOW[case]}, "test")
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"training": FORMER[case]}), encoding="utf-8")
    with pytest.warns(FutureWarning) as warned:
        config = load_config(path)
    assert config == parse_config({"training": NOW[case]}, "test")
    told = [str(one.message) for one in warned]
    assert len(told) == len([key for key in FORMER[case] if key != "ema"])
    assert all(f"{path}, line " in text and "training.update_" in text for text in told)


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"batch_seconds": "much"}, "training.update_seconds"),
        ({"batch_seconds": 0, "accumulation": 3}, "training.update_seconds"),
        ({"accumulation": "twice"}, "training.update_seconds"),
        ({"batch_tokens": None}, "training.update_tokens"),
        ({"accumulation": 2, "update_seconds": 60}, "update_seconds cannot stand beside accumulation"),
        ({"batch_seconds": 30, "pass_seconds": "auto"}, "pass_seconds cannot stand beside batch_seconds"),
        ({"pass_seconds": "all"}, "training.pass_seconds"),
        ({"pass_seconds": 0}, "training.pass_seconds"),
    ],
)
def test_wrong_values_of_former_keys_are_refused_by_the_name_of_today(training: Any, expected: str) -> None:
    assert expected in problem({"training": training})
