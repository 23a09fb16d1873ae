"""Our encoder gives the states of NeMo's frame-stacking encoder with its weights, and weights move both ways.

`tests/assets/frame_stacking.json` holds names, shapes and states of the public code (nemo_toolkit 3.0.0, and for rotary
positions its main branch of November 2026), computed in float32 on a CPU with the weights and features drawn below.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from trainables.errors import InputError
from trainables.models.frame_stacking import frame_stacking_shape, from_frame_stacking, to_frame_stacking
from trainables.models.speech_transformer import SpeechTransformer

FILE = Path(__file__).parents[1] / "assets" / "frame_stacking.json"
CASES: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
ARGUMENTS: dict[str, Any] = {"feat_in": 5, "d_model": 32, "n_heads": 2, "n_layers": 1}


def weights(case: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict that the recorded states were computed with."""
    draw, state = np.random.RandomState(0), {}  # its numbers are the same in every version of NumPy
    for name, shape in sorted(case["parameters"].items()):
        numbers = torch.from_numpy(draw.uniform(-1, 1, shape)).float()
        if name.endswith("weight"):
            numbers = 1 + numbers / 2 if len(shape) == 1 else numbers * (3 / shape[1]) ** 0.5
        state[name] = numbers
    return state


def features(lengths: list[int], bins: int) -> Tensor:
    """The features (B, T, F) that the recorded states were computed of."""
    draw = np.random.RandomState(1)
    x_BTF = np.zeros((len(lengths), max(lengths), bins), np.float32)
    for row, length in zip(x_BTF, lengths, strict=True):
        row[:length] = draw.standard_normal((length, bins))
    return torch.from_numpy(x_BTF)


def model_of(arguments: dict[str, Any]) -> SpeechTransformer:
    torch.manual_seed(0)
    return SpeechTransformer(frame_stacking_shape(arguments), tiny.VOCABULARY, arguments["feat_in"]).eval()


@cases
def test_their_weights_give_their_states(case: dict[str, Any]) -> None:
    model = model_of(case["arguments"])
    model.load_state_dict(from_frame_stacking(weights(case), model.state_dict(), case["arguments"]))
    features_BTF, lengths_B = features(case["lengths"], case["arguments"]["feat_in"]), torch.tensor(case["lengths"])
    with torch.no_grad():
        states_BSD, state_lengths_B = model.encoder(features_BTF, lengths_B)
    assert state_lengths_B.tolist() == case["state_lengths"]
    assert states_BSD.shape[-1] == case["arguments"].get("feat_out", 32)
    found = torch.cat([states[:count] for states, count in zip(states_BSD, case["state_lengths"], strict=True)])
    expected = torch.tensor(case["states"])
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, atol=1e-5, rtol=0)


@cases
def test_our_weights_have_their_names_and_shapes_and_come_back(case: dict[str, Any]) -> None:
    state = model_of(case["arguments"]).state_dict()
    theirs = to_frame_stacking(state, case["arguments"])
    assert {name: list(value.shape) for name, value in theirs.items()} == case["parameters"]
    back = from_frame_stacking(theirs, state, case["arguments"])
    assert back.keys() == state.keys() and all(torch.equal(value, state[name]) for name, value in back.items())


def test_dropouts_are_those_of_the_arguments() -> None:
    own = frame_stacking_shape({**ARGUMENTS, "drop_rate": 0.3, "dropout_pre_encoder": 0.2, "dropout_emb": 0.4})
    assert (own.dropout, own.input_dropout, own.position_dropout) == (0.3, 0.2, 0.4)
    assert frame_stacking_shape({**ARGUMENTS, "drop_rate": 0.3}).input_dropout is None  # that is, drop_rate
    without = {**ARGUMENTS, "self_attention_model": None, "dropout_pre_encoder": 0.2}
    assert frame_stacking_shape(without).input_dropout == 0  # which has no meaning without positions there


def test_their_defaults_are_the_shape_of_the_published_encoder() -> None:
    shape = frame_stacking_shape({})
    assert (shape.d_model, shape.heads, shape.encoder_layers, shape.inner_width) == (512, 8, 17, 2048)
    assert (shape.encoder_positions, shape.sinusoids, shape.reduction_factor) == ("transformer_xl", "interleaved", 4)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"subsampling": "dw_striding"}, "subsampling='dw_striding' has no counterpart here, only 'feature_stacking'"),
        ({"self_attention_model": "local"}, "self_attention_model='local' has no counterpart here, only 'rel_pos'"),
        ({"rotary_fraction": 0.5}, r"rotary_fraction=0\.5 has no counterpart here, only 1\.0"),
        ({"att_context_size": [70, 1]}, "unknown argument att_context_size; the arguments are d_model, n_heads"),
        ({"n_heads": 5}, r"TransformerEncoder: model: heads must divide d_model"),
    ],
)
def test_what_ours_cannot_express_is_named(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        frame_stacking_shape({**ARGUMENTS, **arguments})


def test_weights_of_another_shape_are_refused() -> None:
    state = model_of(ARGUMENTS).state_dict()
    theirs = to_frame_stacking(state, ARGUMENTS)
    theirs["final_norm.weight"], theirs["extra.weight"] = torch.ones(16), torch.ones(1)
    with pytest.raises(InputError, match=r"final_norm.weight is \(16,\) there and \(32,\) here; extra.weight has no"):
        from_frame_stacking(theirs, state, ARGUMENTS)


def test_what_theirs_cannot_express_is_named() -> None:
    state = tiny.model(encoder_positions="relative").state_dict()
    with pytest.raises(InputError, match=r"encoder\.subsampling\.first.*: NeMo's TransformerEncoder has no such"):
        to_frame_stacking(state, ARGUMENTS)
