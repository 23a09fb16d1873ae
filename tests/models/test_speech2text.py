"""Our model and transformers' Speech2Text give equal logits with converted weights, in both directions."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from trainables.errors import InputError
from trainables.models.speech2text import from_speech2text, speech2text_shape, to_speech2text
from trainables.models.speech_transformer import SpeechTransformer

transformers = pytest.importorskip("transformers", reason="parity with transformers needs it (a test dependency)")

PAD = 1  # with 0, Speech2Text's encoder would take every valid frame for padding
TINY: dict[str, Any] = {
    "vocab_size": 23,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "conv_channels": 20,
    "input_feat_per_channel": 8,
}
SHAPES = {
    "tiny": TINY,
    "gelu_untied": {**TINY, "activation_function": "gelu", "tie_word_embeddings": False},
    "unscaled_deep_decoder": {**TINY, "scale_embedding": False, "decoder_layers": 3, "encoder_layers": 1},
    "another_pad": {**TINY, "pad_token_id": PAD, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
}


def theirs_of(fields: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = transformers.Speech2TextForConditionalGeneration(transformers.Speech2TextConfig(**fields)).eval()
    randomize(model)
    return model


def randomize(model: nn.Module) -> None:
    """Draws biases and norms at random: at their initial values a mistake would not show."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)


def ours_of(theirs: Any) -> SpeechTransformer:
    config = theirs.config
    return SpeechTransformer(speech2text_shape(config), config.vocab_size, config.input_feat_per_channel).eval()


@torch.no_grad()
def assert_equal_logits(ours: SpeechTransformer, theirs: Any, frames: int) -> None:
    """Compares logits in float32 within 1e-5, on utterances of one length."""
    features_BTF = torch.randn(3, frames, theirs.config.input_feat_per_channel)
    tokens_BU: Tensor = torch.randint(PAD + 1, theirs.config.vocab_size, (3, 9))
    expected = theirs(input_features=features_BTF, decoder_input_ids=tokens_BU).logits
    found = ours(features_BTF, torch.full((3,), frames), tokens_BU)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_their_weights_in_our_model(name: str) -> None:
    theirs = theirs_of(SHAPES[name])
    ours = ours_of(theirs)
    ours.load_state_dict(from_speech2text(theirs.state_dict(), ours.state_dict()))
    for frames in (41, 64):
        assert_equal_logits(ours, theirs, frames)


@pytest.mark.parametrize("name", SHAPES)
def test_our_weights_in_their_model(name: str) -> None:
    theirs = theirs_of(SHAPES[name])
    torch.manual_seed(1)
    ours = ours_of(theirs)
    randomize(ours)
    theirs.load_state_dict(to_speech2text(ours.state_dict()))
    assert_equal_logits(ours, theirs, 50)


def test_the_default_shape_has_as_many_parameters_and_the_same_logits() -> None:
    theirs = theirs_of({})
    ours = ours_of(theirs)
    ours.load_state_dict(from_speech2text(theirs.state_dict(), ours.state_dict()))
    count = sum(parameter.numel() for parameter in theirs.parameters())
    ctc_head = sum(parameter.numel() for parameter in ours.ctc_head.parameters())
    assert count == 29_536_256
    assert sum(parameter.numel() for parameter in ours.parameters()) - ctc_head == count
    assert_equal_logits(ours, theirs, 120)


def test_moving_there_and_back_changes_nothing() -> None:
    state = tiny.model(reduction_factor=4).state_dict()
    back = from_speech2text(to_speech2text(state), state)
    assert all(torch.equal(value, state[name]) for name, value in back.items())
    assert back.keys() == state.keys()


def test_what_theirs_cannot_express_is_named() -> None:
    with pytest.raises(InputError, match=r"stack|subsampling\.output"):
        to_speech2text(tiny.model(reduction="stack").state_dict())
    with pytest.raises(InputError, match="encoder_ffn_dim=24 and decoder_ffn_dim=48 differ"):
        speech2text_shape(transformers.Speech2TextConfig(**{**TINY, "decoder_ffn_dim": 48}))


@pytest.mark.parametrize(
    ("fields", "problem", "remedy"),
    [
        ({"conv_kernel_sizes": [3, 3]}, "conv_kernel_sizes=[3, 3] are not two of 5", "two convolutions of width 5"),
        ({"conv_channels": 21}, "conv_channels=21 is odd", "even number of channels"),
        ({"pad_token_id": None}, "pad_token_id: not set", "Give each of them its value"),
        ({"pad_token_id": None, "d_model": None}, "d_model, pad_token_id: not set", "Give each"),
        ({"pad_token_id": -2}, "model.first_position", ""),
        ({"activation_function": "tanh"}, "model.activation: Input should be 'gelu', 'relu' or 'silu'", ""),
    ],
)
def test_what_ours_cannot_express_is_named_with_its_remedy(fields: dict[str, Any], problem: str, remedy: str) -> None:
    theirs = transformers.Speech2TextConfig(**TINY)
    for name, value in fields.items():
        object.__setattr__(theirs, name, value)
    with pytest.raises(InputError) as error:
        speech2text_shape(theirs)
    assert problem in error.value.problem and remedy in error.value.remedy


def test_weights_of_other_convolutions_say_which_configuration_is_needed() -> None:
    theirs = theirs_of({**TINY, "conv_kernel_sizes": [3, 3]})
    state = ours_of(theirs_of(TINY)).state_dict()
    with pytest.raises(InputError, match=r"is \(20, 8, 3\) there and \(20, 8, 5\) here") as error:
        from_speech2text(theirs.state_dict(), state)
    assert "of the configuration that the weights were made with" in error.value.remedy


def test_weights_of_another_shape_are_refused() -> None:
    theirs = theirs_of({**TINY, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32})
    state = ours_of(theirs_of(TINY)).state_dict()
    with pytest.raises(InputError, match=r"fc1.weight is \(32, 16\) there and \(24, 16\) here"):
        from_speech2text(theirs.state_dict(), state)
