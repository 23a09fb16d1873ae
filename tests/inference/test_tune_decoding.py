"""Tuning finds the best options that a search over the same encoder states finds, and makes them the model's own."""

from __future__ import annotations

import json
import time
from pathlib import Path

import babbler
import numpy as np
import optuna
import pytest
import scipy.stats
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from place import Run
from tiny import Learned

from asr_platform import load_model
from asr_platform.inference import decoding_study
from asr_platform.inference import tune_decoding as module
from asr_platform.inference.decoding_study import FIRST, MOST_STEPS, PROBED, WORSE, Study, surely_worse
from asr_platform.inference.evaluate import evaluate_model
from asr_platform.inference.tune_decoding import tune_decoding
from asr_platform.tracking.model_card import CARD
from trainables.config.tree import Decoding
from trainables.data.corpus import Corpus
from trainables.errors import InputError
from trainables.inference.decoding_options import DECODING
from trainables.inference.model_directory import read_decoding, read_info
from trainables.inference.recognizer import Recognizer

CARD_TEXT = "# small\n\n## Evaluation results\n\nCER\n\n## Training data\n\ndata\n\n## Search\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return babbler.write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def model(corpus: Corpus, tmp_path: Path) -> Path:
    babbler.save_model(corpus, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def few_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer searches than a study has."""
    monkeypatch.setattr(decoding_study, "MOST_SEARCHES", 14)


def test_the_figures_are_those_of_evaluation(corpus: Corpus, model: Path) -> None:
    """Of greedy search, of the options found, and of every search that was better than all before it."""
    lines: list[str] = []
    greedy = evaluate_model(model, corpus.path, "dev", {"method": "greedy"})["cer"]
    found = tune_decoding(model, corpus.path, minutes=5, say=lines.append)
    assert (found.tuning.split, found.tuning.utterances, found.tuning.of) == ("dev", 3, 3)
    assert found.tuning.searches == 14
    assert found.tuning.greedy.cer == greedy
    assert found.tuning.tuned.cer == evaluate_model(model, corpus.path, "dev")["cer"] < greedy
    low, high = found.tuning.tuned.interval
    assert low <= found.tuning.tuned.cer <= high
    assert found.difference.value == pytest.approx(found.tuning.tuned.cer - greedy)
    rates = [float(line.split("%")[0]) for line in lines]
    assert rates == sorted(rates, reverse=True) and lines[-1].startswith(f"{found.tuning.tuned.cer:7.2%}  method=")


def test_the_gain_is_confirmed_on_a_test_split(
    corpus: Corpus, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the figures of evaluation, on as many utterances as are allowed; never on the split of the tuning itself."""
    assert tune_decoding(model, corpus.path).tuning.test is None, "it has no transcripts"
    transcribed = babbler.write_corpus(tmp_path / "transcribed", transcribed=True)
    model = tmp_path / "again"
    babbler.save_model(transcribed, model)
    (model / CARD).write_text(CARD_TEXT)
    found = tune_decoding(model, transcribed.path).tuning.test
    assert (
        found is not None
        and (found.split, found.of) == ("test", len(babbler.TEST_IDS))
        and found.utterances == found.of
    )
    assert found.greedy.cer == evaluate_model(model, transcribed.path, "test", {"method": "greedy"})["cer"]
    assert found.tuned.cer == evaluate_model(model, transcribed.path, "test")["cer"]
    low, high = found.difference
    assert low <= found.tuned.cer - found.greedy.cer <= high
    assert f"not chosen: {found}.\n" in (model / CARD).read_text()
    monkeypatch.setattr(module, "PROBED", 1)
    monkeypatch.setattr(module, "MOST_COMPARED", 2)
    part = tune_decoding(model, transcribed.path).tuning.test
    assert part is not None and part.utterances == 2 and f"on 2 of {found.of} utterances of test" in str(part)
    assert tune_decoding(model, transcribed.path, "test").tuning.test is None
    assert tune_decoding(model, transcribed.path, stop=lambda: True).tuning.test is None


def test_the_options_are_the_models_own_from_then_on(corpus: Corpus, model: Path) -> None:
    (model / CARD).write_text(CARD_TEXT)
    loaded = load_model(model)
    for _ in range(2):
        found = loaded.tune_decoding(corpus.path)
        own = read_decoding(model)
        assert own is not None and found["decoding"] == own.decoding.model_dump(mode="json")
        assert loaded.recognizer.config.decoding == read_info(model).config.decoding == own.decoding
        card = (model / CARD).read_text()
        assert card.count("## Decoding\n\nOwn options (`decoding.json`): method=") == 1
        assert (
            f"| greedy | {found['greedy']['cer']:.2%} | " in card and f"| own | {found['tuned']['cer']:.2%} |" in card
        )
        assert card.startswith("# small\n\n## Evaluation results\n\nCER\n\n## Decoding\n")
        assert card.endswith("be smaller.\n\n## Training data\n\ndata\n\n## Search\n")
    assert found["tuned"]["cer"] == loaded.evaluate(corpus.path, "dev")["cer"]


def test_a_language_model_can_join(corpus: Corpus, model: Path, tmp_path: Path) -> None:
    folder = tiny.save_language_model(Recognizer.load(model), tmp_path / "lm")
    study = Study(Recognizer.load(model), corpus.split("dev"), folder)
    study.run(5)
    weights = {decoding.lm_weight for decoding in study.found}
    assert len(weights) > 2 and 0 in weights
    assert {decoding.language_model for decoding in study.found if decoding.lm_weight} == {str(folder)}
    assert all(decoding.language_model is None for decoding in study.found if not decoding.lm_weight)


def test_an_editor_is_tuned_by_its_steps_and_its_draft(corpus: Corpus, tmp_path: Path) -> None:
    leaves = {key.removeprefix("model."): value for key, value in tiny.EDITING.items()}
    editor = babbler.save_model(corpus, tmp_path / "editor", **leaves)
    study = Study(editor, corpus.split("dev"))
    greedy, best = study.run(5)
    assert greedy.decoding == Decoding() and best.errors.cer <= greedy.errors.cer
    assert {decoding.method for decoding in study.found} == {"greedy", "ctc", "ctc_beam"}
    steps = {decoding.editing_steps for decoding in study.found if decoding.method == "greedy"}
    assert {1} < steps <= {*range(1, MOST_STEPS + 1)}
    found = tune_decoding(tmp_path / "editor", corpus.path)
    assert evaluate_model(tmp_path / "editor", corpus.path, "dev")["cer"] == found.tuning.tuned.cer


def test_a_model_without_ctc_is_not_searched_with_it(tiny_corpus: Corpus) -> None:
    recognizer = tiny.learn(tiny_corpus, {"training.epochs": 1, "loss.ctc_weight": 0.0}).recognizer
    study = Study(recognizer, tiny_corpus.split("dev"))
    study.run(5)
    assert {decoding.method for decoding in study.found} == {"greedy", "beam"}


def test_short_time_searches_fewer_utterances(tiny_corpus: Corpus, learned: Learned) -> None:
    """Drawn at random, the same ones each time, and each with its own text."""
    split = Corpus.open(tiny_corpus.path).split("train")
    study = Study(learned.recognizer, split)
    assert len(split) > PROBED
    few, all = study.sample(0.0), study.sample(1000.0)
    assert len(few) == PROBED and all == [*range(len(split))]
    assert few == study.sample(0.0) != all[:PROBED]
    study.batches = study.encode(few)
    assert study.utterances == PROBED
    pairs = {(id, text) for batch in study.batches for id, text in zip(batch.ids, batch.references, strict=True)}
    texts = split.texts or []
    assert pairs == {(split.ids[index], texts[index]) for index in few}


def test_a_study_ends_when_it_is_told_to(corpus: Corpus, model: Path) -> None:
    """It has greedy search then, which is always whole."""
    study = Study(Recognizer.load(model), corpus.split("dev"), stop=lambda: True)
    greedy, best = study.run(5)
    assert greedy is best and list(study.found) == [Decoding()]
    study = Study(Recognizer.load(model), corpus.split("dev"))
    begin = time.monotonic()
    study.run(0.5 / 60)
    assert time.monotonic() - begin < 60, "the time is a limit, with what is whole in any case"
    assert Decoding() in study.found


def test_a_worse_search_is_given_up(learned: Learned, tiny_corpus: Corpus) -> None:
    """And then known: it is not begun again. The best one is never given up."""
    study, bad = Study(learned.recognizer, tiny_corpus.split("train")), Decoding(method="beam", repeat_penalty=1000.0)
    study.batches = study.encode(range(20))
    assert len(study.batches) > 8
    trials = optuna.create_study()
    trial = trials.ask()
    good = study.search(Decoding(), trial)
    trials.tell(trial, good.errors.cer)
    for _ in range(2):
        with pytest.raises(optuna.TrialPruned):
            study.search(bad, trials.ask())
        assert study.found == {Decoding(): good, bad: None}


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=4, max_size=10))
def test_worse_beyond_chance_is_by_the_signed_rank_test(pairs: list[tuple[int, int]]) -> None:
    """As SciPy has it: ties and zeros are usual in the error rates of small batches."""
    rates, best = ([pair[place] / 7 for pair in pairs] for place in (0, 1))
    differences = np.subtract(rates, best).round(9)
    method = scipy.stats.PermutationMethod(n_resamples=2 ** len(pairs))
    test = scipy.stats.wilcoxon(differences, alternative="greater", zero_method="zsplit", method=method)
    assert surely_worse(rates, best) == (differences.mean() > 0 and test.pvalue < WORSE)


def test_worse_beyond_chance_in_many_batches() -> None:
    """From random signs, where SciPy has a normal distribution."""
    random = np.random.default_rng(0)
    for shift in (-0.05, 0.0, 0.02, 0.05, 0.2):
        best = random.normal(0.3, 0.1, 40)
        rates = best + random.normal(shift, 0.1, 40)
        expected = scipy.stats.wilcoxon(rates - best, alternative="greater").pvalue
        if abs(expected - WORSE) > 0.02:
            assert surely_worse(rates.tolist(), best.tolist()) == (expected < WORSE)


def test_the_command_says_both_figures(place: Path, run: Run) -> None:
    babbler.save_model(Corpus.open(place / "corpus"), place / "tuned")
    ended = run("tune-decoding", "tuned", "--data", "corpus", "--minutes", "5")
    assert ended.code == 0
    own = read_decoding(place / "tuned")
    assert own is not None and own.tuning is not None
    rows = [line.split() for line in ended.out.splitlines()]
    low, high = own.tuning.tuned.interval
    assert ["tuned", f"{own.tuning.tuned.cer:.2%}", f"{100 * low:.2f}–{high:.2%}"] in rows
    assert any(row[:2] == ["greedy", f"{own.tuning.greedy.cer:.2%}"] for row in rows)
    assert f"{DECODING}, the default wherever the model is used" in " ".join(ended.out.split())
    tree = json.loads(run("tune-decoding", "tuned", "--data", "corpus", "--json").out)
    assert tree["tuned"]["cer"] <= tree["greedy"]["cer"] and tree["decoding"]["method"]


def test_mistakes_leave_the_model_as_it_is(corpus: Corpus, model: Path) -> None:
    for minutes in (0.0, -1.0, float("nan"), 1e9):
        with pytest.raises(InputError, match="minutes must be above 0"):
            tune_decoding(model, corpus.path, minutes=minutes)
    with pytest.raises(InputError, match="not a whole model directory"):
        tune_decoding(model, corpus.path, language_model=model / "absent")
    assert not (model / DECODING).exists() and FIRST[0]["method"] == "joint"
