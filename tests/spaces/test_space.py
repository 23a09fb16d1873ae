"""Reading a space, its mistakes, its proposals and its configurations."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import optuna
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from proposals import Drawn
from reading import GOOD, mistakes

from search_spaces.distributions import Choice, Float, Int, plain_types
from search_spaces.kinds import KIND, has_meaning
from search_spaces.reader import FIXED, is_space, load_space, parse_space, shipped
from search_spaces.settings import Asha, Settings
from search_spaces.space import DEFAULTS, TYPES
from trainables.config.model import RECOGNISERS
from trainables.config.parsing import flatten, parse_config, unflatten
from trainables.config.tree import Config, ParameterGroup
from trainables.errors import InputError


def test_a_space_is_read() -> None:
    space = parse_space(GOOD, "folder/my.yaml")
    assert space.name == "my" and space.text == GOOD
    assert space.settings == Settings(epochs=25, asha=Asha(grace=3, reduction=2))
    assert space.base["optimizer.lr"] == 1e-3
    assert space.vary["optimizer.lr"].distribution == Float(5e-4, 3e-3, log=True)
    assert space.vary["model.dropout"].distribution == Float(0.0, 0.2, 0.05)
    assert space.vary["model.encoder_layers"].distribution == Int(2, 8, 2)
    assert space.vary["tokenizer.vocab_size"].distribution == Choice((1000, 5000))
    assert space.vary["model.conv_channels"].when == {"model.encoder_layers": (2,), "tokenizer.kind": ("char",)}


def test_defaults() -> None:
    space = parse_space("base:\nvary:\n", "my.yaml")
    assert space.settings == Settings()
    assert space.propose(Drawn(0)) == {}
    assert space.config({}) == Config()


def test_trials_of_another_length_keep_what_fits_them() -> None:
    settings = Settings(epochs=25, asha=Asha(grace=10, promotion=2))
    shorter, shortest = settings.with_epochs(8), settings.with_epochs(2)
    assert (shorter.epochs, shorter.asha.grace, shorter.asha.promotion) == (8, 8, 2)
    assert (shortest.epochs, shortest.asha.grace, shortest.asha.promotion) == (2, 2, None)
    assert not settings.conflicts() + shorter.conflicts() + shortest.conflicts()


def test_keys_are_read_under_their_former_names_with_a_warning() -> None:
    text = "seed: 1\nasha:\n  grace: 4\n  look: 2\n  click: 0.5\n"
    with pytest.warns(FutureWarning) as warned:
        space = parse_space(text, "my.yaml")
    assert space.settings.asha == Asha(grace=4, promotion=2, plateau=0.5)
    told = sorted(str(one.message).partition(";")[0] for one in warned)
    assert told == [
        "my.yaml, line 4: asha.look is called asha.promotion now",
        "my.yaml, line 5: asha.click is called asha.plateau now",
    ]


FORMER_UPDATES = """
base:
  training: {batch_seconds: 180, accumulation: 12}
vary:
  training.accumulation: {choice: [6, 12]}
  training.ema: {choice: [0, 0.9], when: {training.accumulation: 6}}
start: [{training.accumulation: 6, training.ema: 0.9}, {}]
"""


def test_a_space_over_former_keys_is_read_with_a_warning() -> None:
    """Proposals of the space have the former keys, and its configurations those of today."""
    with pytest.warns(FutureWarning) as warned:
        space = parse_space(FORMER_UPDATES, "my.yaml")
    told = [str(one.message).partition(";")[0] for one in warned]
    assert told == [
        "my.yaml, line 3: training.batch_seconds is called training.update_seconds now",
        "my.yaml, line 3: training.accumulation is a part of training.update_seconds now",
        "my.yaml, line 5: training.accumulation is a part of training.update_seconds now",
    ]
    configs = [space.config(values).training for values in ({}, *space.start)]
    assert [one.update_seconds for one in configs] == [2160, 1080, 2160]
    assert {one.pass_seconds for one in configs} == {"auto"} and configs[1].ema == 0.9
    assert space.propose(Drawn(0)).keys() >= {"training.accumulation"}


VARIED = "training.ema: {choice: [0, 0.9], when: {training.accumulation: 6}}"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("{batch_seconds: 180, accumulation: 12}", "{update_seconds: 60}"), "line 5: vary.training.accumulation: "),
        ((VARIED, "training.update_seconds: {int: [1, 2]}"), "line 3: base.training.batch_seconds: "),
    ],
)
def test_former_keys_beside_those_of_today_are_refused(change: tuple[str, str], expected: str) -> None:
    assert change[0] in FORMER_UPDATES
    found = mistakes(FORMER_UPDATES.partition("start")[0].replace(*change))
    assert any(expected in line and "cannot stand beside training.update_seconds" in line for line in found)


@pytest.mark.parametrize("number", ["5e-4", "5E-4", "0.0005", "5.0e-4", ".5e-3", "+5e-4", "5.e-4", "0_5e-4"])
def test_numbers_may_be_written_in_any_way(number: str) -> None:
    space = parse_space(f"base: {{optimizer: {{lr: {number}}}}}", "my.yaml")
    assert space.config({}).optimizer.lr == 5e-4


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_proposals_follow_conditions(seed: int) -> None:
    space = parse_space(GOOD, "my.yaml")
    suggest = Drawn(seed)
    values = space.propose(suggest)
    assert list(values) == suggest.asked
    assert ("tokenizer.vocab_size" in values) == (values["tokenizer.kind"] != "char")
    assert ("model.conv_channels" in values) == (
        values["model.encoder_layers"] == 2 and values["tokenizer.kind"] == "char"
    )
    config = dict(flatten(space.config(values).model_dump()))
    assert {key: config[key] for key in values} == values
    assert config["training.epochs"] == 25
    if values["tokenizer.kind"] == "char":
        assert config["tokenizer.vocab_size"] is None  # the base's 500 has no meaning here
    if "model.conv_channels" not in values:
        assert config["model.conv_channels"] == DEFAULTS["model.conv_channels"]


def test_optuna_is_asked_directly() -> None:
    space = parse_space(GOOD, "my.yaml")
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    values = space.propose(trial)
    assert trial.params == values
    assert trial.distributions["optimizer.lr"] == optuna.distributions.FloatDistribution(5e-4, 3e-3, log=True)
    assert trial.distributions["model.encoder_layers"] == optuna.distributions.IntDistribution(2, 8, step=2)


def test_an_inactive_value_is_dropped() -> None:
    space = parse_space(GOOD, "my.yaml")
    assert space.config({"tokenizer.kind": "char", "tokenizer.vocab_size": 1000}).tokenizer.vocab_size is None


def test_without_values_the_base_is_what_is_configured() -> None:
    config = parse_space(GOOD, "my.yaml").config({})
    assert (config.tokenizer.kind, config.tokenizer.vocab_size, config.model.d_model) == ("bpe", 500, 64)


def test_values_that_do_not_go_together() -> None:
    space = parse_space("vary: {model.d_model: {choice: [64, 66]}}", "my.yaml")
    assert space.config({"model.d_model": 64}).model.d_model == 64
    with pytest.raises(InputError, match="heads=4, d_model=66"):
        space.config({"model.d_model": 66})


def test_conditions_on_conditions_come_last_and_end_together() -> None:
    space = parse_space(
        """
vary:
  model.decoder_layers: {int: [1, 2], when: {tokenizer.vocab_size: 1000}}
  tokenizer.vocab_size: {choice: [1000, 2000], when: {tokenizer.kind: bpe}}
  tokenizer.kind: {choice: [char, bpe]}
""",
        "my.yaml",
    )
    assert list(space.vary) == ["tokenizer.kind", "tokenizer.vocab_size", "model.decoder_layers"]
    proposals = [space.propose(Drawn(seed)) for seed in range(50)]
    assert {frozenset(values) for values in proposals} == {
        frozenset({"tokenizer.kind"}),
        frozenset({"tokenizer.kind", "tokenizer.vocab_size"}),
        frozenset(space.vary),
    }
    stale = {"tokenizer.kind": "char", "tokenizer.vocab_size": 1000, "model.decoder_layers": 1}
    assert space.config(stale).model.decoder_layers == DEFAULTS["model.decoder_layers"]


STAGES = [{"epochs": 2, "encoder_layers": 1, "freeze": ["decoder.*"]}, {"epochs": 3}]
LISTS = f"""
base:
  model: {{encoder_layers: 2}}
vary:
  optimizer.betas: {{choice: [[0.9, 0.95], [0.9, 0.98]]}}
  training.stages: {{choice: [[], {json.dumps(STAGES)}]}}
  optimizer.groups: {{choice: [[{{pattern: "encoder.*", lr_scale: 0.5}}]], when: {{model.d_model: 64}}}}
  model.d_model: {{choice: [64, 128]}}
epochs: 9
"""


def test_lists_are_texts_to_a_sampler_and_values_in_the_configuration() -> None:
    space = parse_space(LISTS, "my.yaml")
    betas, stages, groups = set(), set(), set()
    for seed in range(30):
        values = space.propose(Drawn(seed))
        assert all(isinstance(value, str | int) for value in values.values())
        config = space.config(values)
        assert space.config(json.loads(json.dumps(values))) == config
        betas.add(config.optimizer.betas)
        stages.add(config.training.stages)
        groups.add((config.model.d_model, config.optimizer.groups))
    whole = Config.model_validate({"training": {"stages": STAGES}}).training.stages
    assert betas == {(0.9, 0.95), (0.9, 0.98)}
    assert stages == {(), whole}
    assert groups == {(64, (ParameterGroup(pattern="encoder.*", lr_scale=0.5),)), (128, ())}


def test_a_real_sampler_proposes_lists() -> None:
    """Optuna takes the choices without a warning, and gives them back from its record."""
    space = parse_space(LISTS, "my.yaml")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            trial = study.ask()
            values = space.propose(trial)
            study.tell(trial, 0.5)
            assert space.config(study.trials[-1].params) == space.config(values)


def test_the_stages_of_the_base_must_leave_an_epoch_of_the_space() -> None:
    base = "base:\n  training:\n    stages: [{epochs: 5}, {epochs: 20}]\n"
    assert parse_space(f"{base}epochs: 26\n", "my.yaml").config({}).training.epochs == 26
    (found,) = mistakes(f"{base}epochs: 25\n")
    assert found.startswith("  line 2: base.training: stages take 25 epochs of 25")
    with pytest.raises(InputError, match="stages take 25 epochs of 7"):
        parse_space(f"{base}epochs: 30\n", "my.yaml").with_epochs(7).config({})


# For keys whose values nothing in their type tells.
EXAMPLES: dict[str, list[Any]] = {
    "data.train": ["train-clean-100"],
    "data.validation": ["dev-clean"],
    "data.text": ["/more.txt"],
    "augmentation.noise_folder": ["/noise"],
    "pretrained.model": ["/models/recogniser"],
    "pretrained.decoder": ["/models/lm"],
    "decoding.language_model": ["/models/lm"],
    "optimizer.betas": [[0.9, 0.95]],
    "optimizer.groups": [[{"pattern": "encoder.*", "lr_scale": 0.5}]],
    "model.kind": ["encoder_decoder", "transcript_editor"],
    "model.projector.states": [[1], [1, 2]],
    "training.stages": [[{"epochs": 2, "encoder_layers": 1}], [{"freeze": ["decoder.*"]}, {"data": 0.5}]],
}


def examples(key: str) -> list[Any]:
    """Values that the key's type allows."""
    annotation = TYPES[key]
    options = get_args(annotation) or (annotation,)
    if key in EXAMPLES:
        return EXAMPLES[key]
    if bool in options:
        return [True, False]
    if get_origin(annotation) is Literal:
        return list(options)
    return [DEFAULTS[key]] if DEFAULTS[key] is not None else [{float: 0.5, int: 8}[plain_types(annotation)[0]]]


def outcome(read: Callable[[], Config]) -> Config | str:
    """The configuration, or why it is refused."""
    try:
        return read()
    except InputError as error:
        return error.problem


@pytest.mark.parametrize("key", sorted(DEFAULTS))
def test_every_key_of_a_configuration_can_vary(key: str) -> None:
    kind = next(one for one in RECOGNISERS if has_meaning(key, one))
    text = yaml.safe_dump({"base": {"model": {"kind": kind}}, "vary": {key: {"choice": examples(key)}}})
    if key in FIXED:
        assert "cannot vary" in mistakes(text)[0]
        return
    space = parse_space(text, "my.yaml")
    proposed = space.propose(Drawn(0))
    assert set(proposed) == {key}
    # Some values need others beside them: then the refusal shows that they arrived.
    trees = [unflatten({KIND: kind, key: value}) for value in examples(key)]
    expected = [outcome(partial(parse_config, tree, "my.yaml: proposal")) for tree in trees]
    assert outcome(partial(space.config, proposed)) in expected


def test_a_space_is_loaded_by_path_or_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert load_space(str(path)).name == "mine"
    assert load_space("hw4p2").name == "hw4p2"
    for name in ["hw5", str(tmp_path), str(tmp_path / "absent.yaml"), "../search_spaces/hw4p2"]:
        with pytest.raises(InputError) as error:
            load_space(name)
        assert name in error.value.problem
        assert all(name in error.value.remedy for name in shipped())


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=re.escape(str(path))):
        load_space(str(path))


def test_spaces_and_configurations_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    for text, expected in [
        (GOOD, True),
        ("vary: 1", True),
        ("model: {heads: 2}", False),
        ("", False),
        ("{", False),
        ("- vary", False),
    ]:
        path.write_text(text)
        assert is_space(path) == expected
    assert not is_space(tmp_path / "absent.yaml")


def test_paths_are_relative_to_a_folder(tmp_path: Path) -> None:
    """Workers have working directories of their own."""
    text = """
base: {pretrained: {decoder: models/one}}
vary:
  pretrained.decoder: {choice: [null, models/two]}
  pretrained.frozen_epochs: {int: [1, 3], when: {pretrained.decoder: models/two}}
"""
    space = parse_space(text, "space.yaml", tmp_path)
    assert space.base == {"pretrained.decoder": str(tmp_path / "models/one")}
    assert space.vary["pretrained.decoder"].distribution.candidates() == [None, str(tmp_path / "models/two")]
    two = {"pretrained.decoder": str(tmp_path / "models/two")}
    assert space.is_active("pretrained.frozen_epochs", two)
    assert not space.is_active("pretrained.frozen_epochs", {"pretrained.decoder": None})
    assert space.config({**two, "pretrained.frozen_epochs": 2}).pretrained.frozen_epochs == 2
    absolute = "base: {model: {kind: language_model}, data: {text: /data/text}}"
    assert parse_space(absolute, "space.yaml", tmp_path).base["data.text"] == "/data/text"
    assert parse_space(text, "space.yaml").base["pretrained.decoder"] == str(Path.cwd() / "models/one")
