"""A registered model answers over HTTP and in Python without the platform, and says why it refuses bad input."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import babbler
import numpy as np
import pytest
import soundfile
import tiny
from command import PATIENCE, ServerProcess, unused_port
from found import Found

from asr_platform import load_model
from asr_platform.tracking.packaging import example_recording
from asr_platform.tracking.resolving import resolve_model
from trainables.checksums import CHECKSUMS
from trainables.inference.recognizer import Recognizer

MODEL = "models:/small@champion"
BINARIES = Path(sys.executable).parent


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A sweep whose champion transcribes every recording differently."""
    folder = tmp_path_factory.mktemp("served")
    sweep = Found(folder / "mlruns", babbler.write_corpus(folder / "corpus"))
    sweep.trial(wrong=1)
    sweep.end()
    return sweep


@dataclass(frozen=True)
class Recording:
    path: Path
    text: str  # what the platform hears in it

    @property
    def base64(self) -> str:
        return base64.b64encode(self.path.read_bytes()).decode()


@pytest.fixture(scope="module")
def recordings(found: Found, tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """A WAV file at 16 kHz, and a stereo FLAC file of another rate that is longer than the model's longest piece."""
    folder = tmp_path_factory.mktemp("recordings")
    paths = [folder / "one.wav", folder / "other.flac"]
    for number, (path, rate) in enumerate(zip(paths, (16_000, 44_100), strict=True)):
        noise = 0.1 * np.random.default_rng(number).normal(size=(rate * (1 + 2 * number), number + 1))
        soundfile.write(path, noise * np.linspace(number, 1 - number, len(noise))[:, None], rate)
    texts = load_model(found.home.model("small")).transcribe(paths)
    assert len(set(texts)) == 2
    return [Recording(*pair) for pair in zip(paths, texts, strict=True)]


# Over HTTP


@dataclass(frozen=True)
class Answer:
    status: int
    tree: Any


@dataclass(frozen=True)
class Server:
    address: str

    def ask(self, body: Any) -> Answer:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}/invocations", content, kind, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return Answer(answer.status, json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            return Answer(error.code, json.loads(error.read()))


@pytest.fixture(scope="module")
def server(found: Found) -> Iterator[Server]:
    """A server started with the command of the model card."""
    port = unused_port()
    words = [BINARIES / "mlflow", "models", "serve", "-m", MODEL, "--env-manager", "local", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with ServerProcess(words, f"{address}/ping", cwd=found.home.path, env=environment(found)):
        yield Server(address)


def environment(found: Found) -> dict[str, str]:
    """The environment of a process without the platform that finds MLflow's store."""
    known = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**known, "PATH": f"{BINARIES}:{known['PATH']}", "MLFLOW_TRACKING_URI": found.home.tracking}


def test_recordings_in_base64_are_answered_with_texts(server: Server, recordings: list[Recording]) -> None:
    """Requests may have each of the forms that MLflow documents."""
    sent, texts = [one.base64 for one in recordings], [one.text for one in recordings]
    for body in (
        {"inputs": sent},
        {"dataframe_records": [{"audio": one} for one in sent]},
        {"dataframe_split": {"columns": ["audio"], "data": [[one] for one in sent]}},
        {"instances": sent},
    ):
        assert server.ask(body) == Answer(200, {"predictions": texts}), list(body)
    lines = base64.encodebytes(recordings[0].path.read_bytes()).decode()
    assert server.ask({"inputs": [lines]}) == Answer(200, {"predictions": texts[:1]})


def test_requests_may_have_decoding_options(server: Server, found: Found, recordings: list[Recording]) -> None:
    """They are those of `platform transcribe`; what they lack is as in the model."""
    sent, model = [one.base64 for one in recordings], load_model(found.home.model("small"))
    for options in ({"method": "beam", "beam": 3, "repeat_penalty": 4}, {"method": "ctc"}, {}):
        texts = model.transcribe([one.path for one in recordings], **options)
        answer = server.ask({"inputs": sent, "params": options})
        assert answer == Answer(200, {"predictions": texts}), options
        assert not options or texts != [one.text for one in recordings]
    for options, reason in (
        ({"beam": 33}, "beam: 33 is above the limit of 32"),
        ({"method": "best"}, "this search: decoding.method: Input should be 'greedy'"),
        ({"editing_steps": 2}, "editing_steps=2 has no meaning with model.kind=encoder_decoder"),
    ):
        answer = server.ask({"inputs": sent, "params": options})
        assert answer.status == 400 and answer.tree["message"].startswith(reason), answer


def test_the_input_example_is_answered(server: Server, found: Found) -> None:
    folder = resolve_model(found.home.path, MODEL).parent
    answer = server.ask(json.loads((folder / "serving_input_example.json").read_text()))
    assert answer.status == 200 and len(answer.tree["predictions"]) == 1


def test_bad_audio_is_refused_with_a_reason(server: Server, recordings: list[Recording], tmp_path: Path) -> None:
    """The reason names the recording by its number, and does not repeat the audio."""
    good, whole = recordings[0].base64, recordings[0].path.read_bytes()
    soundfile.write(tmp_path / "click.wav", np.full(16, 0.5), 16_000)
    bad: list[tuple[Any, str]] = [
        (base64.b64encode(b"no audio" * 1000).decode(), "audio 1: unreadable or truncated audio"),
        (base64.b64encode(whole[:-100]).decode(), "audio 1: truncated audio"),
        (base64.b64encode((tmp_path / "click.wav").read_bytes()).decode(), "audio 1: 1.0 ms of audio are too short"),
        (good[:-1], "audio 1: not an audio file in base64: Incorrect padding"),
        ("?" * 5000, "audio 1: not an audio file in base64"),
        ("", "audio 1: zero-length file"),
        (None, "audio 1: not an audio file in base64, nor its bytes"),
    ]
    for recording, reason in bad:
        answer = server.ask({"dataframe_records": [{"audio": good}, {"audio": recording}]})
        assert (answer.status, answer.tree["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), reason
        assert answer.tree["message"].startswith(reason) and len(answer.tree["message"]) < 300
        assert "/tmp" not in answer.tree["message"]
    assert server.ask({"inputs": [good]}).status == 200, "it lives on"


@pytest.mark.parametrize("body", [b"{", b'["audio"]', b'{"audio": "UklGRg=="}', b'{"inputs": []}', b"\xff"])
def test_bad_json_is_refused_with_a_reason(server: Server, body: bytes) -> None:
    answer = server.ask(body)
    assert answer.status == 400 and answer.tree["message"]


# In plain Python

PLAIN = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"asr_platform", "search_spaces", "ray", "optuna"}:
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
import base64, json, pathlib
import mlflow.pyfunc, pandas

contents = [pathlib.Path(path).read_bytes() for path in sys.argv[1:]]
sent = [base64.b64encode(content).decode() for content in contents]
names = ("small", "fused", "texts", "edited")
small, fused, texts, edited = (mlflow.pyfunc.load_model(f"models:/{name}@champion") for name in names)
try:
    texts.predict(["A CAB", ""])
except mlflow.exceptions.MlflowException as error:
    refused = [error.error_code, error.message]
print(json.dumps({
    "list": small.predict(sent),
    "bytes": small.predict(contents),
    "table": small.predict(pandas.DataFrame({"audio": sent, "speaker": ["a", "b"]})),
    "example": len(small.predict(small.input_example)),
    "fused": fused.predict(sent),
    "edited": edited.predict(sent),
    "perplexities": texts.predict(["A CAB", "CBA"]),
    "refused": refused,
    "modules": {name: one.__file__ for name, one in sys.modules.items() if name.startswith("trainables.")},
}))
"""


@pytest.fixture(scope="module")
def fused(found: Found, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A recogniser whose search uses a language model that is moved away after registering."""
    sweep, folder = Found(found.home.path, found.corpus, "fused"), tmp_path_factory.mktemp("fused")
    checkpoint = sweep.trial(wrong=0)
    language_model = tiny.save_language_model(Recognizer.load(checkpoint), folder / "lm")
    about = json.loads((checkpoint / "config.json").read_text())
    about["config"]["decoding"] |= {"method": "beam", "language_model": str(language_model), "lm_weight": 20.0}
    (checkpoint / "config.json").write_text(json.dumps(about))
    (checkpoint / CHECKSUMS).unlink()
    sweep.end()
    return sweep


@pytest.fixture(scope="module")
def texts(found: Found) -> Found:
    """A registered language model."""
    sweep = Found(found.home.path, found.corpus, "texts")
    checkpoint = sweep.trial(wrong=0)
    recognizer = Recognizer.load(checkpoint)
    shutil.rmtree(checkpoint)
    tiny.save_language_model(recognizer, checkpoint)
    sweep.end()
    return sweep


@pytest.fixture(scope="module")
def edited(found: Found) -> Found:
    """A registered transcript editor."""
    sweep = Found(found.home.path, found.corpus, "edited")
    checkpoint = sweep.trial(wrong=0)
    shutil.rmtree(checkpoint)
    babbler.save_model(found.corpus, checkpoint, **{key.partition(".")[2]: each for key, each in tiny.EDITING.items()})
    sweep.end()
    return sweep


@pytest.fixture(scope="module")
def plain(
    found: Found, fused: Found, texts: Found, edited: Found, recordings: list[Recording], tmp_path_factory: Any
) -> Any:
    """Answers in a process that has only MLflow's address and the models' names; `heard`: the platform's own texts."""
    paths = [str(one.path) for one in recordings]
    heard = load_model(fused.home.model("fused")).transcribe(paths)
    config = json.loads((fused.home.model("fused") / "config.json").read_text())["config"]
    Path(config["decoding"]["language_model"]).rename(tmp_path_factory.mktemp("elsewhere") / "lm")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:mlflow", "-c", PLAIN, *paths],
        cwd=tmp_path_factory.mktemp("plain"), env=environment(found), capture_output=True, text=True, check=False,
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "heard": heard}


def test_it_loads_without_the_platform(plain: Any, found: Found, recordings: list[Recording]) -> None:
    """Every import is part of the registered model, or in its requirements."""
    texts = [one.text for one in recordings]
    assert (plain["list"], plain["bytes"], plain["table"], plain["example"]) == (texts, texts, texts, 1)
    folder = resolve_model(found.home.path, MODEL).parent
    required = set(re.findall(r"^[\w-]+", (folder / "requirements.txt").read_text(), re.MULTILINE))
    distributions = packages_distributions()
    for path in map(Path, [folder / "serving.py", *plain["modules"].values()]):
        assert path.is_relative_to(folder), f"{path} is not the model's own"
        for name in imported(path) - {"trainables"} - set(sys.stdlib_module_names):
            assert {one.replace("_", "-") for one in distributions[name]} & required, f"{path.name} imports {name}"


def imported(path: Path) -> set[str]:
    """Names of the packages that a Python file cannot do without at runtime."""
    tree = ast.parse(path.read_text())
    checked = {
        node
        for block in ast.walk(tree)
        if is_for_type_checkers(block) or is_optional(block)
        for node in ast.walk(block)
    }
    nodes = [node for node in ast.walk(tree) if node not in checked]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def is_optional(node: ast.AST) -> bool:
    """Whether a package may be missing: importing it is tried, and something is said where it is not there."""
    return isinstance(node, ast.Try) and any(
        isinstance(handler.type, ast.Name) and handler.type.id == "ModuleNotFoundError" for handler in node.handlers
    )


def test_a_recogniser_brings_the_language_model_that_it_listens_to(
    plain: Any, fused: Found, recordings: list[Recording]
) -> None:
    by_name = load_model("models:/fused@champion", home=fused.home.path).transcribe([one.path for one in recordings])
    assert plain["fused"] == plain["heard"] == by_name != [one.text for one in recordings]


def test_a_transcript_editor_answers_as_the_platform(plain: Any, edited: Found, recordings: list[Recording]) -> None:
    model = load_model("models:/edited@champion", home=edited.home.path)
    assert model.recognizer.config.model.kind == "transcript_editor"
    found = model.transcribe([one.path for one in recordings])
    assert plain["edited"] == found and len(set(found)) == 2 and all(found)


def test_a_language_model_answers_texts_with_perplexities(plain: Any) -> None:
    assert len(set(plain["perplexities"])) == 2 and min(plain["perplexities"]) > 1
    assert plain["refused"] == ["INVALID_PARAMETER_VALUE", "text 1: '' is no text"]


def test_the_example_is_a_recording(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(base64.b64decode(example_recording()))
    samples, rate = soundfile.read(tmp_path / "a.wav")
    assert (rate, len(samples)) == (16_000, 4_000)
