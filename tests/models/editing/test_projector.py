"""The projector's windows are independent, and what lies behind an utterance is no part of it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.models.editing.projector import Projector, WindowLayer, layers_read

WIDTH, EDITOR = 32, 24
sizes = st.tuples(st.integers(1, 4), st.integers(1, 4)).map(
    lambda pair: {"reduction_factor": pair[0], "window": pair[0] * pair[1]}
)


def projector(**keys: Any) -> Projector:
    torch.manual_seed(0)
    return tiny.randomized(Projector(tiny.editor_shape(projector={"states": (1, 2), **keys})))


def states(batch: int, length: int) -> list[Tensor]:
    return [torch.randn(batch, length, WIDTH) for _ in range(2)]


@settings(max_examples=50)
@given(sizes, st.integers(1, 30), st.sampled_from(["mask", "drop"]), st.data())
def test_a_window_changes_its_own_positions_alone(
    shape: dict[str, int], length: int, last_window: str, data: st.DataObject
) -> None:
    module, lengths_B = projector(**shape, last_window=last_window), torch.tensor([length])
    window, queries = shape["window"], shape["window"] // shape["reduction_factor"]
    number = data.draw(st.integers(0, (length - 1) // window))
    before = states(1, length)
    after = [x_BSD.clone() for x_BSD in before]
    for x_BSD in after:
        x_BSD[:, number * window : (number + 1) * window] += 1 + torch.randn(WIDTH)
    with torch.no_grad():
        one, other = module(before, lengths_B)[0][0], module(after, lengths_B)[0][0]
    own = torch.arange(len(one)) // queries == number
    assert (one[own] != other[own]).any(-1).all() and own.any()
    torch.testing.assert_close(one[~own], other[~own], atol=1e-6, rtol=0)


@settings(max_examples=50)
@given(sizes, st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 20))
def test_padding_does_not_change_an_utterance(shape: dict[str, int], lengths: list[int], extra: int) -> None:
    """In the masked way there are ceil(S / factor) positions, in the original's floor(S / factor)."""
    for last_window in ("mask", "drop"):
        module = projector(**shape, last_window=last_window)
        padded = states(len(lengths), max(lengths) + extra)
        with torch.no_grad():
            found, counts_B = module(padded, torch.tensor(lengths))
            for number, length in enumerate(lengths):
                row = [x_BSD[number : number + 1, :length] for x_BSD in padded]
                alone, count_B = module(row, torch.tensor([length]))
                rounded = length + (shape["reduction_factor"] - 1 if last_window == "mask" else 0)
                assert counts_B[number] == count_B.item() == rounded // shape["reduction_factor"]
                torch.testing.assert_close(
                    found[number, : counts_B[number]], alone[0, : counts_B[number]], atol=1e-5, rtol=1e-5
                )
        assert found.isfinite().all()


def test_a_last_window_is_read_without_the_zeros_behind_it() -> None:
    """A window of 15 with 6 states gives the positions of one of 6 states, of which the second has a segment of 1."""
    module = projector(window=15, reduction_factor=5)
    x_BSJ = torch.randn(1, 15, 20)
    valid_MW = torch.arange(15)[None] < 6
    means_MQJ = module.segment_means(x_BSJ * valid_MW[..., None], valid_MW)
    torch.testing.assert_close(means_MQJ[0, 0], x_BSJ[0, :5].mean(0))
    torch.testing.assert_close(means_MQJ[0, 1], x_BSJ[0, 5])
    assert not means_MQJ[0, 2].any()


def test_the_original_s_last_window_sees_zeros() -> None:
    """Dropped positions aside, its values are those of zeros behind the utterance, and so differ from ours."""
    masked, dropped = projector(last_window="mask"), projector(last_window="drop")
    x, lengths_B = states(1, 17), torch.tensor([17])
    with torch.no_grad():
        ours, ours_B = masked(x, lengths_B)
        theirs, theirs_B = dropped(x, lengths_B)
    assert (ours_B.item(), theirs_B.item()) == (4, 3)
    torch.testing.assert_close(ours[0, :3], theirs[0, :3])  # of the whole window
    assert not torch.allclose(ours[0, 3], theirs[0, 3], atol=1e-3)


@pytest.mark.parametrize(("length", "masked", "dropped"), [(1, 1, 0), (4, 1, 0), (5, 1, 1), (15, 3, 3), (16, 4, 3)])
def test_number_of_positions(length: int, masked: int, dropped: int) -> None:
    for last_window, expected in (("mask", masked), ("drop", dropped)):
        assert projector(last_window=last_window)(states(1, length), torch.tensor([length]))[1].item() == expected


def test_a_layer_equals_torch_s_attention() -> None:
    layer = tiny.randomized(WindowLayer(tiny.editor_shape().projector, width=20, heads=2, dropout=0.0))
    theirs = nn.MultiheadAttention(20, 2, batch_first=True).eval()
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([layer.query.weight, layer.key_value.weight]),
            "in_proj_bias": torch.cat([layer.query.bias, layer.key_value.bias]),
            "out_proj.weight": layer.output.weight,
            "out_proj.bias": layer.output.bias,
        }
    )
    x_MQJ, states_MWJ = torch.randn(3, 4, 20), torch.randn(3, 12, 20)
    seen_MW = torch.arange(12) < torch.tensor([12, 7, 1])[:, None]
    middle = x_MQJ + theirs(layer.attention_norm(x_MQJ), states_MWJ, states_MWJ, key_padding_mask=~seen_MW)[0]
    expected = middle + layer.outer(nn.functional.silu(layer.inner(layer.feed_forward_norm(middle))))
    torch.testing.assert_close(layer(x_MQJ, states_MWJ, seen_MW[:, None, None]), expected)
    assert layer.inner.out_features == 40


def test_the_editor_s_multiplier_is_undone_where_asked() -> None:
    x, lengths_B = states(1, 20), torch.tensor([20])
    found = [
        Projector(
            tiny.editor_shape(
                projector={"states": (1, 2), "undo_multiplier": undo}, editor={"embedding_multiplier": 12.0}
            )
        )
        for undo in (False, True)
    ]
    found[1].load_state_dict(found[0].state_dict())
    one, other = (module(x, lengths_B)[0] for module in found)
    torch.testing.assert_close(one / 12, other)


def test_width_and_heads_are_the_editor_s_unless_given() -> None:
    module = Projector(tiny.editor_shape(projector={"d_model": None, "heads": None}))
    assert module.queries.shape == (3, EDITOR) and module.layers[0].heads == 4
    assert projector().queries.shape == (3, 20) and projector().output.out_features == EDITOR


@pytest.mark.parametrize(
    ("layers", "states", "expected"),
    [
        (16, None, [4, 8, 12, 16]),
        (4, None, [1, 2, 3, 4]),
        (1, None, [1, 1, 1, 1]),
        (4, (0, 4, 2, 2), [0, 4, 2, 2]),
    ],
)
def test_the_layers_read(layers: int, states: tuple[int, ...] | None, expected: list[int]) -> None:
    config = tiny.editor_shape(encoder_layers=layers, projector={"states": states})
    assert layers_read(config, layers) == expected
    assert max(layers_read(config, 1)) == 1  # of which one is active


@pytest.mark.parametrize("last_window", ["mask", "drop"])
def test_every_parameter_learns(last_window: str) -> None:
    module = projector(last_window=last_window, layers=2)
    x = [x_BSD.requires_grad_() for x_BSD in states(2, 18)]
    found, counts_B = module(x, torch.tensor([18, 7]))
    found[0, : counts_B[0]].square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name
    for x_BSD in x:
        assert x_BSD.grad is not None and x_BSD.grad[0, :15].abs().sum(-1).all() and not x_BSD.grad[1].any()
