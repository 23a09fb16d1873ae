"""Compiled layers give what layers give that are not, without a graph break."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from trainables.config.tree import Training
from trainables.data.batch_plan import Rows
from trainables.data.corpus import Corpus
from trainables.models.speech_transformer import SpeechTransformer
from trainables.training.compilation import compile_layers, uncompiled, wants_compilation
from trainables.training.loop import Trainer

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHAPES = [(3, 40, 5), (2, 97, 7), (5, 64, 9)]  # B, T, U


def results(model: SpeechTransformer, guided: bool = False) -> list[Tensor]:
    """Logits of both branches, attention weights if `guided`, and all gradients, for batches of several shapes."""
    found: list[Tensor] = []
    for batch, frames, tokens in SHAPES:
        torch.manual_seed(frames)
        features_BTF, tokens_BU = torch.randn(batch, frames, tiny.BINS), torch.randint(5, 20, (batch, tokens))
        model.zero_grad()
        lengths_B = torch.arange(batch) + frames - batch
        logits_BUV, ctc_logits_BSV, _, *attention = model(features_BTF, lengths_B, tokens_BU, with_attention=guided)
        outputs = [logits_BUV, ctc_logits_BSV, *(attention if guided else ())]
        torch.stack([output.square().mean() for output in outputs]).sum().backward()
        found += [
            *outputs,
            *(weight.grad for weight in model.parameters() if weight.grad is not None),
        ]
    return found


@pytest.mark.parametrize(("guided", "dropout"), [(False, 0.0), (True, 0.0), (False, 0.2)])
def test_compiled_layers_compute_the_same_without_graph_breaks(guided: bool, dropout: float) -> None:
    """The graphs are run by torch as they were traced; making kernels of them is torch's own matter."""
    torch._dynamo.reset()
    counters.clear()
    graphs = CompileCounterWithBackend("eager")
    model = tiny.model(0, dropout=dropout).train()
    expected = results(model, guided)
    names = list(model.state_dict())
    compile_layers(model, graphs)
    found = results(model, guided)
    made = graphs.frame_count
    assert made == 2 + guided and not counters["graph_break"]
    assert list(model.state_dict()) == names
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    with uncompiled():
        results(model.eval(), guided)
    assert graphs.frame_count == made


def test_a_pass_of_one_utterance_is_not_compiled(tiny_corpus: Corpus) -> None:
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("eager")
    trainer = Trainer(tiny.config({"training.update_seconds": 4.0}), tiny_corpus, CPU)
    sums = torch.zeros(len(trainer.task.SUMS), dtype=torch.float64)
    trainer.task.start_epoch(1, [])
    batch = next(batch for update in trainer.updates_of(1) for batch in update if len(batch.indices) > 1)
    alone = batch._replace(indices=batch.indices[:1], rows=Rows(*(part[:1] for part in batch.rows)))
    trainer.compile(graphs)
    trainer.accumulate_gradients([alone], trainer.config.loss, sums)
    assert graphs.frame_count == 0 and sums[trainer.task.SUMS.index("tokens")] > 0
    trainer.accumulate_gradients([batch], trainer.config.loss, sums)
    assert graphs.frame_count == 2


@pytest.mark.parametrize(
    ("choice", "device", "epochs", "expected"),
    [
        ("auto", GPU, 70, True), ("auto", GPU, 1, False), ("auto", CPU, 70, False), ("always", CPU, 1, True),
        ("never", GPU, 70, False),
    ],
)  # fmt: skip
def test_layers_are_compiled_where_it_is_repaid(choice: Any, device: torch.device, epochs: int, expected: bool) -> None:
    assert wants_compilation(Training(compile=choice), device, epochs) == expected
