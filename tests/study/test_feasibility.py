"""What cannot be a trial is known before anything is started, and told with both values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import course
import numpy as np
import pytest
import tiny
import yaml

from asr_platform.study.feasibility import Feasibility
from search_spaces.reader import parse_space
from search_spaces.space import Space
from trainables.config.parsing import flatten
from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.data.device.placement import default_device
from trainables.errors import InputError
from trainables.training.loop import Trainer

VARY = {"optimizer.lr": {"log": [1e-4, 1e-2]}}


def space(leaves: dict[str, Any], vary: dict[str, Any] | None = None, epochs: int = 4, **more: Any) -> Space:
    """A space around the tiny configuration."""
    base: dict[str, Any] = {key: dict(value) for key, value in tiny.TREE.items()}
    base["training"].pop("epochs")
    for key, value in leaves.items():
        section, name = key.split(".")
        base.setdefault(section, {})[name] = value
    return parse_space(yaml.safe_dump({"base": base, "vary": vary or VARY, "epochs": epochs, **more}), "space.yaml")


@pytest.fixture(scope="module")
def language(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained language model that fits the tiny decoder."""
    folder = tmp_path_factory.mktemp("language_model")
    config = tiny.config({"model.kind": "language_model"})
    Trainer(config, tiny_corpus, default_device()).task.trained.save(folder)
    return folder


def test_the_tiny_space_can_run(tiny_corpus: Corpus, language: Path) -> None:
    for leaves in ({}, {"pretrained.decoder": str(language), "decoding.language_model": str(language)}):
        feasibility = Feasibility(space(leaves), tiny_corpus)
        assert feasibility.check() == []
        proposal = feasibility({"optimizer.lr": 1e-3})
        model = Trainer(tiny.config(leaves), tiny_corpus, default_device()).task.trained
        assert proposal is not None and proposal.parameters == model.parameters


def test_a_fitted_model_has_as_many_parameters_as_it_says(tiny_corpus: Corpus) -> None:
    fitted = space({}, {"model.feed_forward": "fit"}, budget=100_000)
    feasibility = Feasibility(fitted, tiny_corpus)
    assert feasibility.check() == []
    proposal = feasibility({})
    assert proposal is not None and 98_000 <= proposal.parameters <= 100_000
    assert Trainer(proposal.config, tiny_corpus, default_device()).task.trained.parameters == proposal.parameters


def test_voices_that_are_validated_on_and_trained_on_are_named(tmp_path: Path) -> None:
    recognition, language_modelling = space({}), space({"model.kind": "language_model"})
    for name, speakers, heard in (("heard", ("a", "a"), 1), ("new", ("a", "b"), 0), ("unknown", (None, None), 0)):
        with CorpusWriter(tmp_path / name, tiny.RECIPE, "tiny") as writer:
            for split, speaker in zip(("train", "dev"), speakers, strict=True):
                features = tiny.utterance("CAB", np.random.default_rng(0))
                writer.add(split, "0", "CAB", 1.0, features, speaker)
            corpus = writer.finish()
        sentences = Feasibility(recognition, corpus).heard_voices()
        assert len(sentences) == heard
        assert all(line.startswith("dev has speakers of train (1 of 1)") for line in sentences)
        assert Feasibility(language_modelling, corpus).heard_voices() == []


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"model.feed_forward": 5000}, "start.1: budget: a model of .* is over the 100,000 allowed"),
        ({"tokenizer": {"kind": "bpe", "vocab_size": 5000}}, "start.1: .*vocab_size"),
        ({"features.num_feats": 99}, "start.1: features.num_feats: 99, but .* has 8 bins"),
    ],
)
def test_an_entry_of_the_start_that_cannot_be_a_trial_is_named(
    entry: dict[str, Any], reason: str, tiny_corpus: Corpus
) -> None:
    vary = {
        "model.feed_forward": {"choice": [48, 5000]},
        "tokenizer.kind": {"choice": ["char", "bpe"]},
        "tokenizer.vocab_size": {"choice": [5000], "when": {"tokenizer.kind": "bpe"}},
        "features.num_feats": {"choice": [8, 99]},
    }
    known = {"features.num_feats": 8}
    start = [known, {**known, **entry}]
    with pytest.raises(InputError, match=reason) as error:
        Feasibility(space({}, vary, budget=100_000, start=start), tiny_corpus).check()
    assert "Change or remove the entry" in error.value.remedy


@pytest.mark.parametrize(
    ("leaves", "vary", "reason"),
    [
        ({"features.num_feats": 99}, None, r"features.num_feats: 99, but .* has 8 bins"),
        ({"data.text": "/absent.txt", "model.kind": "language_model"}, None, "/absent.txt"),
        ({"pretrained.decoder": "/absent"}, None, "pretrained.decoder: /absent"),
        ({"decoding.language_model": "/absent"}, None, "decoding.language_model: /absent"),
        ({"pretrained.decoder": "LM", "model.d_model": 48}, None, "model.d_model is 32 there and 48 here"),
        (
            {"pretrained.decoder": "LM"},
            {"model.d_model": {"choice": [48, 64]}},
            r"model.d_model is 32 there and (48|64) here",
        ),
        (
            {"pretrained.decoder": "LM", "tokenizer.kind": "bpe", "tokenizer.vocab_size": 20},
            None,
            r"another tokenizer \(char of 12 tokens\) than the recogniser \(bpe of 20 tokens\)",
        ),
        ({"optimizer.groups": [{"pattern": "encodr.*"}]}, None, r"optimizer.groups.0.pattern: .*encodr"),
        ({"training.stages": [{"freeze": ["decodr.*"]}]}, None, r"training.stages.0.freeze.0: .*decodr"),
        ({"training.stages": [{"freeze": ["*"]}]}, None, "every parameter is frozen"),
    ],
)  # fmt: skip
def test_what_no_trial_could_do_is_refused(
    leaves: dict[str, Any], vary: dict[str, Any] | None, reason: str, tiny_corpus: Corpus, language: Path
) -> None:
    leaves = {key: str(language) if value == "LM" else value for key, value in leaves.items()}
    with pytest.raises(InputError, match=reason):
        Feasibility(space(leaves, vary), tiny_corpus).check()


def test_only_what_fits_the_language_model_is_proposed(tiny_corpus: Corpus, language: Path) -> None:
    varied = {"model.d_model": {"choice": [32, 48]}, "pretrained.decoder": {"choice": [None, str(language)]}}
    feasibility = Feasibility(space({}, varied), tiny_corpus)
    assert feasibility.check() == []
    fits = {
        (width, decoder is not None): feasibility({"model.d_model": width, "pretrained.decoder": decoder}) is not None
        for width in (32, 48)
        for decoder in (None, str(language))
    }
    assert fits == {(32, False): True, (32, True): True, (48, False): True, (48, True): False}
    assert feasibility.refusal is not None and "48 here" in feasibility.refusal.problem


def test_every_leaf_of_the_tiny_tree_is_set() -> None:
    """The space above is the configuration that the trainer gets."""
    found = dict(flatten(space({}).config({}).model_dump()))
    assert {key: found[key] for key in dict(flatten(tiny.TREE)) if key != "training.epochs"} == {
        key: value for key, value in flatten(tiny.TREE) if key != "training.epochs"
    }


# Rules


@pytest.fixture(scope="module")
def course_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return course.write_corpus(tmp_path_factory.mktemp("corpora") / "hw4")


def test_a_proposal_that_breaks_the_rules_is_no_trial(course_corpus: Corpus, tmp_path: Path) -> None:
    own = course.save_language_model(course_corpus, tmp_path / "own")
    other = course.save_language_model(course_corpus, tmp_path / "other", corpus_hash="f" * 64)
    vary = {"pretrained.decoder": {"choice": [None, own, other]}}
    feasibility = Feasibility(space({}, vary, rules="hw4p2"), course_corpus)
    assert feasibility.check() == []
    found = {decoder: feasibility({"pretrained.decoder": decoder}) is not None for decoder in (None, own, other)}
    assert found == {None: True, own: True, other: False}
    assert feasibility.refusal is not None and "another corpus, of hash ffff" in feasibility.refusal.problem
    proposal = Feasibility(space({}, vary), course_corpus)({"pretrained.decoder": other})
    assert proposal is not None, "without rules it can be one"


def test_a_conformer_is_no_trial_beside_transformers(course_corpus: Corpus) -> None:
    vary = {"model.encoder_block": {"choice": ["transformer", "conformer"]}}
    feasibility = Feasibility(space({}, vary, rules="hw4p2"), course_corpus)
    assert feasibility.check() == []
    found = {block: feasibility({"model.encoder_block": block}) for block in ("transformer", "conformer")}
    assert found["transformer"] is not None and found["conformer"] is None
    with pytest.raises(InputError, match=r"model\.encoder_block: conformer, but only the pre-norm transformer"):
        feasibility.trial({"model.encoder_block": "conformer"})


def test_a_base_that_breaks_the_rules_is_refused_with_its_line(course_corpus: Corpus, tmp_path: Path) -> None:
    other = course.save_language_model(course_corpus, tmp_path / "other", corpus_hash="f" * 64)
    bad = space({"pretrained.decoder": other}, rules="hw4p2")
    (tmp_path / "space.yaml").write_text(bad.text)
    bad = replace(bad, source=str(tmp_path / "space.yaml"))
    (line,) = [place for place, text in enumerate(bad.text.splitlines(), start=1) if "decoder: " in text]
    with pytest.raises(InputError, match=rf"line {line}: base.pretrained.decoder: {other} was trained on another"):
        Feasibility(bad, course_corpus).check()
    (tmp_path / "space.yaml").unlink()
    with pytest.raises(InputError, match=rf"^pretrained\.decoder: {other} was trained on another"):
        Feasibility(bad, course_corpus).check()


def test_a_corpus_that_the_rules_forbid_is_refused(tiny_corpus: Corpus) -> None:
    with pytest.raises(InputError, match=r"^the corpus .* was prepared from tiny") as error:
        Feasibility(space({}, rules="hw4p2"), tiny_corpus).check()
    assert "a copy of the space without its line `rules`" in error.value.remedy
