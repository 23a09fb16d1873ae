"""The command `platform check`: each rule with its verdict, and an exit code that tells whether all hold."""

from __future__ import annotations

import json
from pathlib import Path

import babbler
import course
import pytest
from click.testing import CliRunner, Result

from asr_platform.cli.main import cli
from trainables.data.corpus import Corpus
from trainables.inference.model_directory import stored_parameters
from trainables.inference.model_files import CONFIG

RULES = ["budget", "architecture", "data", "validation", "weights"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return course.write_corpus(tmp_path_factory.mktemp("corpora") / "hw4")


@pytest.fixture
def model(corpus: Corpus, tmp_path: Path) -> Path:
    babbler.save_model(corpus, tmp_path / "model")
    return tmp_path / "model"


def check(model: Path, *words: object) -> Result:
    return CliRunner().invoke(cli, ["check", str(model), "--rules", "hw4p2", *map(str, words)])


def change(model: Path, section: str, **values: object) -> None:
    """Changes a section of a model's configuration; without checksums, since somebody did it on purpose."""
    (model / "checksums.json").unlink(missing_ok=True)
    about = json.loads((model / CONFIG).read_text())
    about["config"][section] |= values
    (model / CONFIG).write_text(json.dumps(about))


def test_a_model_that_keeps_the_rules(model: Path, corpus: Corpus) -> None:
    for words in ((), ("--data", corpus.path)):
        ended = check(model, *words)
        assert ended.exit_code == 0, ended.output
        lines = ended.output.splitlines()
        assert [line.split()[1] for line in lines if line.startswith("holds")] == RULES
        assert lines[-1] == "hw4p2: all rules hold"
        assert f"based on: {stored_parameters(model):,} parameters of the model" in ended.output
        assert ("prepared from hw4" in ended.output) == bool(words)
        assert ended.output.count("no corpus was examined") == (0 if words else 2)


def test_broken_rules_are_a_result(model: Path, corpus: Corpus, tmp_path: Path) -> None:
    other = course.save_language_model(corpus, tmp_path / "other", corpus_hash="f" * 64)
    change(model, "data", train="train-other")
    change(model, "pretrained", decoder=other)
    ended = check(model)
    assert ended.exit_code == 1
    assert "\nBROKEN  data " in ended.output and "\nBROKEN  weights " in ended.output
    assert f"pretrained.decoder: {other} was trained on another corpus" in ended.output
    assert ended.output.endswith("hw4p2: broken: data, weights\n")
    found = json.loads(check(model, "--json").output)
    assert {one["rule"]: one["holds"] for one in found} == {
        "budget": True, "architecture": True, "data": False, "validation": True, "weights": False,
    }  # fmt: skip
    assert all(set(one) == {"rule", "text", "violations", "evidence", "holds"} for one in found)


def test_a_language_model_has_rules_too(corpus: Corpus, tmp_path: Path) -> None:
    folder = course.save_language_model(corpus, tmp_path / "language_model")
    assert check(Path(folder), "--data", corpus.path).exit_code == 0
    change(Path(folder), "data", text="/books.txt")
    assert "data.text: /books.txt" in check(Path(folder)).output


def test_parameters_are_those_of_the_file(corpus: Corpus, tmp_path: Path) -> None:
    recogniser = babbler.save_model(corpus, tmp_path / "model")
    assert stored_parameters(tmp_path / "model") == recogniser.parameters


def test_what_platform_submit_writes_has_the_format(model: Path, corpus: Corpus, tmp_path: Path) -> None:
    file, data = tmp_path / "submission.csv", ["--data", str(corpus.path)]
    submitted = CliRunner().invoke(cli, ["submit", str(model), *data, "--split", "test-clean", "--out", str(file)])
    assert submitted.exit_code == 0, submitted.output
    ended = check(model, *data, "--submission", file)
    assert ended.exit_code == 0, ended.output
    assert "holds   submission" in ended.output and "the split has 2 utterances" in ended.output


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the first line must be id,transcription, but is missing"),
        ("ID,text\n0,A\n1,B\n", "the first line must be id,transcription, but is ID,text"),
        ("id,transcription\n1,A\n2,B\n", "row 0 must have the id 0 and one transcript, but has ['1', 'A']"),
        ("id,transcription\n0,A\n1,B, C\n", "row 1 must have the id 1 and one transcript, but has ['1', 'B', ' C']"),
        ("id,transcription\n0,A\n", "1 transcripts of 2 utterances"),
        ("id,transcription\n" + "a,A\n" * 9, "and 4 rows more"),
    ],
)
def test_a_submission_of_another_format(text: str, reason: str, model: Path, corpus: Corpus, tmp_path: Path) -> None:
    file = tmp_path / "submission.csv"
    file.write_text(text, encoding="utf-8")
    ended = check(model, "--data", corpus.path, "--submission", file)
    assert ended.exit_code == 1
    assert reason in ended.output and ended.output.endswith("broken: submission\n")
