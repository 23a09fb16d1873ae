"""An exported folder transcribes as the recogniser does, with numpy, onnxruntime and sentencepiece alone."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tiny import Learned

from asr_platform.cli.main import cli
from trainables.config.model import RECOGNISERS
from trainables.config.tree import Decoding
from trainables.config.tree import Tokenizer as TokenizerConfig
from trainables.data.corpus import Corpus
from trainables.data.features import FeatureRecipe
from trainables.data.text.tokenizer import BLANK, EOS, Tokenizer
from trainables.errors import InputError
from trainables.inference import export as exporting
from trainables.inference.export import ENCODER, GRAPHS, SCRIPT, common, export, missing_in_script, onnx_transcribe
from trainables.inference.recognizer import Recognizer
from trainables.models.editing.slots import TokenRows, collapse, interleave

pytest.importorskip("onnxruntime", reason="ONNX graphs need it to run (a test dependency)")
pytest.importorskip("onnxscript", reason="torch exports to ONNX with it (a test dependency)")

METHODS = get_args(Decoding.model_fields["method"].annotation)


@pytest.fixture(scope="module")
def recognizers(learned: Learned, learned_editor: Learned, tiny_corpus: Corpus) -> dict[str, Recognizer]:
    """Recognisers that learned the tiny corpus, by kind.

    The editor's drafts lack tokens, some all of them, and it changes texts at each step.
    """
    editor = copy.deepcopy(learned_editor.recognizer)
    draft = editor.search(Decoding(method="ctc"))
    torch.manual_seed(0)
    with torch.no_grad():
        while "" not in editor.transcribe(short_and_long(tiny_corpus), draft):
            editor.model.ctc_head.bias[BLANK] += 1
        for parameter in editor.model.editor.parameters():
            parameter.add_(2 * torch.randn_like(parameter) * parameter.std())
    return {"encoder_decoder": learned.recognizer, "transcript_editor": editor}


@pytest.fixture(scope="module")
def folders(recognizers: dict[str, Recognizer], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Learned recognisers of both kinds, exported by the command."""
    found = {}
    for kind, recognizer in recognizers.items():
        place = tmp_path_factory.mktemp(kind)
        (place / "model").mkdir()
        recognizer.save(place / "model")
        out = found[kind] = place / "onnx"
        ended = CliRunner().invoke(cli, ["export", str(place / "model"), "--out", str(out)])
        assert (ended.exit_code, ended.stderr) == (0, ""), ended.output
        assert ended.stdout.splitlines()[-1].split() == ["transcribe:", "python", str(out / SCRIPT), "FILE.wav"]
    return found


@pytest.fixture(scope="module")
def exported(folders: dict[str, Path]) -> Path:
    """The exported encoder-decoder."""
    return folders["encoder_decoder"]


def speech(corpus: Corpus) -> list[np.ndarray]:
    """Features of the validation split."""
    split = corpus.split("dev")
    spans = zip(split.offsets, split.frames, strict=True)
    return [split.features[start : start + frames].float().numpy() for start, frames in spans]


def short_and_long(corpus: Corpus) -> list[np.ndarray]:
    """Features of the validation split, and the first few frames of an utterance, fewer than a window's."""
    utterances = speech(corpus)
    return [*utterances, *(utterances[0][:frames] for frames in (1, 2, 3, 5, 9, 17))]


@pytest.mark.parametrize(("kind", "graphs"), [
    ("encoder_decoder", ["encoder.onnx", "decoder.onnx"]),
    ("transcript_editor", ["encoder.onnx", "projector.onnx", "editor.onnx"]),
])  # fmt: skip
def test_the_folder_is_whole(kind: str, graphs: list[str], folders: dict[str, Path]) -> None:
    folder = folders[kind]
    others = ["common.py", "recognizer.json", "tokenizer.model", "transcribe.py"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*graphs, *others])
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model", "onnx"]
    assert json.loads((folder / "recognizer.json").read_text())["kind"] == kind


def test_a_search_that_the_script_lacks_is_said(
    learned: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With empty graphs: whole ones are in the folders above, and take long."""
    graphs = dict.fromkeys(GRAPHS["encoder_decoder"], lambda recognizer, path: path.write_bytes(b""))
    monkeypatch.setitem(GRAPHS, "encoder_decoder", graphs)
    (tmp_path / "model").mkdir()
    learned.recognizer.save(tmp_path / "model")
    words = [
        "export",
        str(tmp_path / "model"),
        "--out",
        str(tmp_path / "onnx"),
        "--method",
        "joint",
        "--hotwords",
        "BEE",
    ]
    ended = CliRunner().invoke(cli, words)
    assert (ended.exit_code, ended.stderr) == (0, "the script does not have hotwords, so its texts may differ\n")
    about = json.loads((tmp_path / "onnx" / "recognizer.json").read_text())
    assert about["config"]["decoding"]["method"] == "joint"


def test_what_the_script_lacks_has_names() -> None:
    fused = Decoding(method="joint", beam=3, language_model="models/lm", lm_weight=0.3, hotwords="BEE")
    assert missing_in_script(fused) == ["the language model", "hotwords"]
    assert not any(missing_in_script(Decoding(method=method)) for method in METHODS)


@pytest.mark.parametrize("decoding", [
    {"method": "greedy"},
    {"method": "greedy", "repeat_penalty": 1.5},
    {"method": "ctc"},
    {"method": "beam"},
    {"method": "beam", "beam": 3, "length_penalty": 1.0, "temperature": 2.0, "repeat_penalty": 1.3},
    {"method": "joint"},
    {"method": "joint", "beam": 8, "ctc_weight": 0.7, "candidates": 6, "length_penalty": 0.5, "repeat_penalty": 1.2},
    {"method": "joint", "beam": 1, "ctc_weight": 1.0},
    {"method": "ctc_beam"},
    {"method": "ctc_beam", "beam": 1},
])  # fmt: skip
def test_the_transcripts_are_those_of_the_search(
    decoding: dict[str, Any], learned: Learned, exported: Path, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    options = Decoding.model_validate(decoding)
    search = learned.recognizer.search(options)
    utterances = short_and_long(tiny_corpus)
    expected = learned.recognizer.transcribe(utterances, search)
    assert len(set(expected)) > 5
    reader = searching(exported, tmp_path / "onnx", options)
    assert [reader.transcribe(features) for features in utterances] == expected


@pytest.mark.parametrize("decoding", [
    {"method": "beam", "beam": 6},
    {"method": "joint", "beam": 6, "length_penalty": 0.5},
    {"method": "ctc_beam", "beam": 6},
])  # fmt: skip
def test_the_best_texts_are_those_of_the_search(
    decoding: dict[str, Any], learned: Learned, exported: Path, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    options = Decoding.model_validate(decoding)
    reader = searching(exported, tmp_path / "onnx", options)
    utterances = short_and_long(tiny_corpus)
    expected = learned.recognizer.transcribe_timed(utterances, learned.recognizer.search(options), nbest=4)
    for features, timed in zip(utterances, expected, strict=True):
        found = reader.nbest(features, 4)
        assert list(found) == [one.text for one in timed.alternatives]
        assert list(found.values()) == pytest.approx([one.score for one in timed.alternatives], rel=1e-3, abs=1e-3)
    assert max(len(timed.alternatives) for timed in expected) == 4


def test_a_draft_has_hypotheses(
    recognizers: dict[str, Recognizer], folders: dict[str, Path], tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """An editor searches with CTC as an encoder-decoder does."""
    recognizer, options = recognizers["transcript_editor"], Decoding(method="ctc_beam", beam=4, editing_steps=1)
    utterances = short_and_long(tiny_corpus)
    expected = recognizer.transcribe(utterances, recognizer.search(options))
    reader = searching(folders["transcript_editor"], tmp_path / "onnx", options)
    assert [reader.transcribe(features) for features in utterances] == expected


def searching(exported: Path, folder: Path, options: Decoding) -> onnx_transcribe.Recognizer:
    """The reader of a copy with other decoding options."""
    return onnx_transcribe.Recognizer(changed(exported, folder, {"decoding": options.model_dump()}))


def changed(exported: Path, folder: Path, sections: dict[str, dict[str, Any]], **keys: Any) -> Path:
    """A copy with another configuration, and other values of `keys` beside it."""
    shutil.copytree(exported, folder)
    about = json.loads((folder / "recognizer.json").read_text()) | keys
    for name, section in sections.items():
        about["config"][name] |= section
    (folder / "recognizer.json").write_text(json.dumps(about))
    return folder


def test_hypotheses_without_an_end_stop_where_ours_do(
    learned: Learned, exported: Path, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """With an end token that is never the likeliest."""
    suppressed = json.loads((exported / "recognizer.json").read_text())["suppress_tokens"]
    folder = changed(exported, tmp_path / "onnx", {}, end=-1, suppress_tokens=[*suppressed, EOS])
    features = speech(tiny_corpus)[0]
    text = onnx_transcribe.Recognizer(folder).transcribe(features)
    limit = np.ceil(len(features) * 1.25 * learned.recognizer.tokens_per_frame) + 10
    assert len(text) == limit


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_edited_transcripts_are_those_of_editing(
    steps: int, recognizers: dict[str, Recognizer], folders: dict[str, Path], tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """Texts are equal for drafts that each step changes, for empty drafts, and for fewer frames than a window holds."""
    recognizer = recognizers["transcript_editor"]
    utterances = short_and_long(tiny_corpus)
    before, expected = (
        recognizer.transcribe(utterances, recognizer.search(Decoding.model_validate(decoding)))
        for decoding in ({"editing_steps": steps - 1} if steps > 1 else {"method": "ctc"}, {"editing_steps": steps})
    )
    assert before != expected and len(set(expected)) > 5
    folder = changed(folders["transcript_editor"], tmp_path / "onnx", {}, editing_steps=steps)
    reader = onnx_transcribe.Recognizer(folder)
    assert [reader.transcribe(features) for features in utterances] == expected
    if steps == 1:  # before it is the draft
        reader.about["config"]["decoding"]["method"] = "ctc"
        assert [reader.transcribe(features) for features in utterances] == before


@given(st.lists(st.integers(5, 9), max_size=12), st.integers(1, 12))
def test_the_script_places_slots_as_the_model_does(tokens: list[int], fewest: int) -> None:
    reader = object.__new__(onnx_transcribe.Recognizer)  # without graphs
    reader.about = {"slot": BLANK, "fewest_positions": fewest}
    rows = TokenRows(torch.tensor([tokens or [0]]), torch.tensor([len(tokens)]))
    (expected,) = interleave(rows, BLANK, fewest).lists()
    assert reader.with_slots(tokens).tolist() == [expected]


@given(st.lists(st.integers(4, 7), min_size=1, max_size=12))
def test_the_script_collapses_as_the_model_does(best: list[int]) -> None:
    scores_UV = np.eye(8)[best]
    scores_UV[:, 6] += 0.5  # the second best, where 7 is suppressed
    allowed_1U = torch.tensor([[6 if token == 7 else token for token in best]])
    (expected,) = collapse(allowed_1U, torch.tensor([len(best)]), BLANK).lists()
    assert onnx_transcribe.collapsed(scores_UV, [7], BLANK) == expected


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_the_script_knows_every_kind_of_token(kind: str, exported: Path, tmp_path: Path) -> None:
    folder = changed(exported, tmp_path / "onnx", {"tokenizer": {"kind": kind}})
    texts = [*tiny.SENTENCES, " SPACE  BETWEEN "]
    tokenizer = Tokenizer.train(texts, TokenizerConfig.model_validate({"kind": kind, "vocab_size": size(kind)}))
    tokenizer.save(folder / "tokenizer.model")
    reader = onnx_transcribe.Recognizer(folder)
    assert [reader.text(tokens) for tokens in tokenizer.encode(texts)] == texts


def size(kind: str) -> int | None:
    return None if kind == "char" else 30


@pytest.mark.parametrize("name", ["hw4", "kaldi"])
def test_the_script_computes_the_same_features(name: str) -> None:
    recipe, samples = FeatureRecipe.model_validate({"name": name}), noise()
    found = common.features_of(samples, recipe.model_dump(mode="json"))
    np.testing.assert_allclose(found, recipe.compute(samples), atol=2e-3)


def noise() -> np.ndarray:
    """Half a second that grows louder."""
    random = np.random.default_rng(0)
    return (random.normal(0, 0.1, 8000) * np.linspace(0.01, 1, 8000)).astype(np.float32)


@pytest.mark.parametrize("kind", RECOGNISERS)
def test_the_script_needs_neither_torch_nor_this_package(
    kind: str, recognizers: dict[str, Recognizer], folders: dict[str, Path], tmp_path: Path
) -> None:
    with wave.open(str(tmp_path / "noise.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((noise() * 2**15).astype("<i2").tobytes())
    absent = "import sys; sys.modules |= dict.fromkeys(['torch', 'trainables', 'asr_platform', 'onnx', 'soundfile'])"
    place = folders[kind]  # from which Python imports, as for any script
    run = f"import runpy; sys.path[0] = {str(place)!r}; runpy.run_path({str(place / SCRIPT)!r}, run_name='__main__')"
    words = [sys.executable, "-c", f"{absent}; {run}", str(tmp_path / "noise.wav")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    recipe = recognizers[kind].recipe
    samples = (noise() * 2**15).astype("<i2").astype(np.float32) / 2**15
    (expected,) = recognizers[kind].transcribe([recipe.compute(samples)])
    assert done.stdout == f"{tmp_path / 'noise.wav'}\t{expected}\n"
    refused = subprocess.run([*words, "--nbest", "3"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert refused.returncode == 2 and "--nbest 3: method greedy has no list" in refused.stderr


def test_a_folder_that_holds_something_is_left_alone(learned: Learned, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(InputError, match="exists and is not empty"):
        export(learned.recognizer, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_missing_packages_are_named(learned: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "PACKAGES", ("onnx", "nosuchpackage"))
    with pytest.raises(InputError, match="needs nosuchpackage") as error:
        export(learned.recognizer, tmp_path / "onnx")
    assert error.value.remedy == "pip install onnx nosuchpackage"
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_nothing(learned: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = {ENCODER: lambda recognizer, path: path.write_bytes(b"half"), "decoder.onnx": lambda *_: 1 / 0}
    monkeypatch.setitem(GRAPHS, "encoder_decoder", graphs)
    with pytest.raises(ZeroDivisionError):
        export(learned.recognizer, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []
