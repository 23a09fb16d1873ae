"""What `platform prepare` says at its end: splits that serve, characters that training lacks, what was left out."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from place import Run

from asr_platform.cli.data import prepare
from trainables.data import importers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).normal(size=8000), 16_000)
    return tmp_path


def manifest(folder: Path, *lines: dict[str, Any]) -> str:
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps({"audio_filepath": "a.wav"} | line) + "\n" for line in lines))
    return str(path)


def test_every_importer_has_its_function_and_its_command() -> None:
    names = {path.stem for path in Path(importers.__path__[0]).glob("*.py")} - {"__init__"}
    assert {name.replace("_", "-") for name in names} == set(prepare.commands)
    for name in names:
        assert callable(getattr(import_module(f"{importers.__name__}.{name}"), f"{name}_utterances"))


def test_the_characters_that_training_lacks_are_named(run: Run, folder: Path) -> None:
    texts = [("train", "DON'T STOP"), ("dev", "DON’T STOP"), ("dev", "CAN’T GO"), ("test", "STOP")]
    path = manifest(folder, *[{"split": split, "text": text} for split, text in texts])
    ended = run("prepare", "manifest", path, "--out", str(folder / "corpus"))
    assert ended.code == 0, ended
    rows = [line.split() for line in ended.out.splitlines() if "U+" in line]
    assert ["dev", "’", "U+2019", "RIGHT", "SINGLE", "QUOTATION", "MARK", "2"] in rows
    assert [row[2] for row in rows if row[0] == "dev"] == ["U+2019", "U+0041", "U+0043", "U+0047"]
    assert "train on: train\nvalidate on: dev\n" in ended.out
    told = json.loads(run("prepare", "manifest", path, "--json", "--out", str(folder / "again")).out)
    assert told["unseen_characters"] == {"dev": {"’": 2, "C": 1, "A": 1, "G": 1}}
    assert (told["train_on"], told["validate_on"], told["skipped"]) == (["train"], ["dev"], [])


def test_a_dev_split_is_taken_and_said(run: Run, folder: Path) -> None:
    path = manifest(folder, *[{"text": "A", "speaker": f"s{number // 2}"} for number in range(40)])
    ended = run("prepare", "manifest", path, "--out", str(folder / "corpus"))
    assert ended.code == 0, ended
    assert "validate on: dev\ndev: 2 utterances (5.0%) taken from training: all of 1 speaker\n" in ended.out
    told = json.loads(run("prepare", "manifest", path, "--json", "--dev-share", "0.1", "--out", str(folder / "b")).out)
    assert told["dev"] == {"utterances": 4, "share": 0.1, "by": "speaker", "units": 2, "replaced": []}
    assert told["splits"]["train"]["utterances"] == 36
    none = json.loads(run("prepare", "manifest", path, "--json", "--dev-share", "0", "--out", str(folder / "c")).out)
    assert none["dev"] is None and none["validate_on"] == []


def test_speakers_are_held_out_and_those_heard_in_training_are_said(run: Run, folder: Path) -> None:
    spoken = [("train", "anna"), ("train", "ben"), ("dev", "anna"), ("test", "ben"), ("test", "cleo")]
    path = manifest(folder, *[{"split": split, "text": "A", "speaker": name} for split, name in 2 * spoken])
    command = ["prepare", "manifest", path, "--out"]
    ended = run(*command, str(folder / "corpus"))
    assert (
        "dev has speakers of train (1 of 1), so its CER is lower than on new speakers; "
        "platform prepare --dev-speakers N holds N of them out of training "
        "test has speakers of train (1 of 2), so its CER is lower than on new speakers "
    ) in " ".join(ended.out.split())
    assert ["test", "4", "0.00", "4", "0.50", "2"] in [line.split() for line in ended.out.splitlines()]
    told = json.loads(run(*command, str(folder / "b"), "--json", "--dev-speakers", "ben,").out)
    assert told["dev"] == {"utterances": 2, "share": 1 / 3, "by": "speaker", "units": 1, "replaced": ["dev"]}
    assert [line.split(":")[0] for line in told["heard_voices"]] == []
    drawn = json.loads(run(*command, str(folder / "c"), "--json", "--dev-speakers", "1").out)
    assert drawn["splits"]["dev"]["speakers"] == drawn["splits"]["train"]["speakers"] == 1
    refused = run(*command, str(folder / "d"), "--dev-speakers", "1", "--dev-share", "0.1")
    assert (refused.code, refused.out) == (2, "") and "Give one of the two" in refused.err


def test_what_was_changed_in_texts_is_shown(run: Run, folder: Path) -> None:
    long = "a " * 50
    path = manifest(folder, *[{"split": split, "text": f"{long}isn’t. it?"} for split in ("train", "dev")])
    command = ["prepare", "manifest", path, "--text", "upper", "--punctuation", "remove"]
    ended = run(*command, "--out", str(folder / "corpus"))
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert any(line.startswith("punctuation removed 2 …") for line in lines), ended.out
    assert any(line.startswith("upper case 2 a a a") for line in lines), ended.out
    told = json.loads(run(*command, "--json", "--out", str(folder / "again")).out)
    assert told["text"] == {"case": "upper", "punctuation": "remove", "numbers": "keep"}
    assert [change["texts"] for change in told["text_changes"]] == [2, 2]
    assert told["text_changes"][1]["after"] == f"{long}ISN'T IT".upper()


def test_other_names_of_keys(run: Run, folder: Path) -> None:
    (folder / "nemo.jsonl").write_text('{"path": "a.wav", "sentence": "A"}\n{"path": "a.wav", "sentence": "B"}\n')
    command = ["prepare", "manifest", str(folder / "nemo.jsonl"), "--keys", "audio_filepath=path, text=sentence"]
    assert run(*command, "--out", str(folder / "corpus")).code == 0


def test_it_says_which_splits_can_train_and_validate(run: Run, folder: Path) -> None:
    path = manifest(folder, {"split": "Train", "text": "A"}, {"split": "evaluation", "text": "A"})
    ended = run("prepare", "manifest", path, "--out", str(folder / "corpus"))
    assert "train on: Train\n" in ended.out
    assert "validate on: none (no name of a split begins with dev or val)\n" in ended.out
    assert "U+" not in ended.out


def test_what_was_left_out_is_listed(run: Run, folder: Path) -> None:
    path = manifest(folder, {"text": "A"}, {"text": "B\a"}, {"text": "C", "audio_filepath": "none.wav"})
    refused = run("prepare", "manifest", path, "--skip-bad", "1", "--out", str(folder / "corpus"))
    assert refused.code == 2 and "raise --skip-bad above 1" in refused.err and not (folder / "corpus").exists()
    ended = run("prepare", "manifest", path, "--skip-bad", "2", "--out", str(folder / "corpus"))
    assert ended.code == 0, ended
    reasons = [
        f"{path}:3: no such file: {folder / 'none.wav'}",
        f"{path}:2: train/a-000002: characters that no tokenizer",
    ]
    for reason in reasons:
        assert f"left out: {reason}" in ended.out
    assert f"left out: 2 in all, listed in {folder / 'corpus' / 'skipped.txt'}" in ended.out
