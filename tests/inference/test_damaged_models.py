"""A model directory or checkpoint that is not what was saved is refused by name; training goes on from a whole one."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import Learned, Recorder

from trainables.checksums import CHECKSUMS, record_checksums, verify_checksums
from trainables.data.corpus import Corpus
from trainables.errors import DamagedError, DivergedError, InputError
from trainables.evaluation.examples import ATTENTION, EXAMPLES
from trainables.inference.language_model import TextModel
from trainables.inference.model_directory import copy_model, load_network, read_info
from trainables.inference.model_files import CONFIG, FEATURES, TOKENIZER, WEIGHTS
from trainables.inference.recognizer import Recognizer
from trainables.models.speech_transformer import SpeechTransformer
from trainables.training.checkpoint import save_checkpoint
from trainables.training.checkpoint_files import AVERAGES, OPTIMIZER, TRAINING
from trainables.training.loop import train

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def original(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a whole run, with all of its files; not to be changed."""
    folder = tmp_path_factory.mktemp("original") / "checkpoint"
    optimizer = torch.optim.AdamW(learned.recognizer.model.parameters())
    save_checkpoint(folder, learned.recognizer, optimizer, learned.history, {"trained.x": torch.zeros(3)})
    return folder


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    return copy_model(original, tmp_path / "model")


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)


def with_bias(recognizer: Recognizer, value: float) -> Recognizer:
    """A copy in which one weight of the CTC head has this value."""
    model = copy.deepcopy(recognizer.model)
    with torch.no_grad():
        model.ctc_head.bias[2] = value
    return replace(recognizer, model=model)


def edit(path: Path, change: Change) -> None:
    """Changes a JSON file of a directory from before there were checksums."""
    path.with_name(CHECKSUMS).unlink(missing_ok=True)
    tree = json.loads(path.read_text(encoding="utf-8"))
    change(tree)
    path.write_text(json.dumps(tree), encoding="utf-8")


# Checksums


@settings(max_examples=60)
@given(st.sampled_from([*Recognizer.FILES, CHECKSUMS]), st.integers(0, 10**7), st.integers(0, 7))
def test_one_bit_of_any_file_is_noticed(
    original: Path, tmp_path_factory: pytest.TempPathFactory, name: str, place: int, bit: int
) -> None:
    model = copy_model(original, tmp_path_factory.mktemp("flipped") / "model")
    flip(model / name, place, bit)
    with pytest.raises(InputError) as error:
        Recognizer.load(model)
    assert str(model) in error.value.problem and error.value.remedy


def test_the_error_names_the_file_and_what_to_do(saved: Path) -> None:
    flip(saved / WEIGHTS, -1)
    with pytest.raises(DamagedError) as error:
        Recognizer.load(saved)
    assert error.value.problem == f"{saved / WEIGHTS}: damaged: its SHA-256 is not the one in {CHECKSUMS}"
    remedy = f"Use another copy; if you changed the file on purpose, delete {saved / CHECKSUMS}."
    assert error.value.remedy == remedy


def test_directories_from_before_there_were_checksums_load(saved: Path) -> None:
    (saved / CHECKSUMS).unlink()
    assert Recognizer.load(saved).parameters


def test_a_list_of_checksums_that_is_none_is_refused(saved: Path) -> None:
    for content in (b"", b"[]", b'{"sha256": {"config.json": 3}}', b'{"sha512": {}}', b"\xff"):
        (saved / CHECKSUMS).write_bytes(content)
        with pytest.raises(DamagedError, match=r"checksums\.json: not a list of checksums"):
            Recognizer.load(saved)


def test_what_retention_removes_and_reports_add_is_no_damage(original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(original, folder)
    for name in (TRAINING, OPTIMIZER, AVERAGES):
        (folder / name).unlink()
    (folder / "card.md").write_text("# A model")
    (folder / "plots").mkdir()
    assert Recognizer.load(folder).parameters
    copied = copy_model(folder, tmp_path / "model")
    assert Recognizer.load(copied).parameters
    flip(copied / FEATURES, 9)
    with pytest.raises(DamagedError, match=FEATURES):
        Recognizer.load(copied)


def test_saving_again_renews_the_checksums(learned: Learned, saved: Path) -> None:
    other = with_bias(learned.recognizer, 3.0)
    other.save(saved)
    tiny.assert_same_weights(Recognizer.load(saved), other)


def test_files_are_compared_with_the_list(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    record_checksums(tmp_path, ["a", "absent"])
    verify_checksums(tmp_path, ["a", "absent"])
    (tmp_path / "b").write_text("b")
    with pytest.raises(DamagedError, match="b: damaged"):
        verify_checksums(tmp_path, ["b"])
    record_checksums(tmp_path, ["b"])
    (tmp_path / "a").unlink()
    verify_checksums(tmp_path, ["b"])
    with pytest.raises(DamagedError, match="a: missing, but listed"):
        verify_checksums(tmp_path, ["a", "b"])
    assert {path.name for path in tmp_path.iterdir()} == {"b", CHECKSUMS}


# Weights that are not finite numbers


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(
    value: float, learned: Learned, saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(DivergedError, match=r"not finite numbers: ctc_head\.bias"):
        with_bias(learned.recognizer, value).save(tmp_path)
    tensors = load_file(str(saved / WEIGHTS))
    tensors["ctc_head.bias"][2] = value
    save_file(tensors, str(saved / WEIGHTS))
    (saved / CHECKSUMS).unlink()
    with pytest.raises(DamagedError, match=r"model\.safetensors: weights that are not finite numbers: ctc_head\.bias"):
        Recognizer.load(saved)


# What JSON files say


def setting(*path: Any, value: Any) -> Change:
    def change(tree: dict[str, Any]) -> None:
        for key in path[:-1]:
            tree = tree[key]
        tree[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (setting("active_layers", value={}), "active_layers: {}, but the layers are {'encoder': 1, 'decoder': 1}"),
        (setting("active_layers", value={"encoder": 1}), "active_layers: {'encoder': 1}, but the layers are"),
        (setting("active_layers", value={"encoder": 1, "decoder": 1, "x": 1}), "active_layers"),
        (setting("active_layers", "encoder", value=10**9), "active_layers: {'encoder': 1000000000"),
        (setting("active_layers", "decoder", value=3), "active_layers"),
        (setting("active_layers", "decoder", value=-5), "active_layers.decoder: Input should be greater than or equal"),
        (setting("active_layers", "decoder", value=0), "active_layers.decoder"),
        (setting("active_layers", "decoder", value=True), "active_layers.decoder"),
        (setting("active_layers", value=None), "active_layers"),
        (setting("corpus_hash", value=None), "corpus_hash: Input should be a valid string, but got None"),
        (setting("corpus_hash", value=""), "corpus_hash"),
        (setting("config", value=None), "config: "),
        (
            setting("config", "model", "d_model", value=2**20),
            "config.model.d_model: Input should be less than or equal",
        ),
        (setting("config", "model", "encoder_layers", value=10**9), "config.model.encoder_layers"),
        (setting("config", "model", "feed_forward", value=2**40), "config.model.feed_forward"),
        (
            setting("config", "model", "d_modle", value=3),
            "config.model.d_modle: unknown key; the keys here are d_model",
        ),
        (setting("config", "decoding", "beam", value=10**9), "config.decoding.beam"),
        (
            setting("config", "features", "num_feats", value=99),
            "features.num_feats is 99, but features.json has 8 bins",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change: Change, named: str, saved: Path) -> None:
    edit(saved / CONFIG, change)
    with pytest.raises(DamagedError) as error:
        Recognizer.load(saved)
    assert named in error.value.problem and str(saved) in error.value.problem


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (setting("mean", value=[0.0] * 7), "7 means and 8 deviations of 8 bins"),
        (setting("std", value=[-1.0] * 8), "std.0"),
        (setting("mean", value=[1e999] * 8), "mean.0"),
        (setting("tokens_per_frame", value=float("nan")), "tokens_per_frame"),
        (setting("usual_seconds", value=0), "usual_seconds"),
        (setting("recipe", "bins", value=0), "recipe.bins"),
        (setting("recipe", "name", value="librosa"), "recipe.name"),
    ],
)
def test_statistics_that_cannot_be_are_refused(change: Change, named: str, saved: Path) -> None:
    edit(saved / FEATURES, change)
    with pytest.raises(DamagedError) as error:
        Recognizer.load(saved)
    assert named in error.value.problem and FEATURES in error.value.problem


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([0, 1, -1, 2**20, 10**9, 10**30, 1e300, [], {}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values in a JSON tree."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield (*above, key)
            yield from places(value, (*above, key))


def read_or_refused(folder: Path) -> None:
    try:
        Recognizer.load(folder)
    except InputError as error:
        assert str(folder) in error.problem


@settings(max_examples=100)
@given(st.data(), st.sampled_from([CONFIG, FEATURES]), plain)
def test_any_value_of_a_json_file_is_read_or_refused(
    original: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str, value: Any
) -> None:
    model = copy_model(original, tmp_path_factory.mktemp("edited") / "model")
    place = data.draw(st.sampled_from(list(places(json.loads((model / name).read_text())))))
    edit(model / name, setting(*place, value=value))
    read_or_refused(model)


@settings(max_examples=100)
@given(st.sampled_from(Recognizer.FILES), st.integers(0, 2000), st.binary(min_size=1, max_size=4), st.booleans())
def test_any_bytes_of_a_file_without_a_checksum_are_read_or_refused(
    original: Path, tmp_path_factory: pytest.TempPathFactory, name: str, place: int, other: bytes, inserted: bool
) -> None:
    model = copy_model(original, tmp_path_factory.mktemp("edited") / "model")
    (model / CHECKSUMS).unlink()
    content = (model / name).read_bytes()
    (model / name).write_bytes(content[:place] + other + content[place if inserted else place + len(other) :])
    read_or_refused(model)


def test_the_kind_of_model_is_read_from_a_whole_configuration(saved: Path) -> None:
    assert read_info(saved).config.model.kind == "encoder_decoder"
    edit(saved / CONFIG, setting("config", "model", "d_model", value=2**20))
    with pytest.raises(InputError, match="d_model"):
        read_info(saved)


def test_a_language_models_layers_are_checked(learned: Learned, tmp_path: Path) -> None:
    folder = tiny.save_language_model(learned.recognizer, tmp_path / "lm")
    edit(folder / CONFIG, setting("active_layers", value={"": 2}))
    with pytest.raises(DamagedError, match="active_layers"):
        TextModel.load(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors: tensors.pop("ctc_head.bias"), "ctc_head.bias is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "extra is not part of it"),
        (lambda tensors: tensors.update({"ctc_head.bias": torch.zeros(99)}), r"ctc_head.bias is \(99,\) there, but"),
    ],
)
def test_weights_of_another_model_are_refused_before_one_is_allocated(
    change: Callable[[dict[str, torch.Tensor]], Any], named: str, learned: Learned, saved: Path
) -> None:
    tensors = load_file(str(saved / WEIGHTS))
    change(tensors)
    save_file(tensors, str(saved / WEIGHTS))

    def make() -> SpeechTransformer:
        network = SpeechTransformer(learned.recognizer.config.model, learned.recognizer.tokenizer.vocab_size, tiny.BINS)
        assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
        return network

    with pytest.raises(DamagedError, match=named):
        load_network(make, saved, {"encoder": None, "decoder": None})


def test_another_tokenizer_is_refused_before_weights_are_read(saved: Path, tmp_path: Path) -> None:
    other = tiny.write_corpus(tmp_path / "other", {"train": ["XYZ"], "dev": ["XYZ"]})
    trained = train(tiny.config({"training.epochs": 1}), other, Recorder())
    trained.tokenizer.save(saved / TOKENIZER)
    (saved / CHECKSUMS).unlink()
    with pytest.raises(DamagedError, match=r"ctc_head.bias is \(12,\) there, but \(8,\) here"):
        Recognizer.load(saved)


# Training goes on from a whole checkpoint

EPOCHS = {**tiny.RANDOM, "training.epochs": 3, "training.ema": 0.5}
DAMAGE: dict[str, Callable[[Path], None]] = {
    "flipped": lambda path: flip(path, path.stat().st_size // 2),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "gone": lambda path: path.unlink(),
}


class Dated(Recorder):
    """Keeps checkpoints under names like Ray Train's."""

    def __call__(self, metrics: Any, save: Any) -> None:
        super().__call__(metrics, None)
        if self.folder:
            save(self.folder / f"checkpoint_2026-11-28_10-0{metrics['epoch']}-00.123")

    def checkpoints(self) -> list[Path]:
        assert self.folder is not None
        return sorted(self.folder.iterdir())


@pytest.fixture(scope="module")
def straight(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Dated:
    recorder = Dated(tmp_path_factory.mktemp("straight"))
    train(tiny.config(EPOCHS), tiny_corpus, recorder)
    return recorder


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", [*Recognizer.FILES, OPTIMIZER, AVERAGES, TRAINING])
def test_a_damaged_checkpoint_is_passed_over(
    name: str, how: str, straight: Dated, tiny_corpus: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The run goes on from the one before, and ends as if nothing had happened: bit by bit."""
    for checkpoint in straight.checkpoints()[:2]:
        shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    latest = tmp_path / straight.checkpoints()[1].name
    DAMAGE[how](latest / name)
    again = Recorder()
    trained = train(tiny.config(EPOCHS), tiny_corpus, again, checkpoint=latest, reported_epochs=2)
    assert again.comparable() == straight.comparable()[2:], "epochs on record are not reported again"
    tiny.assert_same_weights(trained, Recognizer.load(straight.checkpoints()[2]))
    if (name, how) != (TRAINING, "gone"):  # what has no history was never whole
        assert f"this checkpoint cannot be used: {latest}" in capfd.readouterr().err


def test_examples_of_a_validation_are_no_part_of_a_checkpoint(
    straight: Dated, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """Pictures come from them: nothing else depends on them."""
    shutil.copytree(straight.checkpoints()[1], tmp_path / "checkpoint_2")
    for name in (EXAMPLES, ATTENTION):
        flip(tmp_path / "checkpoint_2" / name, 0)
    again = Recorder()
    train(tiny.config(EPOCHS), tiny_corpus, again, checkpoint=tmp_path / "checkpoint_2")
    assert again.comparable() == straight.comparable()[2:]


def test_without_a_whole_checkpoint_the_latest_is_named(straight: Dated, tiny_corpus: Corpus, tmp_path: Path) -> None:
    for checkpoint in straight.checkpoints():
        shutil.copytree(checkpoint, tmp_path / checkpoint.name)
        flip(tmp_path / checkpoint.name / OPTIMIZER, 99)
    second = tmp_path / straight.checkpoints()[1].name
    with pytest.raises(DamagedError) as error:
        train(tiny.config(EPOCHS), tiny_corpus, Recorder(), checkpoint=second)
    assert error.value.problem.startswith(f"{second / OPTIMIZER}: damaged")


def test_downloaded_checkpoints_of_other_runs_are_left_alone(
    straight: Dated, tiny_corpus: Corpus, tmp_path: Path
) -> None:
    """Ray Train puts those of remote storage beside each other, whichever run they are of."""
    for name, checkpoint in zip(("checkpoint_tmp_1", "checkpoint_tmp_2"), straight.checkpoints(), strict=False):
        shutil.copytree(checkpoint, tmp_path / name)
    flip(tmp_path / "checkpoint_tmp_2" / OPTIMIZER, 99)
    with pytest.raises(DamagedError, match=OPTIMIZER):
        train(tiny.config(EPOCHS), tiny_corpus, Recorder(), checkpoint=tmp_path / "checkpoint_tmp_2")


def test_a_checkpoint_of_another_run_is_no_damage(straight: Dated, tiny_corpus: Corpus, tmp_path: Path) -> None:
    for checkpoint in straight.checkpoints()[:2]:
        shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    latest = tmp_path / straight.checkpoints()[1].name
    with pytest.raises(InputError, match=r"model\.heads is 2 there and 4 here"):
        train(tiny.config({**EPOCHS, "model.heads": 4}), tiny_corpus, Recorder(), checkpoint=latest)
