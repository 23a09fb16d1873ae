"""Common Voice's tables, in the form of its releases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from trainables.data.features import FeatureRecipe
from trainables.data.importers.common_voice import common_voice_utterances
from trainables.data.mistakes import Mistakes
from trainables.errors import InputError

HEADER = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tlocale"
Line = tuple[str, str, str]  # speaker, clip, sentence


def table(root: Path, name: str, *lines: Line) -> None:
    rows = [f"{speaker}\t{clip}\t0a1b\t{text}\t\t2\t0\t\t\t\tcy" for speaker, clip, text in lines]
    (root / f"{name}.tsv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for number in range(6):
        samples = 0.1 * np.random.default_rng(number).normal(size=32_000)
        soundfile.write(tmp_path / "clips" / f"common_voice_cy_{number}.mp3", samples, 32_000)
    train, dev, test = ("s0", "common_voice_cy_0.mp3", 'Bore "da",  Cymru'), ("s1", "common_voice_cy_1.mp3", "B"), (
        "s2", "common_voice_cy_2.mp3", "C",
    )  # fmt: skip
    table(tmp_path, "train", train)
    table(tmp_path, "dev", dev)
    table(tmp_path, "test", test)
    more = [
        ("s1", "common_voice_cy_3.mp3", "D"),
        ("s3", "common_voice_cy_4.mp3", "E"),
        ("s3", "common_voice_cy_5", "F"),
    ]
    table(tmp_path, "validated", train, dev, test, *more)
    return tmp_path


def test_tables_are_splits(root: Path) -> None:
    utterances = common_voice_utterances(root)
    assert [(item.split, item.id, item.text, item.speaker) for item in utterances] == [
        ("train", "common_voice_cy_0", 'Bore "da", Cymru', "s0"),
        ("dev", "common_voice_cy_1", "B", "s1"),
        ("test", "common_voice_cy_2", "C", "s2"),
    ]
    features, seconds = utterances[0].source.features(FeatureRecipe(name="hw4"))
    assert seconds == pytest.approx(1, abs=0.1) and len(features) == pytest.approx(125, abs=10)


def test_all_validated_lines_but_those_of_other_splits_speakers(root: Path) -> None:
    def training(validated: bool) -> list[str]:
        found = common_voice_utterances(root, validated=validated)
        assert {item.split for item in found} == {"train", "dev", "test"}
        return [item.id.removeprefix("common_voice_cy_") for item in found if item.split == "train"]

    assert training(True) == ["0", "4", "5"]
    (root / "train.tsv").unlink()
    assert training(False) == ["0", "4", "5"]


def test_every_mistake_has_its_line(root: Path) -> None:
    with (root / "train.tsv").open("a") as file:
        file.write("s0\tcommon_voice_cy_0.mp3\tid\n" + "s0\tnone.mp3\t0a1b\tA\t\t2\t0\t\t\t\tcy\n")
    bad = Mistakes(2)
    assert len(common_voice_utterances(root, bad)) == 3
    assert bad.problems == [
        f"{root}/train.tsv:3: 3 columns, but the header has 11",
        f"{root}/train.tsv:4: no such file: {root}/clips/none.mp3",
    ]
    with pytest.raises(InputError, match="--skip-bad"):
        common_voice_utterances(root, Mistakes(1))


def test_what_is_no_folder_of_a_language(root: Path) -> None:
    (root / "cy").mkdir()
    for path in sorted(root.glob("*.tsv")):
        path.rename(root / "cy" / path.name)
    with pytest.raises(InputError) as caught:
        common_voice_utterances(root)
    assert "no validated.tsv or train.tsv here" in caught.value.problem and f"{root}/cy" in caught.value.remedy
    root = root / "cy"
    (root / "validated.tsv").unlink()
    with pytest.raises(InputError, match=r"no validated\.tsv here"):
        common_voice_utterances(root, validated=True)
    (root / "dev.tsv").write_text("path\tsentence\n")
    with pytest.raises(InputError, match=r"dev\.tsv: no column client_id"):
        common_voice_utterances(root)
    (root / "dev.tsv").write_text("")
    with pytest.raises(InputError, match=r"dev\.tsv: no column client_id, path, sentence"):
        common_voice_utterances(root)
