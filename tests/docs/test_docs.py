"""What README.md and docs/ say: commands run, links lead somewhere, spaces parse, the reference is that of the code."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import babbler
import click
import numpy as np
import pytest
import soundfile
import tiny
import yaml
from found import Found
from place import Ended, Run
from proposals import Drawn, feasible

from asr_platform.cli.main import cli
from asr_platform.storage.home import LOG
from asr_platform.study.failures import KNOWN
from search_spaces.reader import parse_space
from trainables.config.model import Model
from trainables.config.tree import Config, Tokenizer, Training
from trainables.data.text.tokenizer import Vocabulary
from trainables.inference.recognizer import Recognizer

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "BENCHMARKS.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([\w-]*))?\)")
LONGEST_README = 150  # lines
HW4 = "hw4_data/hw4p2_data"
# Commands that take long, or need audio, a model of this corpus or a sweep that runs: other tests try them on smaller
# data. Here their options and files are checked.
SLOW = {
    "check",
    "sweep",
    "train",
    "confirm",
    "plan",
    "ui",
    "watch",
    "stop",
    "pause",
    "unpause",
    "add",
    "change",
    "delete",
    "export",
    "submit",
    "prepare common-voice",
    "prepare fsdd",
    "prepare kaldi",
    "prepare librispeech",
    "prepare synthetic",
    "--robustness",
}


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    """The fenced blocks in a language, with their pages."""
    for page in PAGES:
        for found, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if found == language:
                yield page, text


def commands() -> list[str]:
    """Every command line in blocks of sh, and of `platform` in other blocks, once, without its comment."""
    lines = [line.partition("  #")[0].strip() for _, text in blocks("sh") for line in text.split("\n")]
    lines += [line for _, text in blocks("") for line in text.split("\n") if line.startswith("platform ")]
    return list(dict.fromkeys(filter(None, lines)))


def reference() -> str:
    """The page of the configuration, as the code has it now."""
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.page())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpora, the sweep, the models and the recordings that the pages speak of."""
    place = tmp_path_factory.mktemp("docs")
    spoken = [*babbler.SENTENCES, "SEVEN, NINE NINE"]  # the hotwords of the pages
    corpus = babbler.write_corpus(place / "corpora" / "digits", sentences=spoken)
    shutil.copytree(corpus.path, place / "corpora" / "mine")
    for name in ("mine-1", "hw4p2-1", "digits-1"):
        sweep = Found(place / "mlruns", corpus, name)
        for wrong in (0, 1):
            (sweep.trial(wrong).parent / LOG).write_text("epoch 1\n")
        sweep.end()
    model = Recognizer.load(place / "mlruns" / "models" / "digits-1")
    tiny.save_language_model(model, place / "mlruns" / "models" / "digits_lm-base-1")
    (place / "calls").mkdir()
    for recording in ("recording.flac", "calls/0001.flac", "calls/0002.flac", "calls/0001.wav"):
        soundfile.write(place / recording, 0.1 * np.random.default_rng(0).normal(size=16_000), 16_000)
    for name in ("anna_1", "bert_1", "bert_2"):
        recording = place / "recordings" / f"{name}.wav"
        recording.parent.mkdir(exist_ok=True)
        soundfile.write(recording, 0.1 * np.random.default_rng(1).normal(size=16_000), 16_000)
        recording.with_suffix(".txt").write_text("Good morning!")
    nemo = [{"path": f"recordings/{name}_1.wav", "sentence": "Good morning."} for name in ("anna", "bert")]
    (place / "nemo.jsonl").write_text("".join(json.dumps(line) + "\n" for line in nemo))
    (manifest,) = [text for page, text in blocks("json") if page.name == "tutorial.md"]
    (place / "speech.jsonl").write_text(manifest, encoding="utf-8")
    return place


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("platform ")])
def test_commands_run(
    command: str, place: Path, run: Run, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command on a page ends with exit code 0; of a slow one the options are checked."""
    words = shlex.split(command)[1:]
    if words[0] == "--storage":  # addresses of nobody: those of a sweep are tried elsewhere
        assert words[2] == "--ledger"
        words = words[4:]
    if SLOW & {words[0], " ".join(words[:2]), words[-1]}:
        monkeypatch.chdir(place)
        check_options(words)
        return
    if HW4 in words:
        (place / HW4).parent.mkdir()
        (place / HW4).symlink_to(request.getfixturevalue("speech_data") / "hw4_data_subset" / "hw4p2_data")
    if words[0] == "prepare":
        shutil.rmtree(place / words[words.index("--out") + 1], ignore_errors=True)
    done: Ended = run(*words)
    assert done.code == 0, done.err
    assert done.out


def check_options(words: list[str]) -> None:
    """Raises where an option or a file of the command does not exist."""
    context = click.Context(cli, obj=Path("mlruns"), **cli.context_settings)
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[words[0]]
        words = words[1:]
    command.make_context(command.name, words, parent=context)


def test_other_commands_exist() -> None:
    """A command line of another program than `platform` is a target of the Makefile."""
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for line in commands():
        if not line.startswith("platform "):
            words = line.split()
            assert words[0] == "make" and words[1] in targets, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if path.startswith("http"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {path}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], anchor


def test_the_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


@pytest.mark.parametrize(("page", "text"), blocks("python"), ids=lambda value: getattr(value, "name", ""))
def test_python_can_be_imported(page: Path, text: str) -> None:
    """Every name that a block imports exists."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize(("page", "text"), blocks("yaml"), ids=lambda value: getattr(value, "name", ""))
def test_spaces_can_be_read(page: Path, text: str) -> None:
    """A block is a space, or a part of one."""
    parse_space(text, page.name, REPOSITORY)
    assert set(yaml.safe_load(text)) & {"vary", "base"}


def test_spaces_of_the_course_keep_its_rules_and_fit_its_budget() -> None:
    """The starter is the default configuration, but for the tokenizer and the output's bias."""
    spaces = [parse_space(text, page.name, REPOSITORY) for page, text in blocks("yaml") if page.name == "course.md"]
    for space in spaces:
        assert space.settings.rules == "hw4p2"
        assert feasible(space, space.propose(Drawn(0)), lambda tokenizer: Vocabulary(tokenizer.vocab_size or 33, 28))
    tokenizer = Tokenizer(kind="bpe", vocab_size=5000)
    assert spaces[0].config({}) == Config(
        tokenizer=tokenizer, model=Model(output_bias=True), training=Training(epochs=10)
    )


def test_the_reference_is_that_of_the_code() -> None:
    written = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python docs/generate.py"


def test_every_key_is_described() -> None:
    for line in reference().splitlines():
        if line.startswith("| `"):
            assert not line.endswith("|  |"), line
    assert all(f"## {name}" in reference() for name in Config.model_fields)


def test_every_known_failure_has_a_remedy_in_troubleshooting() -> None:
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for cause in KNOWN.values():
        assert cause.words in page, cause.words


def test_files_that_pages_name_exist() -> None:
    """Paths in backticks such as `study/allocation/rungs.py`, from the repository, a package of it, or tests."""
    roots = [REPOSITORY, REPOSITORY / "platform" / "asr_platform", REPOSITORY / "trainables", REPOSITORY / "tests"]
    for page in PAGES:
        if page.name in ("CHANGELOG.md", "BENCHMARKS.md", "tutorial.md", "decoding.md", "search.md"):
            continue
        for name in re.findall(r"`([\w/]+\.(?:py|yaml))`", page.read_text(encoding="utf-8")):
            assert any((root / name).exists() for root in roots), f"{page.name}: {name}"
