"""The best model's decoding options are tuned once, and stay while the model is the same."""

from __future__ import annotations

from pathlib import Path

import babbler
import pytest
import records
from found import Found

from asr_platform.inference import decoding_study
from asr_platform.study.ledger import TrialRecord
from asr_platform.tracking.model_card import CARD
from asr_platform.tuning.best_model import best_of, make_best_model, tune_best_model
from trainables.checksums import CHECKSUMS
from trainables.inference.decoding_options import DECODING
from trainables.inference.model_directory import read_decoding


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    monkeypatch.setattr(decoding_study, "MOST_SEARCHES", 6)
    return Found(tmp_path / "mlruns", babbler.write_corpus(tmp_path / "corpus"))


def best(found: Found) -> TrialRecord:
    trial = best_of(found.ledger.trials())
    assert trial is not None
    return trial


def made(found: Found) -> Path:
    """The best model after a run of the sweep."""
    model = make_best_model(found.home, found.ledger, records.space(), found.corpus, found.said.append)
    assert model is not None
    tune_best_model(model, best(found), found.corpus, found.said.append, lambda: False)
    return model


def test_options_stay_until_another_model_is_the_best(found: Found) -> None:
    found.trial(wrong=2)
    model = made(found)
    first, written = read_decoding(model), (model / DECODING).stat().st_mtime_ns
    assert first is not None and found.said == ["tuning the decoding options of the best model, for 3 minutes at most"]
    assert "## Decoding" in (model / CARD).read_text()
    assert made(found) == model and read_decoding(model) == first
    assert len(found.said) == 1, "not tuned again"
    assert (model / CARD).read_text().count("## Decoding") == 1
    found.trial(wrong=0)
    assert read_decoding(made(found)) != first
    assert len(found.said) == 2 and (model / DECODING).stat().st_mtime_ns != written


def test_what_stands_in_the_way_is_said(found: Found, tmp_path: Path) -> None:
    found.trial(wrong=0)
    model = make_best_model(found.home, found.ledger, records.space(), found.corpus, found.said.append)
    assert model is not None
    (model / CHECKSUMS).write_text("{}")
    tune_best_model(model, best(found), found.corpus, found.said.append, lambda: False)
    assert found.said[-1].startswith("the decoding options are not tuned: ") and CHECKSUMS in found.said[-1]
    assert not (model / DECODING).exists()


def test_a_comparison_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model has its tuned options all the same."""
    monkeypatch.setattr(decoding_study, "MOST_SEARCHES", 2)
    corpus = babbler.write_corpus(tmp_path / "corpus", transcribed=True)
    (corpus.path / "test.arrow").write_bytes(b"damaged")
    found = Found(tmp_path / "mlruns", corpus)
    found.trial(wrong=0)
    model = made(found)
    assert read_decoding(model) is not None
    assert found.said[-1].startswith("the tuned decoding options are not compared on a test split: ")
    assert "test.arrow: unreadable" in found.said[-1]


def test_a_model_that_has_learned_nothing_is_not_tuned(found: Found) -> None:
    found.trial(wrong=len(found.corpus.split("dev").ids), lost=1.0)
    model = made(found)
    assert found.said == [] and not (model / DECODING).exists()
