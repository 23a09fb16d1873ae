"""Weights that are converted at once give what autocast gives, which converts them one by one."""

from __future__ import annotations

import operator

import pytest
import tiny
import torch
from torch import Tensor

from trainables.models import speech_transformer
from trainables.models.kernels.mixed_precision import converted_weights
from trainables.models.speech_transformer import SpeechTransformer


def gradients(model: SpeechTransformer) -> dict[str, Tensor]:
    """Gradients of a pass in bf16."""
    torch.manual_seed(0)
    features_BTF, lengths_B = torch.randn(3, 30, tiny.BINS), torch.tensor([30, 12, 5])
    tokens_BU = torch.randint(5, tiny.VOCABULARY, (3, 4))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        logits_BUV, ctc_logits_BSV, _, attention_BHUS = model(features_BTF, lengths_B, tokens_BU, with_attention=True)
    assert attention_BHUS.dtype == torch.float32
    parts = (logits_BUV.float(), ctc_logits_BSV.float(), attention_BHUS)
    sum(part.square().mean() for part in parts).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def test_gradients_are_those_of_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model(0)
    found, parameters = gradients(model), list(model.parameters())
    assert all(map(operator.is_, model.parameters(), parameters))
    assert all(weight.dtype == torch.float32 for weight in parameters)
    monkeypatch.setattr(speech_transformer, "converted_weights", lambda model: torch.enable_grad())
    expected = gradients(model)
    assert found.keys() == expected.keys() and len(found) == len(parameters)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_without_autocast_nothing_is_converted() -> None:
    model = tiny.model(0)
    with converted_weights(model):
        assert all(isinstance(weight, torch.nn.Parameter) for weight in model.parameters())
    with torch.autocast("cpu", torch.bfloat16), converted_weights(model):
        assert model.ctc_head.weight.dtype == torch.bfloat16
        assert model.encoder.norm.weight.dtype == torch.float32
    assert model.ctc_head.weight.dtype == torch.float32
