"""What a model directory is for: scores and submissions, in the right order and whole."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import babbler
import pytest
import tiny
from place import Run

from asr_platform.analysis.kept_scores import scores_of
from asr_platform.inference.evaluate import (
    METHODS,
    compare_methods,
    evaluate_model,
    utterance_errors,
    write_submission,
)
from trainables.checksums import CHECKSUMS
from trainables.config.tree import Decoding
from trainables.data.corpus import Corpus
from trainables.data.corpus_writer import CorpusWriter
from trainables.data.features import FeatureRecipe
from trainables.data.inspection.signals import loudness
from trainables.data.text.normalization import TextRule
from trainables.errors import InputError
from trainables.evaluation.metrics import character_error_rate, word_error_rate
from trainables.inference.recognizer import Recognizer


@dataclass(frozen=True)
class Made:
    corpus: Corpus
    model: Path
    recognizer: Recognizer

    def texts(self, split: str, decoding: Mapping[str, Any] | None = None) -> dict[str, str]:
        """What the recogniser says to each utterance of a split, by id."""
        found = self.corpus.split(split)
        frames = [
            found.features[start : start + count] for start, count in zip(found.offsets, found.frames, strict=True)
        ]
        search = None if decoding is None else self.recognizer.search(Decoding.model_validate(decoding))
        return dict(zip(found.ids, self.recognizer.transcribe(frames, search), strict=True))


def make(folder: Path, recipe: FeatureRecipe, **model: Any) -> Made:
    corpus = babbler.write_corpus(folder / "corpus", recipe)
    return Made(corpus, folder / "model", babbler.save_model(corpus, folder / "model", **model))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A corpus and a model of the recipe kaldi with a few bins."""
    return make(tmp_path_factory.mktemp("kaldi"), tiny.RECIPE)


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A corpus and a transcript editor."""
    model = {key.removeprefix("model."): value for key, value in tiny.EDITING.items()}
    return make(tmp_path_factory.mktemp("editor"), tiny.RECIPE, **model)


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A corpus and a model of the course's recipe."""
    return make(tmp_path_factory.mktemp("hw4"), FeatureRecipe(name="hw4"))


@pytest.fixture(scope="module")
def language_model(made: Made, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save_language_model(made.recognizer, tmp_path_factory.mktemp("language") / "lm"))


# Scores


def test_scores_are_those_of_the_whole_split(made: Made) -> None:
    texts, hypotheses = made.corpus.split("dev").texts or [], list(made.texts("dev").values())
    scores = evaluate_model(made.model, made.corpus.path, "dev")
    (kept,) = [one for one in scores_of(made.model) if one.split == "dev"]
    assert (kept.cer, list(kept.wer_interval), kept.corpus_hash) == (
        scores["cer"], scores["wer_interval"], made.corpus.hash,
    )  # fmt: skip
    assert [group["utterances"] for group in scores.pop("lengths")] == [3]
    for rate, found, unit in (("cer", character_error_rate, "character"), ("wer", word_error_rate, "word")):
        assert scores[rate] == found(texts, hypotheses) == sum(scores[f"{unit}_edits"].values()) / scores[f"{unit}s"]
        low, high = scores[f"{rate}_interval"]
        assert low <= scores[rate] <= high
    assert (scores["utterances"], scores["characters"]) == (3, sum(map(len, texts)))
    assert scores["words"] == sum(len(text.split()) for text in texts)


def test_errors_by_speaker_and_by_length(made: Made, run: Run, tmp_path: Path) -> None:
    """Each speaker's rates are those of its utterances, the worst speaker comes first, and the command says so."""
    split = made.corpus.split("dev")
    texts, hypotheses = split.texts or [], list(made.texts("dev").values())
    speakers = ["anna", "ben", "anna"]
    with CorpusWriter(tmp_path / "corpus", made.corpus.recipe, "test") as writer:
        for place, speaker in enumerate(speakers):
            writer.add("dev", split.ids[place], texts[place], 1.0, split.utterance(place).numpy(), speaker)
        writer.finish()
    command = ["evaluate", str(made.model), "--data", str(tmp_path / "corpus"), "--split", "dev"]
    scores = json.loads(run(*command, "--json").out)
    for group in scores["speakers"]:
        own = [place for place, speaker in enumerate(speakers) if speaker == group["speaker"]]
        chosen = [texts[place] for place in own], [hypotheses[place] for place in own]
        assert (group["cer"], group["wer"]) == (character_error_rate(*chosen), word_error_rate(*chosen))
        assert group["utterances"] == len(own)
    rates = [group["cer"] for group in scores["speakers"]]
    assert len(rates) == 2 and rates == sorted(rates, reverse=True)
    low, high = scores["lengths"][0]["interval"]
    assert low <= min(rates) + 1e-9 and max(rates) <= high + 1e-9, "either speaker may be drawn twice"
    (noise,) = scores["noise"]
    ratios = [loudness(split.utterance(place), made.corpus.recipe).range_db for place in range(3)]
    assert (noise["lowest"], noise["highest"], noise["utterances"]) == (min(ratios), max(ratios), 3)
    shown = run(*command).out
    worst = scores["speakers"][0]
    assert f"worst speaker: {worst['speaker']}, CER {worst['cer']:.2%}, WER {worst['wer']:.2%}\n" in shown
    assert f"mean of speakers: CER {sum(rates) / 2:.2%}" in shown
    assert utterance_errors(made.model, tmp_path / "corpus", "dev").speakers == speakers


def test_references_are_normalised_as_the_models_training_texts(made: Made, tmp_path: Path) -> None:
    """A model that was trained on texts without punctuation is not blamed for it where references have it."""
    rule = TextRule(case="lower", punctuation="remove")
    taught = replace(made.recognizer, text=rule)
    (tmp_path / "model").mkdir()
    taught.save(tmp_path / "model")
    texts, hypotheses = made.corpus.split("dev").texts or [], list(made.texts("dev").values())
    assert rule.apply(texts)[0] == "a b c" and Recognizer.load(tmp_path / "model").text == rule
    scores = evaluate_model(tmp_path / "model", made.corpus.path, "dev")
    assert scores["cer"] == character_error_rate(rule.apply(texts), hypotheses)
    assert scores["characters"] == sum(map(len, rule.apply(texts)))
    errors = utterance_errors(tmp_path / "model", made.corpus.path, "dev")
    assert errors.references == rule.apply(texts)


def test_models_from_before_texts_were_normalised_keep_them(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.model, tmp_path / "model")
    about = json.loads((tmp_path / "model" / "config.json").read_text())
    del about["text"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(about))
    (tmp_path / "model" / CHECKSUMS).unlink()
    assert evaluate_model(tmp_path / "model", made.corpus.path, "dev") == evaluate_model(
        made.model, made.corpus.path, "dev"
    )


def test_a_split_without_texts_has_no_score(made: Made) -> None:
    with pytest.raises(InputError, match="split test has no texts to score against") as error:
        evaluate_model(made.model, made.corpus.path, "test")
    assert "platform submit" in error.value.remedy


def test_features_of_another_recipe_are_refused(made: Made, course: Made) -> None:
    with pytest.raises(InputError, match=r"features hw4 with 80 bins, but the model .* wants kaldi with 8") as error:
        evaluate_model(made.model, course.corpus.path, "dev")
    assert "--features kaldi" in error.value.remedy


def test_scores_are_those_of_the_search_asked_for(made: Made) -> None:
    """And of the model's own, for what is not said."""
    texts = made.corpus.split("dev").texts or []
    asked = {"method": "beam", "beam": 3, "repeat_penalty": 3.0}
    assert made.texts("dev", asked) != made.texts("dev")
    hypotheses = list(made.texts("dev", asked).values())
    assert evaluate_model(made.model, made.corpus.path, "dev", asked)["cer"] == character_error_rate(texts, hypotheses)


def test_a_comparison_has_a_row_a_method(made: Made, language_model: str) -> None:
    """With the settings asked for; a language model joins those that can listen to it."""
    asked = {"beam": 3, "repeat_penalty": 3.0, "language_model": language_model, "lm_weight": 20.0}
    rows = compare_methods(made.model, made.corpus.path, "dev", asked)
    listening = [f"{method} + language model" for method in ("greedy", "beam", "joint")]
    assert [row["method"] for row in rows] == [*METHODS, *listening]
    for row in rows:
        method, *added = row["method"].split(" + ")
        search = {**asked, "method": method} if added else {"beam": 3, "repeat_penalty": 3.0, "method": method}
        scores = evaluate_model(made.model, made.corpus.path, "dev", search)
        assert (row["cer"], row["wer"]) == (scores["cer"], scores["wer"])
        assert row["real_time_factor"] > 0 and row["real_time_factor_alone"] > 0
    assert len({row["cer"] for row in rows}) > 3
    alone = compare_methods(made.model, made.corpus.path, "dev", {})
    assert [row["method"] for row in alone] == [*METHODS]


def test_a_comparison_of_an_editor_has_its_draft_and_its_steps(editor: Made) -> None:
    for asked, steps in (({}, 3), ({"editing_steps": 2}, 3), ({"editing_steps": 5}, 5)):
        rows = compare_methods(editor.model, editor.corpus.path, "dev", asked)
        assert [row["method"] for row in rows] == [
            "draft",
            "1 step",
            *(f"{step} steps" for step in range(2, steps + 1)),
        ]
        for number, row in enumerate(rows):
            search = {"editing_steps": number} if number else {"method": "ctc"}
            scores = evaluate_model(editor.model, editor.corpus.path, "dev", search)
            assert (row["cer"], row["wer"]) == (scores["cer"], scores["wer"])
            assert row["real_time_factor"] > 0 and row["real_time_factor_alone"] > 0
    assert len({row["cer"] for row in rows}) >= 3


@pytest.mark.parametrize("method", ["beam", "joint"])
def test_an_editor_has_no_beams(method: str, editor: Made, language_model: str) -> None:
    with pytest.raises(InputError, match=f"this search: .*decoding.method={method} has no meaning .*: use greedy"):
        evaluate_model(editor.model, editor.corpus.path, "dev", {"method": method})
    with pytest.raises(InputError, match=r"lm_weight=0.3 has no meaning with model.kind=transcript_editor"):
        evaluate_model(editor.model, editor.corpus.path, "dev", {"language_model": language_model, "lm_weight": 0.3})


def test_an_editor_takes_no_options_of_a_decoder(editor: Made) -> None:
    """Rather than ignoring them."""
    for score in (evaluate_model, compare_methods):
        for change in ({"repeat_penalty": 2.0}, {"temperature": 2.0}, {"length_penalty": 1.0}, {"ctc_weight": 0.5}):
            with pytest.raises(InputError, match=r"=\d.\d has no meaning with model.kind=transcript_editor"):
                score(editor.model, editor.corpus.path, "dev", change)
        with pytest.raises(InputError, match=r"beam=3 has no meaning with .* and method=greedy"):
            score(editor.model, editor.corpus.path, "dev", {"beam": 3})
    assert evaluate_model(editor.model, editor.corpus.path, "dev", {"method": "ctc_beam", "beam": 3})["utterances"]
    with pytest.raises(InputError, match="editing_steps=2 has no meaning with method=ctc"):
        evaluate_model(editor.model, editor.corpus.path, "dev", {"method": "ctc", "editing_steps": 2})


def test_the_draft_of_an_editor_of_several_steps(editor: Made, tmp_path: Path) -> None:
    """A method that gives the draft replaces the steps that the model is configured with."""
    draft = evaluate_model(editor.model, editor.corpus.path, "dev", {"method": "ctc"})
    recognizer = Recognizer.load(editor.model)
    decoding = recognizer.config.decoding.model_copy(update={"editing_steps": 2})
    config = recognizer.config.model_copy(update={"decoding": decoding})
    (tmp_path / "steps").mkdir()
    replace(recognizer, config=config).save(tmp_path / "steps")
    assert evaluate_model(tmp_path / "steps", editor.corpus.path, "dev", {"method": "ctc"}) == draft
    assert compare_methods(tmp_path / "steps", editor.corpus.path, "dev", {})[0]["cer"] == draft["cer"]


def test_an_encoder_decoder_takes_no_editing_steps(made: Made) -> None:
    for score in (evaluate_model, compare_methods):
        with pytest.raises(InputError, match=r"editing_steps=2 has no meaning with model.kind=encoder_decoder"):
            score(made.model, made.corpus.path, "dev", {"editing_steps": 2})


def test_a_language_model_is_scored_by_its_perplexity(made: Made, language_model: str) -> None:
    scores = evaluate_model(Path(language_model), made.corpus.path, "dev")
    texts = made.corpus.split("dev").texts or []
    assert scores["texts"] == len(texts) and scores["characters"] == sum(map(len, texts))
    assert scores["perplexity"] == pytest.approx(scores["character_perplexity"])  # its tokens are characters
    with pytest.raises(InputError, match="a language model, which searches nothing"):
        evaluate_model(Path(language_model), made.corpus.path, "dev", {"beam": 3})


def test_ctc_needs_none_of_the_model_s_own_language_model(made: Made, language_model: str, tmp_path: Path) -> None:
    """Its configuration fuses one, which CTC alone cannot listen to."""
    fused = {"decoding": {**made.recognizer.config.decoding.model_dump(), "method": "joint"}}
    fused["decoding"] |= {"language_model": language_model, "lm_weight": 0.5}
    config = made.recognizer.config.model_copy(update={"decoding": Decoding.model_validate(fused["decoding"])})
    (tmp_path / "model").mkdir()
    replace(made.recognizer, config=config).save(tmp_path / "model")
    for method in ("ctc", "ctc_beam"):
        found = evaluate_model(tmp_path / "model", made.corpus.path, "dev", {"method": method})
        assert found == evaluate_model(made.model, made.corpus.path, "dev", {"method": method})


def test_a_language_model_without_a_weight_is_refused(made: Made) -> None:
    with pytest.raises(InputError, match="--language-model lm has no weight") as error:
        evaluate_model(made.model, made.corpus.path, "dev", {"method": "beam", "language_model": "lm"})
    assert "--lm-weight" in error.value.remedy


# Submissions


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("kind", ["made", "editor"])
def test_a_submission_counts_from_zero_in_sorted_order(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Whatever the order in the corpus; commas and quotes in a text come back as they were."""
    made: Made = request.getfixturevalue(kind)
    texts = made.texts("test")
    assert list(texts) == babbler.TEST_IDS
    assert len(set(texts.values())) > 3
    assert kind == "editor" or any('"' in text and "," in text for text in texts.values())
    out = tmp_path / "submission.csv"
    assert write_submission(made.model, made.corpus.path, "test", out) == 5
    expected = [[str(row), texts[id]] for row, id in enumerate(sorted(babbler.TEST_IDS))]
    assert read_csv(out) == [["id", "transcription"], *expected]


def test_a_submission_replaces_an_earlier_one_and_leaves_nothing_else(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "submission.csv"
    out.write_text("from before\n" * 100)
    write_submission(made.model, made.corpus.path, "dev", out)
    assert [row[0] for row in read_csv(out)] == ["id", "0", "1", "2"]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("place", ["absent/submission.csv", "file/submission.csv", "folder"])
def test_a_submission_that_cannot_be_written_is_refused(made: Made, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=f"{place}: (cannot be written|not a regular file)") as error:
        write_submission(made.model, made.corpus.path, "test", tmp_path / place)
    assert "--out" in error.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_submission_that_fails_leaves_the_earlier_one(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "submission.csv"
    out.write_text("from before")
    with pytest.raises(InputError, match="no split named 'tset'"):
        write_submission(made.model, made.corpus.path, "tset", out)
    assert out.read_text() == "from before"
    assert list(tmp_path.iterdir()) == [out]
