"""The notebooks of docs/notebooks run whole in Jupyter, on made-up data of the kind that they are for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import soundfile
import tiny
from nbclient import NotebookClient

from trainables.data.features import SAMPLE_RATE, Samples

NOTEBOOKS = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
# In place of what the cell "parameters" has: a model that learns the made-up data within seconds.
SMALL_MODEL = {"d_model": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 48, "dropout": 0.0,
               "conv_channels": 16}  # fmt: skip
BASE = {
    "tokenizer": {"kind": "char"},
    "model": SMALL_MODEL,
    "loss": {"label_smoothing": 0.0},
    "optimizer": {"lr": 4e-3},
    "training": {"update_seconds": 4.0},
}
VARY = {"optimizer.lr": {"log": [3e-3, 5e-3]}}
TONE_SECONDS = 0.08


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ASR_PLATFORM_HOME", str(tmp_path / "mlruns"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return


def run(name: str, folder: Path, parameters: dict[str, Any]) -> list[str]:
    """Runs a notebook in a folder with other parameters; returns what the cells of code show, as text."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    (place,) = [index for index, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    given = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(given))
    environment = {"resources": {"metadata": {"path": str(folder)}}}
    NotebookClient(notebook, timeout=None, kernel_name="python3", **environment).execute()
    return [shown(cell) for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> str:
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "".join(texts)


def write_course_data(root: Path) -> None:
    """Writes splits as the course has them, the last without texts."""
    random = np.random.default_rng(0)
    splits = {"train-clean-100": tiny.SENTENCES * 4, "dev-clean": tiny.SENTENCES, "test-clean": ["CAB"] * 3}
    for split, texts in splits.items():
        features, references = (root / split / kind for kind in ("fbank", "text"))
        features.mkdir(parents=True)
        for number, text in enumerate(texts):
            name = f"{number}-1-0000.npy"
            np.save(features / name, tiny.utterance(text, random, 80).T.copy())
            if split != "test-clean":
                references.mkdir(exist_ok=True)
                np.save(references / name, np.array(list(text)))


def test_the_course_from_its_data_to_the_submission(tmp_path: Path) -> None:
    write_course_data(tmp_path / "data")
    parameters = {"DATA": "data", "BASE": BASE, "VARY": VARY, "TRIALS": 2, "EPOCHS": 2}
    cells = run("course.ipynb", tmp_path, parameters)
    assert (tmp_path / "submission.csv").read_text().splitlines()[0] == "id,transcription"
    assert (tmp_path / "course.html").is_file() and (tmp_path / "corpus.html").is_file()
    assert any("'rule': 'budget'" in cell for cell in cells), cells


def test_a_recogniser_for_ones_own_speech(tmp_path: Path) -> None:
    """Each letter is a tone."""
    for speaker in ("ann", "ben", "cat"):
        folder = tmp_path / "recordings" / "train" / speaker
        folder.mkdir(parents=True)
        for number, text in enumerate(tiny.SENTENCES * 2):
            soundfile.write(folder / f"{number}.wav", spoken(text, seed=number), SAMPLE_RATE)
            (folder / f"{number}.txt").write_text(f"{text.lower()}.\n")
    soundfile.write(tmp_path / "new.wav", spoken("CAFE", seed=99), SAMPLE_RATE)
    space = {"base": BASE, "vary": VARY, "epochs": 8, "asha": {"promotion": None}}  # each trial starts once
    cells = run(
        "own_speech.ipynb", tmp_path, {"DATA": "recordings", "SPACE": space, "TRIALS": 2, "SOMETHING_NEW": "new.wav"}
    )
    assert (tmp_path / "mine.html").is_file()
    assert "'words': [" in cells[-1], cells


def spoken(text: str, seed: int) -> Samples:
    """A tone for each letter, and silence for a space."""
    random = np.random.default_rng(seed)
    time = np.arange(int(TONE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    tones = [np.sin(2 * np.pi * 400 * 1.3 ** (ord(letter) - 65) * time) * (letter != " ") for letter in text]
    return (0.3 * np.concatenate(tones) + 0.003 * random.standard_normal(len(time) * len(text))).astype(np.float32)
