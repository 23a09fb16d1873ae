"""Our transcript editor and Granite Speech NAR give equal results with equal weights, whatever the shape."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import granite
import pytest
import torch
from safetensors.torch import load_file, save_file

from trainables.errors import InputError
from trainables.models import granite_speech_nar
from trainables.models.granite_speech_nar import (
    TOLERANCE,
    TOLERANCES,
    compare,
    difference,
    from_granite,
    granite_model,
    granite_shape,
    to_granite,
)

GOLDEN = "golden.safetensors"
ENCODER, PROJECTOR, TEXT = "encoder_config.", "projector_config.", "text_config."
SHAPES: dict[str, tuple[dict[str, Any], list[int]]] = {  # differences from `granite.CONFIG`, frames of the utterances
    "small": ({}, [30, 24, 17]),
    "three_widths": (
        {
            f"{ENCODER}hidden_dim": 20, f"{ENCODER}num_heads": 3, f"{ENCODER}dim_head": 6,
            f"{PROJECTOR}hidden_size": 24, f"{PROJECTOR}num_heads": 3,
            f"{TEXT}hidden_size": 12, f"{TEXT}num_attention_heads": 3, f"{TEXT}head_dim": 6,
            f"{TEXT}num_key_value_heads": 1,
        },
        [30, 24],
    ),
    "odd_widths": (
        {
            f"{ENCODER}hidden_dim": 15, f"{ENCODER}num_heads": 3, f"{ENCODER}dim_head": 5,
            f"{PROJECTOR}hidden_size": 9, f"{PROJECTOR}num_heads": 3,
            f"{TEXT}hidden_size": 7, f"{TEXT}num_attention_heads": 1, f"{TEXT}head_dim": 4,
            f"{TEXT}num_key_value_heads": 1, f"{TEXT}intermediate_size": 5,
        },
        [30],
    ),
    "narrow": (
        {
            f"{ENCODER}hidden_dim": 2, f"{ENCODER}num_heads": 1, f"{ENCODER}dim_head": 2,
            f"{PROJECTOR}hidden_size": 3, f"{PROJECTOR}num_heads": 1,
            f"{TEXT}hidden_size": 4, f"{TEXT}num_attention_heads": 2, f"{TEXT}num_key_value_heads": 1,
            f"{TEXT}intermediate_size": 3,
        },
        [30],
    ),
    "as_many_key_heads": ({f"{TEXT}num_key_value_heads": 4}, [30]),
    "multipliers": (
        {
            f"{TEXT}embedding_multiplier": 12.0, f"{TEXT}attention_multiplier": 0.015625,
            f"{TEXT}residual_multiplier": 0.22, f"{TEXT}logits_scaling": 8.0, "scale_projected_embeddings": True,
        },
        [41, 30],
    ),
    "multipliers_of_unscaled_audio": (
        {f"{TEXT}embedding_multiplier": 3.0, f"{TEXT}residual_multiplier": 0.5, f"{TEXT}logits_scaling": 0.5}, [30]
    ),
    "without_biases": ({f"{PROJECTOR}attn_bias": False, f"{PROJECTOR}mlp_bias": False}, [30]),
    "with_biases": ({f"{TEXT}attention_bias": True, f"{TEXT}mlp_bias": True}, [30]),
    "layers_read": (
        {
            f"{ENCODER}num_layers": 4, f"{ENCODER}self_conditioning_layer": None,
            "encoder_layer_indices": [0, -1, -3, 3, 3, -5],
        },
        [30],
    ),
    "one_block": ({f"{ENCODER}context_size": 60, f"{ENCODER}max_pos_emb": 60}, [30, 24]),
    "whole_blocks": ({f"{ENCODER}context_size": 10}, [30, 20]),
    "blocks_of_one": ({f"{ENCODER}context_size": 1}, [17]),
    "even_kernel": ({f"{ENCODER}conv_kernel_size": 8, f"{ENCODER}conv_expansion_factor": 3}, [24, 2]),
    "other_windows": (
        {
            f"{PROJECTOR}downsample_rate": 4, f"{PROJECTOR}block_size": 12, f"{PROJECTOR}num_layers": 3,
            f"{PROJECTOR}mlp_ratio": 1.5, f"{ENCODER}bpe_pooling_window": 3,
        },
        [37, 24],
    ),
    "windows_of_one": (
        {f"{PROJECTOR}downsample_rate": 1, f"{PROJECTOR}block_size": 1, f"{ENCODER}bpe_pooling_window": 1}, [24]
    ),
    "another_blank": ({"blank_token_id": 18, "min_edit_sequence_length": 21}, [24]),
    "without_audio_positions": ({"min_edit_sequence_length": 1}, [4, 2, 1]),
    "one_layer_of_each": (
        {
            f"{ENCODER}num_layers": 1, f"{TEXT}num_hidden_layers": 1, "encoder_layer_indices": [-1],
            f"{TEXT}rope_parameters": {"rope_theta": 500_000.0, "rope_type": "default"}, f"{TEXT}rms_norm_eps": 1e-3,
        },
        [24],
    ),
}  # fmt: skip


def assert_within_tolerances(folder: Path) -> None:
    for kind, value in compare(folder).items():
        assert value <= TOLERANCES.get(kind, TOLERANCE), kind


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results of the small shape."""
    return granite.record(tmp_path_factory.mktemp("granite") / "small", granite.config(), [30, 17])


def changed(recorded: Path, folder: Path, name: str, value: Any) -> Path:
    """The folder's copy in which one tensor is replaced, or left out (None)."""
    golden = load_file(recorded / GOLDEN)
    golden |= {name: value}
    golden = {key: tensor for key, tensor in golden.items() if tensor is not None}
    save_file(golden, folder / GOLDEN)
    (folder / "config.json").write_bytes((recorded / "config.json").read_bytes())
    return folder


def test_the_results_are_those_recorded_with_the_public_implementation(speech_data: Path) -> None:
    folder = speech_data / "granite_nar"
    if not folder.is_dir():
        pytest.skip(f"no recorded results at {folder}")
    assert_within_tolerances(folder)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_gives_the_original_s_results(name: str, tmp_path: Path) -> None:
    leaves, frames = SHAPES[name]
    assert_within_tolerances(granite.record(tmp_path, granite.config(leaves), frames))


@pytest.mark.parametrize("frames", [2, 30])
def test_an_empty_hypothesis_gives_the_original_s_results(frames: int, tmp_path: Path) -> None:
    folder = granite.record(tmp_path, granite.config(), [frames], silent=True)
    assert not len(load_file(folder / GOLDEN)["0.hypothesis"])
    assert_within_tolerances(folder)


def test_an_editing_step_of_these_shapes_changes_some_hypothesis(tmp_path: Path) -> None:
    """If all were copied, the comparison of edited tokens would say little."""
    leaves, frames = SHAPES["three_widths"]
    golden = load_file(granite.record(tmp_path, granite.config(leaves), frames) / GOLDEN)
    assert golden["0.edited_3"].tolist() != golden["0.hypothesis"].tolist()


def test_weights_there_and_back_are_the_same_bits() -> None:
    theirs = granite.config(SHAPES["three_widths"][0])
    one, other = granite_model(theirs), granite_model(theirs)
    for value in one.state_dict().values():
        if value.is_floating_point():
            torch.nn.init.normal_(value)
    from_granite(to_granite(one), other)
    for name, value in other.state_dict().items():
        assert torch.equal(value, one.state_dict()[name]), name
    assert other.editor.output.weight is other.editor.embedding.weight


def test_our_weights_have_the_original_s_names_and_shapes() -> None:
    theirs = granite.config()
    expected = {name: value.shape for name, value in granite.Original(theirs).state_dict().items()}
    assert {name: value.shape for name, value in to_granite(granite_model(theirs)).items()} == expected


@pytest.mark.parametrize(
    ("leaves", "problem"),
    [
        ({f"{TEXT}intermediate_size": 32}, r"mlp\.gate_proj\.weight is \(24, 16\) there and \(32, 16\) here"),
        ({f"{ENCODER}num_layers": 1}, r"encoder\.layers\.1\.ff1\.pre_norm\.weight has no counterpart here"),
        ({f"{ENCODER}num_layers": 3}, r"encoder\.layers\.2\.ff1\.pre_norm\.weight is missing there"),
    ],
)
def test_weights_of_another_shape_are_refused(leaves: dict[str, Any], problem: str) -> None:
    state = to_granite(granite_model(granite.config()))
    with pytest.raises(InputError, match=problem):
        from_granite(state, granite_model(granite.config(leaves)))


@pytest.mark.parametrize(
    ("leaves", "problem"),
    [
        ({f"{TEXT}hidden_act": "gelu"}, r"text_config\.hidden_act=gelu"),
        ({f"{TEXT}rope_parameters": {"rope_theta": 1e4, "rope_type": "linear"}}, r"rope_type=linear"),
        ({f"{TEXT}rope_parameters": None}, r"config\.json: rope_parameters is null, not a section with keys"),
        ({"encoder_config": [1]}, r"config\.json: encoder_config is \[1\], not a section with keys"),
        ({f"{ENCODER}num_layers": None}, r"encoder_config\.num_layers=None: must be a whole number above 0"),
        ({f"{ENCODER}hidden_dim": "16"}, r"encoder_config\.hidden_dim=16: must be a whole number above 0"),
        ({f"{TEXT}vocab_size": 0}, r"text_config\.vocab_size=0: must be a whole number above 0"),
        ({f"{TEXT}mlp_bias": True}, r"mlp_bias=True"),
        ({f"{TEXT}num_key_value_heads": 3}, r"kv_heads must divide heads"),
        ({f"{PROJECTOR}downsample_rate": 4}, r"projector.reduction_factor must divide window, but got 4 and 15"),
    ],
)
def test_a_network_that_ours_cannot_be_is_refused(leaves: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        granite_shape(granite.config(leaves))


def test_a_configuration_without_a_key_is_refused() -> None:
    theirs = granite.config()
    del theirs["encoder_config"]["dim_head"]
    with pytest.raises(InputError, match=r"config\.json: without 'dim_head'"):
        granite_shape(theirs)


def main(folder: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["granite_speech_nar", str(folder)])
    return granite_speech_nar.main()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_command_prints_each_kind_and_ends_with_0(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["granite_speech_nar", str(recorded)])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(granite_speech_nar.__name__, run_name="__main__")
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    kinds = [line.split()[0] for line in lines]
    assert {"encoder_states", "hypothesis", "loss", "edited_3", "gradients"} <= set(kinds) and len(kinds) == 10
    assert all("within" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "move", "kinds"),
    [
        ("0.loss", lambda value: value + 1e-4, {"loss"}),
        ("1.text_logits", lambda value: value * torch.nan, {"text_logits"}),
        ("0.edited_3", lambda value: value.flip(0) + 1, {"edited_3"}),
        ("0.audio_embeddings", lambda value: value[1:], {"audio_embeddings"}),
        ("gradient.model.encoder.out.bias", lambda value: value + 1e-3, {"gradients"}),
        ("state.model.projector.query", lambda value: value * 1.5, {"audio_embeddings", "text_logits", "loss"}),
    ],
)
def test_the_command_ends_with_1_beyond_a_tolerance(
    name: str, move: Any, kinds: set[str], recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = changed(recorded, tmp_path, name, move(load_file(recorded / GOLDEN)[name]).contiguous())
    assert main(folder, monkeypatch) == 1
    beyond = {line.split()[0] for line in capsys.readouterr().out.splitlines() if "beyond" in line}
    assert beyond >= kinds if name.startswith("state") else beyond == kinds


def test_a_folder_without_gradients_is_refused(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = load_file(recorded / GOLDEN)
    save_file({name: value for name, value in golden.items() if not name.startswith("gradient.")}, tmp_path / GOLDEN)
    (tmp_path / "config.json").write_bytes((recorded / "config.json").read_bytes())
    assert main(tmp_path, monkeypatch) == 2
    assert "without 'gradient.*'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["1.edited_2", "mid_logits"])
def test_a_result_that_is_not_computed_here_is_listed(
    name: str, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(changed(recorded, tmp_path, name, torch.tensor([1])), monkeypatch) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "not computed here" in line]
    assert listed == [name.removeprefix("1.")]


@pytest.mark.parametrize("missing", ["0.loss", "1.labels", "0.features"])
def test_the_command_ends_with_2_without_a_result(
    missing: str, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(changed(recorded, tmp_path, missing, None), monkeypatch) == 2
    assert missing in capsys.readouterr().err


def test_the_command_ends_with_2_without_a_readable_folder(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tmp_path / "absent", monkeypatch) == 2
    (tmp_path / "config.json").write_bytes((recorded / "config.json").read_bytes())
    (tmp_path / GOLDEN).write_bytes((recorded / GOLDEN).read_bytes()[:1000])
    assert main(tmp_path, monkeypatch) == 2
    other = {**json.loads((recorded / "config.json").read_text()), "encoder_layer_indices": [0, 1, 2]}
    (tmp_path / "config.json").write_text(json.dumps(other))
    (tmp_path / GOLDEN).write_bytes((recorded / GOLDEN).read_bytes())
    assert main(tmp_path, monkeypatch) == 2
    monkeypatch.setattr(sys, "argv", ["granite_speech_nar"])
    assert granite_speech_nar.main() == 2
    absent, cut, shape, usage = capsys.readouterr().err.splitlines()
    assert "absent" in absent and "not readable" in cut and "weights of another shape" in shape and "usage" in usage


def test_a_difference_is_infinite_where_there_is_nothing_to_compare() -> None:
    one = torch.tensor([1.0, 2.0])
    assert difference(one, one + 0.5) == 0.5
    assert difference(one, one[:1]) == difference(None, one) == difference(one, one * torch.nan) == float("inf")
    assert difference(torch.tensor([]), torch.tensor([], dtype=torch.long)) == 0
