"""Every mistake in a space is reported at once, with its line and its reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import GOOD, mistakes

from search_spaces.reader import is_space, parse_space
from search_spaces.settings import Settings
from search_spaces.space import DEFAULTS
from trainables.config.parsing import load_config
from trainables.config.tree import Config
from trainables.errors import InputError


def test_a_mistake_in_a_list_has_its_line() -> None:
    base = "base:\n  training:\n    stages:\n      - epochs: 1\n      - epochs: 2\n        dropout: 2\n"
    (found,) = mistakes(base)
    assert found.startswith("  line 6: base.training.stages.1.dropout: ")


def test_layers_that_the_model_has_not_are_named() -> None:
    (found,) = mistakes("base:\n  model: {encoder_layers: 2}\n  training: {stages: [{encoder_layers: 3}]}\n")
    assert found.startswith("  line 1: base: training.stages.0: encoder_layers=3 of model.encoder_layers=2")


BROKEN = """\
base:
  model: {d_model: 250, heads: 4}
  modle: {dropout: 0.1}
  training:
    epochs: 3
    update_seconds: much
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
  model.norm: {int: [2, 4]}
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
    (6, "base.training.update_seconds", "'much'"),
    (8, "base.optimizer.betas.1", "'x'"),
    (10, "vary.model.depth", "unknown key; the keys here are model.d_model, model.heads"),
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
    (25, "vary.model.norm", "int does not fit this key; what fits is choice"),
    (27, "vary.model.feed_forward", "float does not fit this key; what fits is int or choice"),
    (28, "vary.model.layer_drop", "given twice; the first is on line 26"),
    (28, "vary.model.layer_drop", "needs a distribution (choice, int, float, log)"),
    (29, "budget", "must be a number, but got 'lots'"),
    (30, "trials", "greater than or equal to 1, but got 0"),
    (32, "asha.brackets", "the keys here are metric, unit, grace, promotion, reduction, plateau"),
    (32, "asha.grace", "grace <= epochs must hold, but got grace=11, epochs=10"),
    (32, "asha.reduction", "greater than 1, but got 1"),
    (33, "sede", "unknown key; the keys here are base, vary, start, budget, rules, trials, epochs, sampler"),
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
        ("model.dropout: {float: [0, 0.1], step: 1.0e-300}", "at most 1,000,000 steps must lead from 0 to 0.1"),
        ("optimizer.weight_decay: {int: [0, 1.0e+28], step: 1}", "int needs numbers of at most 1,000,000,000,000,000"),
        ("model.ff_expansion: {float: [1, 1.0e+305]}", "less than or equal to 262144"),
        ("model.dropout: {float: [0, 0.1], step: 0}", "step must be a number above 0, but got 0"),
        ("model.dropout: {float: [0, .nan]}", "needs two numbers"),
        ("model.dropout: {float: [0, .inf]}", "needs two numbers"),
        ("model.dropout: {float: 0.1}", "needs two numbers, [low, high], but got 0.1"),
        ("model.dropout: {log: [1e-3, 1e-1], step: 1e-3}", "unknown option step; log takes when"),
        ("model.dropout: {float: [0, 0.1], log: [1, 2]}", "needs exactly one of"),
        ("model.dropout: {}", "needs exactly one of choice, int, float, log, but got nothing"),
        ("model.dropout: {choice: [0.1, 0.1]}", "a value twice"),
        ("optimizer.betas: {choice: [[0.9, 0.95], [0.90, 0.95]]}", "a value twice"),
        ('model.d_model: {choice: ["64", 64]}', "a value twice: ['64', 64]"),
        ("model.d_model: {choice: [64, 64.0]}", "a value twice"),
        ('model.gated: {choice: [true, "on"]}', "a value twice"),
        ('model.ff_expansion: {choice: [null, 4, "4.0"]}', "a value twice"),
        ('optimizer.betas: {choice: [[0.9, 0.95], ["0.9", 0.95]]}', "a value twice"),
        ("training.stages: {choice: [[{epochs: 1}], [{epochs: 1, data: 1}]]}", "a value twice"),
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
        ("model: {dropout: {float: [0, 1]}}", "the keys here are model.d_model, model.heads"),
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
        "asha: {grace: 3, promotion: 3}",
        "asha: {promotion: 20}",
        "asha: {unit: hours, grace: 1.5, promotion: 20}",
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
        parse_space(text, "my.yaml")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("limits:\n  hours: 1:30", "line 2: limits.hours: YAML 1.1 takes 1:30 for 90: write it as a decimal number"),
        ("limits: {hours: 10:00}", "line 1: limits.hours: YAML 1.1 takes 10:00 for 600"),
        ("limits: {hours: 1:30.5}", "line 1: limits.hours: YAML 1.1 takes 1:30.5 for 90.5"),
        ("seed: 1\ntrials: 010", "line 2: trials: YAML 1.1 takes 010 for 8"),
        ("trials: 0_10", "line 1: trials: YAML 1.1 takes 0_10 for 8"),
        ("trials: !!int '010'", "line 1: trials: YAML 1.1 takes 010 for 8"),
        ("vary:\n  model.heads: {int: [2,\n    010]}", "line 3: vary.model.heads.int.1: YAML 1.1 takes 010 for 8"),
        ("base: {model: {gated: yes}}", "base.model.gated: YAML 1.1 takes yes for true: write true or false, or put"),
        (
            "vary:\n  model.norm:\n    choice: [layer, off]",
            "line 3: vary.model.norm.choice.1: YAML 1.1 takes off for",
        ),
        ("on: 3", "line 1: on: YAML 1.1 takes on for true"),
        ("010", "line 1: value: YAML 1.1 takes 010 for 8"),
    ],
)
def test_values_that_yaml_reads_otherwise_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    """In spaces as in configurations: 1:30 was 90 hours."""
    assert any(line.startswith(f"  {reason}") or reason in line for line in mistakes(text))
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        load_config(file)
    assert reason in error.value.problem and "my.yaml" in error.value.problem


def test_values_that_yaml_reads_as_people_do() -> None:
    text = "{budget: 30_000_000, trials: '010', seed: 0x1F, limits: {hours: 1.5e1}, base: {data: {train: 'yes'}}}"
    space = parse_space(text.replace("'010'", "10"), "my.yaml")
    assert (space.settings.budget, space.settings.seed, space.settings.limits.hours) == (30_000_000, 31, 15)
    assert space.base["data.train"] == "yes"
    assert mistakes(text) == ["  line 1: trials: must be a number, but got '010'"]


@pytest.mark.parametrize("levels", [5, 8, 40])
@pytest.mark.parametrize("merged", [False, True])
def test_aliases_that_multiply_are_refused_before_they_are_built(levels: int, merged: bool, tmp_path: Path) -> None:
    """Nested eight deep, 258 bytes took 20 seconds, and each further level 27 times as long."""
    lines = ["a0: &a0 {x: 1}"] if merged else ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        nine = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} " + (f"{{<<: [{nine}]}}" if merged else f"[{nine}]"))
    text = "\n".join(lines)
    reason = r"my\.yaml, line [45]: more than 10,000 values, with aliases expanded"
    with pytest.raises(InputError, match=reason):
        parse_space(text, "my.yaml")
    (tmp_path / "my.yaml").write_text(text)
    assert not is_space(tmp_path / "my.yaml")
    with pytest.raises(InputError, match=reason):
        load_config(tmp_path / "my.yaml")


def test_aliases_may_be_used() -> None:
    text = "base: {training: &t {update_seconds: 20, ema: 0.5}}\nseed: &n 3\nkeep: *n\n"
    assert parse_space(text, "my.yaml").settings.keep == 3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("trials: 10000000000000000000000000", "trials: Input should be less than or equal to 1000000"),
        ("seed: 4294967296", "seed: Input should be less than or equal to 4294967295"),
        ("limits: {hours: .nan}", "limits.hours: Input should be"),
        ("limits: {disk_gb: .inf}", "limits.disk_gb: Input should be"),
        ("asha: {reduction: 1.0e+300}", "asha.reduction: Input should be less than or equal to 1000"),
        ("base: {model: {d_model: 1048576}}", "base.model.d_model: Input should be less than or equal to 262144"),
        ("base: {model: {ff_expansion: 10000}}", "base.model: ff_expansion=10000.0 of d_model=256 is more than"),
        (
            "base: {model: {encoder_layers: 1000000000}}",
            "base.model.encoder_layers: Input should be less than or",
        ),
        ("base: {data: {speed_perturbation: 0.999999}}", "base.data.speed_perturbation: Input should be less than or"),
        ("base: {decoding: {beam: 1000000000}}", "base.decoding.beam: Input should be less than or equal to 1000"),
        ("base: {decoding: {length_penalty: 1.0e+9}}", "base.decoding.length_penalty: Input should be less than"),
        ("vary: {model.d_model: {int: [64, 1048576]}}", "vary.model.d_model: Input should be less than or equal"),
        ("vary: {model.feed_forward: {fit: [64, 1048576]}}", "vary.model.feed_forward: Input should be less than or"),
    ],
)
def test_values_beyond_any_machine_are_refused(text: str, named: str) -> None:
    assert any(named in line for line in mistakes(text))


@pytest.mark.parametrize(
    "text",
    [
        "base: &x {model: *x}",
        "vary: {training.stages: {choice: &x [*x]}}",
        "[" * 1000,
        "seed: 2020-13-45",
        "seed: 1\n---\nseed: 2",
    ],
)
def test_yaml_that_cannot_be_built(text: str) -> None:
    with pytest.raises(InputError, match=r"my\.yaml"):
        parse_space(text, "my.yaml")


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from([*re.findall(r"\w+\.?\w*|\W", GOOD)]), max_size=40).map("".join),
    )
)
def test_any_text_is_a_space_or_an_input_error(text: str) -> None:
    try:
        parse_space(text, "my.yaml")
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
        space = parse_space(yaml.safe_dump(tree), "my.yaml")
    except InputError as error:
        assert "my.yaml" in error.problem
    else:
        assert space.config({}).training.epochs == space.settings.epochs
