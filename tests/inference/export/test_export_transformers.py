"""A recogniser whose shape Speech2Text can express is exported for transformers: equal logits, and equal texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sounds
import tiny
import torch
from click.testing import CliRunner
from tiny import Learned

from asr_platform.cli.main import cli
from asr_platform.inference.loaded_model import load_model
from trainables.data.corpus import Corpus
from trainables.inference.recognizer import Recognizer

transformers = pytest.importorskip("transformers", reason="the export needs it (a test dependency)")

SHAPE = {
    "model.reduction_factor": 4,
    "model.sinusoids": "concatenated",
    "model.first_position": 2,
    "model.scale_states": True,
}


@pytest.fixture(scope="module", params=["global_mvn", "cepstral", "sliding"])
def recognizer(request: pytest.FixtureRequest, tiny_corpus: Corpus) -> Recognizer:
    features = {"features.normalization": request.param, "features.dynamic_range": 60.0}
    return tiny.learn(tiny_corpus, {**SHAPE, **features}).recognizer


@pytest.fixture(scope="module")
def model(recognizer: Recognizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech2text") / "model"
    folder.mkdir()
    recognizer.save(folder)
    return folder


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "greedy", "--repeat-penalty", "1.2"], ""),
        (["--method", "beam", "--beam", "3", "--length-penalty", "0.5"], ""),
        (["--method", "joint"], "generate does not have method joint, so its texts may differ\n"),
    ],
)
def test_logits_and_texts_are_equal(
    recognizer: Recognizer, model: Path, tiny_corpus: Corpus, tmp_path: Path, options: list[str], said: str
) -> None:
    out = tmp_path / "out"
    command = ["export", str(model), "--out", str(out), "--format", "transformers", *options]
    ended = CliRunner().invoke(cli, command)
    assert (ended.exit_code, ended.stderr) == (0, said), ended.output
    script = imported(out)
    split = tiny_corpus.split("dev")
    features = [np.asarray(split.utterance(place), np.float32) for place in range(len(split))]
    assert equal_logits(recognizer, script, features[0])
    if said:
        return
    given = dict(zip([option[2:].replace("-", "_") for option in options[::2]], options[1::2], strict=True))
    changes = {key: value if key == "method" else json.loads(value) for key, value in given.items()}
    config = recognizer.config.model_copy(update={"decoding": recognizer.config.decoding.model_copy(update=changes)})
    search = recognizer.search(config.decoding)
    expected = [recognizer.transcribe([each], search)[0] for each in features]
    assert [script.transcribe(each) for each in features] == expected and len(set(expected)) > 1


@torch.no_grad()
def equal_logits(recognizer: Recognizer, script: Any, features_TF: np.ndarray) -> bool:
    """Whether both models have the same logits of an utterance, within 1e-4."""
    tokens_1U = torch.tensor([[2, 7, 6, 5, 9, 7]])
    lengths_1 = torch.tensor([len(features_TF)])
    x_1TF = recognizer.normalizer()(torch.from_numpy(features_TF)[None], lengths_1)
    ours = recognizer.model.eval()(x_1TF, lengths_1, tokens_1U)[0]
    normalized_1TF = torch.tensor(script.normalized(features_TF)[None], dtype=torch.float32)
    theirs = script.model(input_features=normalized_1TF, decoder_input_ids=tokens_1U).logits
    return bool(torch.allclose(ours, theirs, atol=1e-4))


def imported(out: Path) -> Any:
    """The exported script's recogniser."""
    sys.path.insert(0, str(out))
    try:
        for name in ("transcribe", "common"):
            sys.modules.pop(name, None)
        import transcribe

        return transcribe.Recognizer(out)
    finally:
        sys.path.remove(str(out))
        for name in ("transcribe", "common"):
            sys.modules.pop(name, None)


def test_the_script_transcribes_a_file(model: Path, tmp_path: Path) -> None:
    load_model(model).export(tmp_path / "out", format="transformers", method="greedy")
    (tmp_path / "a.wav").write_bytes(sounds.encoded(sounds.tone(440, 1.0), "wav"))
    command = [sys.executable, str(tmp_path / "out" / "transcribe.py"), str(tmp_path / "a.wav")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0 and done.stdout.startswith(f"{tmp_path / 'a.wav'}\t"), done.stderr


def test_what_speech2text_cannot_express_is_named(learned: Learned, tmp_path: Path) -> None:
    """And nothing is written."""
    (tmp_path / "model").mkdir()
    learned.recognizer.save(tmp_path / "model")
    command = ["export", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--format", "transformers"]
    ended = CliRunner().invoke(cli, command, standalone_mode=False)
    problem = str(ended.exception)
    unlike = ("sinusoids=interleaved, not concatenated", "first_position=0, not 2", "scale_embeddings=True, not False")
    for part in unlike:
        assert part in problem
    assert not (tmp_path / "out").exists()
