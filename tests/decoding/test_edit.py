"""Editing steps: what each gives, and what it costs."""

from __future__ import annotations

from collections import Counter

import pytest
import tiny
import torch

from trainables.data.text.tokenizer import SPECIAL_IDS
from trainables.decoding.edit import edit


@pytest.mark.parametrize("block", tiny.choices("encoder_block"))
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_encoder_and_projector_run_once_and_the_editor_once_a_step(block: str, steps: int) -> None:
    model, counted = tiny.editor(encoder_block=block), Counter[str]()
    for name, module in {
        "encoder": model.encoder.layers[0],
        "projector": model.projector,
        "editor": model.editor.layers[-1],
    }.items():
        module.register_forward_hook(lambda *_, name=name: counted.update([name]))
    with torch.no_grad():
        edit(model, model.encode(torch.randn(3, 50, tiny.BINS), torch.tensor([50, 31, 3])), steps)
    assert counted["encoder"] == counted["projector"] == 1 and counted["editor"] == steps


def test_steps_follow_each_other_from_the_draft_on() -> None:
    model = tiny.editor(editor={"tied_embeddings": False})  # untrained, a tied one copies
    with torch.no_grad():
        draft = model.encode(torch.randn(3, 50, tiny.BINS), torch.tensor([50, 31, 3]))
        audio = model.projector(draft.states, draft.lengths_B)
        expected = model.tokens(draft)
        for steps in range(4):
            assert edit(model, draft, steps).lists() == expected.lists()
            expected = model.step(*audio, expected)
    assert edit(model, draft, 0).lists() != edit(model, draft, 1).lists()


def test_an_editor_that_fills_every_slot_is_cut_to_the_longest_text() -> None:
    model, longest_B = tiny.editor(), torch.tensor([9, 4, 0])
    token = len(SPECIAL_IDS)
    with torch.no_grad():
        model.editor.embedding.weight.zero_()
        model.ctc_head.bias[token] += 100.0
        draft = model.encode(torch.randn(3, 50, tiny.BINS), torch.tensor([50, 31, 3]))
        alternating = torch.tensor([token, token + 1]).repeat(10_000)
        model.best = lambda logits: alternating[: logits.shape[-2]].expand(logits.shape[:-1])  # type: ignore[method-assign]
        free, cut = edit(model, draft, 3), edit(model, draft, 3, longest_B)
    assert free.lengths_B.min() > 2 * 9
    assert cut.lengths_B.tolist() == longest_B.tolist()
