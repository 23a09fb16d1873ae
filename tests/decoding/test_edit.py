"""Editing steps: what each gives, and what it costs."""

from __future__ import annotations

from collections import Counter

import pytest
import tiny
import torch

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
            expected = model.edit(*audio, expected)
    assert edit(model, draft, 0).lists() != edit(model, draft, 1).lists()
