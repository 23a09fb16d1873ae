"""A sweep keeps the defaults that it began with."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import records
import tiny
import yaml
from tiny import Recorder

from asr_platform.study.ledger import Ledger
from asr_platform.study.recorded_space import RECORDED_DEFAULTS, defaults_to_record, recorded_space, wider_space
from search_spaces.space import DEFAULTS
from trainables.checksums import CHECKSUMS
from trainables.config.former_keys import REPLACING
from trainables.config.parsing import FORMER_VALUES, flatten
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.inference.model_files import CONFIG
from trainables.training.loop import train

WIDER = records.SPACE.replace("choice: [32, 64, 128]", "choice: [32, 64, 128, 256]")


def values(ledger: Ledger) -> dict[str, object]:
    """The values that the base of a ledger's space gives the keys whose defaults have changed."""
    leaves = dict(flatten(recorded_space(ledger.about).config({}).model_dump()))
    return {key: leaves[key] for key in FORMER_VALUES}


def test_the_defaults_have_changed() -> None:
    """Otherwise the tests below could not fail."""
    assert FORMER_VALUES and all(DEFAULTS[key] != value for key, value in FORMER_VALUES.items())


def test_a_ledger_from_before_a_key_existed_has_its_former_value(tmp_path: Path) -> None:
    assert values(records.ledger_in(tmp_path)) == FORMER_VALUES


def test_a_new_ledger_has_the_defaults_of_today(tmp_path: Path) -> None:
    ledger = records.ledger_in(tmp_path, **{RECORDED_DEFAULTS: defaults_to_record()})
    assert values(ledger) == {key: DEFAULTS[key] for key in FORMER_VALUES}


def test_a_record_without_the_latest_key_has_the_former_value_of_that_key_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = defaults_to_record()
    monkeypatch.setitem(FORMER_VALUES, "model.norm", "rms")
    ledger = records.ledger_in(tmp_path, **{RECORDED_DEFAULTS: recorded})
    assert values(ledger) == {**{key: DEFAULTS[key] for key in FORMER_VALUES}, "model.norm": "rms"}


def test_a_sweep_from_before_trials_waited_by_default_stops_trials_as_it_began(tmp_path: Path) -> None:
    """Values in its space take precedence over the former defaults; a new sweep has the new defaults."""
    text = records.SPACE.replace("asha: {grace: 3, promotion: null, reduction: 3}", "asha: {grace: 3}")
    former = recorded_space(records.ledger_in(tmp_path, "former", space=text).about).settings.asha
    assert (former.promotion, former.reduction, former.grace) == (None, 3.0, 3)
    explicit = text.replace("{grace: 3}", "{promotion: 1, reduction: 2}")
    asha = recorded_space(records.ledger_in(tmp_path, "explicit", space=explicit).about).settings.asha
    assert (asha.promotion, asha.reduction) == (1, 2.0)
    today = records.ledger_in(tmp_path, "today", space=text, **{RECORDED_DEFAULTS: defaults_to_record()})
    assert recorded_space(today.about).settings.asha == records.space(text).settings.asha


def test_what_the_space_says_itself_counts(tmp_path: Path) -> None:
    text = f"base: {{model: {{sinusoids: interleaved}}}}\n{records.SPACE}"
    assert values(records.ledger_in(tmp_path, space=text)) == {**FORMER_VALUES, "model.sinusoids": "interleaved"}


def test_a_wider_space_goes_on_with_the_former_values(tmp_path: Path) -> None:
    """Also at the next resume, which reads the wider space from the ledger."""
    ledger = records.ledger_in(tmp_path)
    wider = wider_space(ledger.about, records.space(WIDER))
    assert wider.config({}) == recorded_space(ledger.about).config({})
    ledger.widen(wider, tmp_path, {})
    assert recorded_space(ledger.about).vary["model.d_model"].distribution.values == (32, 64, 128, 256)
    assert values(ledger) == FORMER_VALUES


def test_the_trials_of_a_sweep_from_before_a_key_existed_go_on_as_they_began(
    tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """Ledger and checkpoint agree, and the results are those of a run that was not interrupted."""
    base = {section: {**keys} for section, keys in tiny.TREE.items()}
    del base["training"]["epochs"]  # the space's own
    text = yaml.safe_dump({"base": base, "epochs": 2})
    config = recorded_space(records.ledger_in(tmp_path, space=text, epochs=2).about).config({})
    assert config.model.sinusoids == "concatenated"
    whole, begun, resumed = Recorder(), Recorder(tmp_path), Recorder()
    train(config, tiny_corpus, whole)
    train(config, tiny_corpus, begun, until=1)
    train(config, tiny_corpus, resumed, checkpoint=tiny.written_before(tmp_path / "epoch_1"))
    assert begun.comparable() + resumed.comparable() == whole.comparable()


def test_a_checkpoint_of_one_layout_is_not_continued_with_another(tiny_corpus: Corpus, tmp_path: Path) -> None:
    config = tiny.config({**FORMER_VALUES, "training.epochs": 2})
    train(config, tiny_corpus, Recorder(tmp_path), until=1)
    folder = tiny.written_before(tmp_path / "epoch_1")
    with pytest.raises(InputError, match=r"model\.sinusoids is concatenated there and interleaved here"):
        train(tiny.config({"training.epochs": 2}), tiny_corpus, Recorder(), checkpoint=folder)


def test_ledgers_and_checkpoints_with_former_keys_are_those_of_today(tiny_corpus: Corpus, tmp_path: Path) -> None:
    """Former keys give the audio of a pass and a number of passes; a trial goes on with updates of as much audio."""
    base = {section: {**keys} for section, keys in tiny.TREE.items()}
    base["training"] = {"batch_seconds": 2.0, "precision": "float32"}
    vary = {"training.accumulation": {"choice": [1, 3]}}
    about = records.ledger_in(tmp_path, space=yaml.safe_dump({"base": base, "vary": vary, "epochs": 2}), epochs=2).about
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = recorded_space(about).config({"training.accumulation": 3})
    assert (config.training.update_seconds, config.training.pass_seconds) == (6.0, "auto")
    whole, resumed = Recorder(), Recorder()
    train(config, tiny_corpus, whole)
    train(config, tiny_corpus, Recorder(tmp_path), until=1)
    path = tmp_path / "epoch_1" / CONFIG
    tree = json.loads(path.read_text(encoding="utf-8"))
    for key in REPLACING:
        del tree["config"]["training"][key.removeprefix("training.")]
    tree["config"]["training"] |= {"batch_seconds": 2.0, "batch_tokens": 8192, "accumulation": 3}
    path.write_text(json.dumps(tree), encoding="utf-8")
    (path.parent / CHECKSUMS).unlink()
    train(config, tiny_corpus, resumed, checkpoint=path.parent)
    assert resumed.comparable() == whole.comparable()[1:]
