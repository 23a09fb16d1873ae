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

from search_spaces.distributions import Choice, Float, Int
from search_spaces.settings import Asha, Settings
from search_spaces.space import DEFAULTS, FIXED, TYPES, Space, is_space, shipped
from trainables.config import Config, ParameterGroup, flatten, parse_config, unflatten
from trainables.errors import InputError

GOOD = """
base:
  tokenizer: {kind: bpe, vocab_size: 500}
  model: {d_model: 64, heads: 2}
  optimizer: {lr: 1e-3, betas: [0.9, 0.95]}
vary:
  tokenizer.vocab_size: {choice: [1000, 5000], when: {tokenizer.kind: [bpe, unigram]}}
  tokenizer.kind: {choice: [char, bpe, unigram]}
  model.encoder_layers: {int: [2, 8], step: 2}
  model.conv_channels: {choice: [32, 64], when: {model.encoder_layers: 2, tokenizer.kind: char}}
  optimizer.lr: {log: [5e-4, 3.0E-3]}
  model.dropout: {float: [0, .2], step: 5e-2}
  loss.ctc_weight: {float: [0.1, 0.5]}
budget: 3e7
epochs: 25
asha: {grace: 3, reduction: 2}
"""


def mistakes(text: str) -> list[str]:
    with pytest.raises(InputError) as error:
        Space.parse(text, "my.yaml")
    assert error.value.problem.startswith("my.yaml")
    return error.value.problem.splitlines()[1:]


def test_a_space_is_read() -> None:
    space = Space.parse(GOOD, "folder/my.yaml")
    assert space.name == "my" and space.text == GOOD
    assert space.settings == Settings(epochs=25, asha=Asha(grace=3, reduction=2))
    assert space.base["optimizer.lr"] == 1e-3
    assert space.vary["optimizer.lr"].distribution == Float(5e-4, 3e-3, log=True)
    assert space.vary["model.dropout"].distribution == Float(0.0, 0.2, 0.05)
    assert space.vary["model.encoder_layers"].distribution == Int(2, 8, 2)
    assert space.vary["tokenizer.vocab_size"].distribution == Choice((1000, 5000))
    assert space.vary["model.conv_channels"].when == {"model.encoder_layers": (2,), "tokenizer.kind": ("char",)}


def test_defaults() -> None:
    space = Space.parse("base:\nvary:\n", "my.yaml")
    assert space.settings == Settings()
    assert space.propose(Drawn(0)) == {}
    assert space.config({}) == Config()


@pytest.mark.parametrize("number", ["5e-4", "5E-4", "0.0005", "5.0e-4", ".5e-3", "+5e-4", "5.e-4", "0_5e-4"])
def test_numbers_may_be_written_in_any_way(number: str) -> None:
    space = Space.parse(f"base: {{optimizer: {{lr: {number}}}}}", "my.yaml")
    assert space.config({}).optimizer.lr == 5e-4


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_proposals_follow_conditions(seed: int) -> None:
    space = Space.parse(GOOD, "my.yaml")
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
    space = Space.parse(GOOD, "my.yaml")
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    values = space.propose(trial)
    assert trial.params == values
    assert trial.distributions["optimizer.lr"] == optuna.distributions.FloatDistribution(5e-4, 3e-3, log=True)
    assert trial.distributions["model.encoder_layers"] == optuna.distributions.IntDistribution(2, 8, step=2)


def test_an_inactive_value_is_dropped() -> None:
    space = Space.parse(GOOD, "my.yaml")
    assert space.config({"tokenizer.kind": "char", "tokenizer.vocab_size": 1000}).tokenizer.vocab_size is None


def test_without_values_the_base_is_what_is_configured() -> None:
    config = Space.parse(GOOD, "my.yaml").config({})
    assert (config.tokenizer.kind, config.tokenizer.vocab_size, config.model.d_model) == ("bpe", 500, 64)


def test_values_that_do_not_go_together() -> None:
    space = Space.parse("vary: {model.d_model: {choice: [64, 66]}}", "my.yaml")
    assert space.config({"model.d_model": 64}).model.d_model == 64
    with pytest.raises(InputError, match="heads=4, d_model=66"):
        space.config({"model.d_model": 66})


def test_conditions_on_conditions_come_last_and_end_together() -> None:
    space = Space.parse(
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


BROKEN = """\
base:
  model: {d_model: 250, heads: 4}
  modle: {dropout: 0.1}
  training:
    epochs: 3
    batch_seconds: much
  optimizer:
    betas: [0.9, x]
vary:
  model.depth: {int: [1, 2]}
  depth: {int: [1, 2]}
  training.epochs: {int: [1, 2]}
  model.encoder_layers: {int: [8, 2]}
  model.decoder_layers: {integer: [1, 2]}
  model.dropout: {float: [0.05, 1.5]}
  model.heads: {choice: []}
  optimizer.lr: {log: [0, 1e-3]}
  optimizer.betas: {choice: [0.9]}
  optimizer.warmup: {float: [0, 1], steps: 0.1}
  tokenizer.kind: {choice: [char, bpee]}
  tokenizer.vocab_size: {choice: [1000], when: {tokenizer.kind: [bpe]}}
  loss.ctc_weight: {float: [0.1, 0.4], when: {model.tied_embeddings: true}}
  loss.label_smoothing: {float: [0.0, 0.1], when: {optimizer.weight_decay: 0.1}}
  optimizer.weight_decay: {float: [0.0, 0.1], when: {loss.label_smoothing: 0.1}}
  model.reduction_factor: {int: [2, 4]}
  model.layer_drop: {float: [0, 0.1], step: 0.03}
  model.feed_forward: {float: [128, 256]}
  model.layer_drop: 0.1
budget: lots
trials: 0
epochs: 10
asha: {grace: 11, reduction: 1, brackets: 2}
sede: 1
"""

EXPECTED = [
    (2, "base.model", "heads must divide d_model, but got heads=4, d_model=250"),
    (3, "base.modle", "unknown key; the keys here are data, features"),
    (5, "base.training.epochs", "belongs at the top level"),
    (6, "base.training.batch_seconds", "'much'"),
    (8, "base.optimizer.betas.1", "'x'"),
    (10, "vary.model.depth", "unknown key; the keys here are model.kind, model.d_model"),
    (11, "vary.depth", "the sections are data, features"),
    (12, "vary.training.epochs", "set the top-level epochs"),
    (13, "vary.model.encoder_layers", "low <= high must hold, but got low=8, high=2"),
    (14, "vary.model.decoder_layers", "needs exactly one of choice, int, float, log, but got integer"),
    (15, "vary.model.dropout", "less than 1, but got 1.5"),
    (16, "vary.model.heads", "choice needs a list of one or more values, but got []"),
    (17, "vary.optimizer.lr", "low > 0 must hold for log, but got low=0"),
    (18, "vary.optimizer.betas", "Input should be a valid tuple, but got 0.9"),
    (19, "vary.optimizer.warmup", "unknown option steps; float takes step and when"),
    (20, "vary.tokenizer.kind", "Input should be 'char', 'bpe' or 'unigram', but got 'bpee'"),
    (21, "vary.tokenizer.vocab_size", "when tokenizer.kind is 'bpe' never holds; its values are 'char', 'bpee'"),
    (22, "vary.loss.ctc_weight", "when names model.tied_embeddings, which does not vary; what varies is model.depth"),
    (23, "vary.loss.label_smoothing", "optimizer.weight_decay varies over real numbers"),
    (23, "vary.loss.label_smoothing", "circular"),
    (24, "vary.optimizer.weight_decay", "loss.label_smoothing varies over real numbers"),
    (24, "vary.optimizer.weight_decay", "circular"),
    (25, "vary.model.reduction_factor", "int does not fit this key; what fits is choice"),
    (27, "vary.model.feed_forward", "float does not fit this key; what fits is int or choice"),
    (28, "vary.model.layer_drop", "given twice; the first is on line 26"),
    (28, "vary.model.layer_drop", "needs a distribution (choice, int, float, log)"),
    (29, "budget", "must be a number, but got 'lots'"),
    (30, "trials", "greater than or equal to 1, but got 0"),
    (32, "asha.brackets", "the keys here are metric, unit, grace, reduction, click"),
    (32, "asha.grace", "grace <= epochs must hold, but got grace=11, epochs=10"),
    (32, "asha.reduction", "greater than 1, but got 1"),
    (33, "sede", "unknown key; the keys here are base, vary, start, budget, trials, epochs, sampler"),
]


def test_every_mistake_is_reported_at_once_with_its_line() -> None:
    found = mistakes(BROKEN)
    for line, key, reason in EXPECTED:
        matching = [text for text in found if text.startswith(f"  line {line}: {key}: ") and reason in text]
        assert len(matching) == 1, (line, key, reason, found)
    assert len(found) == len(EXPECTED)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("model.dropout: {float: [0, 0.1], step: 0.03}", "steps of 0.03 must lead from 0 to 0.1 exactly"),
        ("model.dropout: {float: [0, 0.1], step: 0}", "step must be a number above 0, but got 0"),
        ("model.dropout: {float: [0, .nan]}", "needs two numbers"),
        ("model.dropout: {float: [0, .inf]}", "needs two numbers"),
        ("model.dropout: {float: 0.1}", "needs two numbers, [low, high], but got 0.1"),
        ("model.dropout: {log: [1e-3, 1e-1], step: 1e-3}", "unknown option step; log takes when"),
        ("model.dropout: {float: [0, 0.1], log: [1, 2]}", "needs exactly one of"),
        ("model.dropout: {}", "needs exactly one of choice, int, float, log, but got nothing"),
        ("model.dropout: {choice: [0.1, 0.1]}", "a value twice"),
        ("optimizer.betas: {choice: [[0.9, 0.95], [0.90, 0.95]]}", "a value twice"),
        ("optimizer.betas: {choice: [[0.9, 1.5]]}", "less than 1, but got 1.5"),
        ("optimizer.betas: {choice: [[0.9, 2020-01-01]]}", "lists and mappings of plain values"),
        ("optimizer.betas: {float: [0.9, 0.95]}", "float does not fit this key; what fits is choice"),
        ("training.stages: {choice: [[{epoch: 2}]]}", "unknown key; the keys here are"),
        ("training.stages: {choice: [[{1: 2}]]}", "lists and mappings of plain values"),
        ("model.dropout: {choice: [[0.1]]}", "plain values"),
        ("model.dropout: {choice: [low]}", "'low'"),
        ("model.dropout: {choice: [0.1], when: }", "when needs keys and their values"),
        ("model.dropout: {choice: [0.1], when: {model.dropout: []}}", "needs one or more plain values"),
        ("model.dropout: {choice: [0.1], when: {model.dropout: 0.1}}", "when is circular"),
        ("model.dropout: [0, 0.1]", "needs a distribution"),
        ("model.heads: {int: [1, 2.5]}", "needs two whole numbers"),
        ("model.heads: {int: [0, 4]}", "greater than or equal to 1, but got 0"),
        ("model.heads: {log: [1, 8]}", "log does not fit this key; what fits is int or choice"),
        ("model.heads: {choice: [2.5]}", "valid integer"),
        ("model.tied_embeddings: {int: [0, 1]}", "int does not fit this key; what fits is choice"),
        ("tokenizer.vocab_size: {float: [100, 200]}", "what fits is int or choice"),
        ("model: {dropout: {float: [0, 1]}}", "the keys here are model.kind, model.d_model"),
        ("5: {int: [0, 1]}", "unknown key"),
    ],
)
def test_mistakes_in_a_varied_key(entry: str, reason: str) -> None:
    found = mistakes(f"vary:\n  {entry}\n")
    assert len(found) == 1 and reason in found[0] and found[0].startswith("  line 2: vary."), found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "text",
        "5",
        "vary: [model.dropout]",
        "base: 3",
        "asha: 5",
        "seed: true",
        "epochs: 1.5",
        "budget: -1",
        "objectives: [parameters]",
        "{objectives: [val_cer, parameters], sampler: gp}",
        "asha: {grace: 21}",
        "asha: {grace: 2.5}",
        "asha: {unit: hours}",
        "limits: {hours: 0}",
        "keep: 0",
        "{base: {model: {kind: language_model}}, asha: {metric: val_ctc_cer}}",
        "sampler: bohb",
    ],
)
def test_mistakes_in_the_whole(text: str) -> None:
    assert len(mistakes(text)) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: b\nc: [1, 2", 2),
        ("a: {b: 1", 1),
        ("a:\n\tb: 1", 2),
        ("a: 1\n b: 2", 2),
        ("a: *x", 1),
        ("a: 1\nb: !!python/name:os x", 2),
    ],
)
def test_text_that_is_no_yaml(text: str, line: int) -> None:
    with pytest.raises(InputError, match=rf"my.yaml, line [{line}{line + 1}]: not valid YAML"):
        Space.parse(text, "my.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "base: &x {model: *x}",
        "vary: {training.stages: {choice: &x [*x]}}",
        "[" * 5000,
        "seed: 2020-13-45",
        "seed: 1\n---\nseed: 2",
    ],
)
def test_yaml_that_cannot_be_built(text: str) -> None:
    with pytest.raises(InputError, match=r"my\.yaml"):
        Space.parse(text, "my.yaml")


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60), st.lists(st.sampled_from([*re.findall(r"\w+\.?\w*|\W", GOOD)]), max_size=40).map("".join)
    )
)
def test_any_text_is_a_space_or_an_input_error(text: str) -> None:
    try:
        Space.parse(text, "my.yaml")
    except InputError as error:
        assert "my.yaml" in error.problem


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text("ab.", max_size=3)
    | st.sampled_from(["bpe", "model.dropout", "fit"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choice", "int", "float", "log", "fit", "step", "when", "grace", *DEFAULTS, *Config.model_fields]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["base", "vary", "start", *Settings.model_fields]), values))
def test_any_tree_is_a_space_or_an_input_error(tree: dict[str, Any]) -> None:
    try:
        space = Space.parse(yaml.safe_dump(tree), "my.yaml")
    except InputError as error:
        assert "my.yaml" in error.problem
    else:
        assert space.config({}).training.epochs == space.settings.epochs


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
    space = Space.parse(LISTS, "my.yaml")
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
    space = Space.parse(LISTS, "my.yaml")
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
    assert Space.parse(f"{base}epochs: 26\n", "my.yaml").config({}).training.epochs == 26
    (found,) = mistakes(f"{base}epochs: 25\n")
    assert found.startswith("  line 2: base.training: stages take 25 epochs of 25")
    with pytest.raises(InputError, match="stages take 25 epochs of 7"):
        Space.parse(f"{base}epochs: 30\n", "my.yaml").lasting(7).config({})


def test_a_mistake_in_a_list_has_its_line() -> None:
    base = "base:\n  training:\n    stages:\n      - epochs: 1\n      - epochs: 2\n        dropout: 2\n"
    (found,) = mistakes(base)
    assert found.startswith("  line 6: base.training.stages.1.dropout: ")


def test_layers_that_the_model_has_not_are_named() -> None:
    (found,) = mistakes("base:\n  model: {encoder_layers: 2}\n  training: {stages: [{encoder_layers: 3}]}\n")
    assert found.startswith("  line 1: base: training.stages.0: encoder_layers=3 of model.encoder_layers=2")


# For keys whose values nothing in their type tells.
EXAMPLES: dict[str, list[Any]] = {
    "data.train": ["train-clean-100"],
    "data.validation": ["dev-clean"],
    "data.text": ["/more.txt"],
    "pretrained.decoder": ["/models/lm"],
    "decoding.language_model": ["/models/lm"],
    "optimizer.betas": [[0.9, 0.95]],
    "optimizer.groups": [[{"pattern": "encoder.*", "lr_scale": 0.5}]],
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
    return [DEFAULTS[key]] if DEFAULTS[key] is not None else [{float: 1.0, int: 8}[options[0]]]


def outcome(read: Callable[[], Config]) -> Config | str:
    """The configuration, or why it is refused."""
    try:
        return read()
    except InputError as error:
        return error.problem


@pytest.mark.parametrize("key", sorted(DEFAULTS))
def test_every_key_of_a_configuration_can_vary(key: str) -> None:
    text = yaml.safe_dump({"vary": {key: {"choice": examples(key)}}})
    if key in FIXED:
        assert "cannot vary" in mistakes(text)[0]
        return
    space = Space.parse(text, "my.yaml")
    proposed = space.propose(Drawn(0))
    assert set(proposed) == {key}
    # Some values need others beside them: then the refusal shows that they arrived.
    expected = [outcome(partial(parse_config, unflatten({key: value}), "my.yaml: proposal")) for value in examples(key)]
    assert outcome(partial(space.config, proposed)) in expected


def test_a_space_is_loaded_by_path_or_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert Space.load(str(path)).name == "mine"
    assert Space.load("hw4p2").name == "hw4p2"
    for name in ["hw5", str(tmp_path), str(tmp_path / "absent.yaml"), "../search_spaces/hw4p2"]:
        with pytest.raises(InputError) as error:
            Space.load(name)
        assert name in error.value.problem
        assert all(name in error.value.remedy for name in shipped())


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=re.escape(str(path))):
        Space.load(str(path))


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
    space = Space.parse(text, "space.yaml", tmp_path)
    assert space.base == {"pretrained.decoder": str(tmp_path / "models/one")}
    assert space.vary["pretrained.decoder"].distribution.candidates() == [None, str(tmp_path / "models/two")]
    two = {"pretrained.decoder": str(tmp_path / "models/two")}
    assert space.is_active("pretrained.frozen_epochs", two)
    assert not space.is_active("pretrained.frozen_epochs", {"pretrained.decoder": None})
    assert space.config({**two, "pretrained.frozen_epochs": 2}).pretrained.frozen_epochs == 2
    absolute = "base: {model: {kind: language_model}, data: {text: /data/text}}"
    assert Space.parse(absolute, "space.yaml", tmp_path).base["data.text"] == "/data/text"
    assert Space.parse(text, "space.yaml").base["pretrained.decoder"] == str(Path.cwd() / "models/one")
