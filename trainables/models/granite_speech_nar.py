"""Conversion of weights to and from `GraniteSpeechNarForCTC` of transformers, the original transcript editor.

The networks differ in names and in fused projections; keys of our configuration express the rest. The public
implementation changes an utterance's results with the padding beside it; ours does not, so the two agree on utterances
without padding. Facts were checked on pull request 46031 of transformers, commit 032cc088.

`python -m trainables.models.granite_speech_nar DIR` compares our results with those recorded in DIR: `config.json`
(of the original) and `golden.safetensors` with weights, inputs, outputs and gradients.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainables.config.model import Model
from trainables.config.parsing import parse_config
from trainables.config.tree import Loss
from trainables.errors import InputError
from trainables.models.editing.granite_names import PARAMETER_NAMES
from trainables.models.editing.losses import editor_losses
from trainables.models.editing.slots import TokenRows
from trainables.models.editing.transcript_editor import TranscriptEditor
from trainables.models.layers import FusedLinear
from trainables.shapes import check_weights

TIED = "editor.output.weight"  # shared with the embedding, which is saved alone
EXTRA_AXIS = {  # ours has an axis less: pointwise convolutions, and a batch of one
    "conv.up_conv.weight": -1, "conv.down_conv.weight": -1, "projector.query": 0, "window_positions": 0,
}  # fmt: skip
TOLERANCES = {"gradients": 1e-4}  # the largest difference of a kind of result; of all others TOLERANCE
TOLERANCE = 1e-5
STEPS = 3  # editing steps recorded
WHOLE = "Give the whole config.json of the model."


def granite_shape(theirs: Mapping[str, Any]) -> Model:
    """Section `model` of a configuration for the network of a `config.json` of Granite Speech NAR.

    Raises:
        InputError: no configuration has this network; or a key is missing.
    """
    try:
        return parse_config({"model": _shape(theirs)}, "Granite Speech NAR").model
    except KeyError as error:
        raise InputError(f"config.json: without {error}", WHOLE) from None


def _shape(theirs: Mapping[str, Any]) -> dict[str, Any]:
    counts = ("num_layers", "hidden_dim", "feedforward_mult", "input_dim", "output_dim")
    encoder, projector = _section(theirs, "encoder_config", *counts), _section(theirs, "projector_config")
    text = _section(theirs, "text_config", "vocab_size")
    middle = encoder.get("self_conditioning_layer") or max(1, encoder["num_layers"] // 2)
    rotary, bias = _section(text, "rope_parameters"), bool(text.get("attention_bias"))
    for name, value, only in (
        ("hidden_act", text.get("hidden_act", "silu"), "silu"),
        ("rope_parameters.rope_type", rotary.get("rope_type", "default"), "default"),
        ("mlp_bias", bool(text.get("mlp_bias")), bias),
    ):
        if value != only:
            raise InputError(f"text_config.{name}={value}", f"Only networks with {only} move over.")
    layers = [layer % (encoder["num_layers"] + 1) for layer in theirs["encoder_layer_indices"]]
    return {
        "kind": "transcript_editor",
        "d_model": encoder["hidden_dim"],
        "heads": encoder["num_heads"],
        "head_size": encoder["dim_head"],
        "encoder_layers": encoder["num_layers"],
        "feed_forward": encoder["hidden_dim"] * encoder["feedforward_mult"],
        "activation": "silu",
        "qkv_bias": False,
        "encoder_block": "conformer",
        "encoder_positions": "relative_keys",
        "max_distance": encoder["max_pos_emb"],
        "context_size": encoder["context_size"],
        "conv_kernel": encoder["conv_kernel_size"],
        "conv_expansion": encoder["conv_expansion_factor"],
        "reduction": "pool",  # of one frame, which is a projection
        "reduction_factor": 1,
        "mid_head": {"layer": middle},
        "pooling": {"window": encoder["bpe_pooling_window"], "epsilon": 1e-8},
        "projector": {
            "d_model": projector["hidden_size"],
            "heads": projector["num_heads"],
            "layers": projector["num_layers"],
            "window": projector["block_size"],
            "reduction_factor": projector["downsample_rate"],
            "ff_expansion": projector["mlp_ratio"],
            "norm_epsilon": projector["layernorm_eps"],
            "states": layers,
            "qkv_bias": projector["attn_bias"],
            "bias": projector["mlp_bias"],
            "last_window": "drop",
            "undo_multiplier": theirs["scale_projected_embeddings"],
        },
        "editor": {
            "d_model": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "head_size": text.get("head_dim"),
            "kv_heads": text["num_key_value_heads"],
            "layers": text["num_hidden_layers"],
            "feed_forward": text["intermediate_size"],
            "norm_epsilon": text["rms_norm_eps"],
            "scale_embeddings": False,
            "embedding_multiplier": text["embedding_multiplier"],
            "attention_multiplier": text["attention_multiplier"],
            "residual_multiplier": text["residual_multiplier"],
            "logits_scaling": text["logits_scaling"],
            "rotary_base": rotary["rope_theta"],
            "qkv_bias": bias,
            "bias": bias,
        },
        "slots": {"minimum": theirs["min_edit_sequence_length"]},
    }


def _section(tree: Mapping[str, Any], name: str, *counts: str) -> Mapping[str, Any]:
    """A section of a `config.json`, in which the keys `counts` have whole numbers."""
    section = tree[name]
    if not isinstance(section, Mapping):
        raise InputError(f"config.json: {name} is {json.dumps(section)}, not a section with keys", WHOLE)
    if wrong := [f"{name}.{key}={section[key]}" for key in counts if type(section[key]) is not int or section[key] < 1]:
        raise InputError(f"config.json: {', '.join(wrong)}: must be a whole number above 0", WHOLE)
    return section


def granite_model(theirs: Mapping[str, Any]) -> TranscriptEditor:
    """An untrained transcript editor with the network of a `config.json` of Granite Speech NAR.

    Its slots are the original's blank, and no token is suppressed.
    """
    shape, encoder, vocab_size = granite_shape(theirs), theirs["encoder_config"], theirs["text_config"]["vocab_size"]
    slot, characters = theirs["blank_token_id"], encoder["output_dim"] - 1
    return TranscriptEditor(shape, vocab_size, characters, encoder["input_dim"], slot, ())


def to_granite(model: TranscriptEditor) -> dict[str, Tensor]:
    """The state dict of a `GraniteSpeechNarForCTC` with a model's weights.

    Raises:
        InputError: a weight has no counterpart.
    """
    return {
        name: part
        for ours, value in model.state_dict().items()
        if ours != TIED
        for name, part in _parts(model, ours, value).items()
    }


def from_granite(theirs: Mapping[str, Tensor], model: TranscriptEditor) -> None:
    """Copies the state dict of a `GraniteSpeechNarForCTC` into a model that `granite_model` made.

    Raises:
        InputError: names or shapes of the two differ.
    """
    check_weights(
        theirs,
        to_granite(model),
        "Make our model with granite_model, of the configuration that the weights were made with.",
    )
    state = {}
    for ours, value in model.state_dict().items():
        parts = [theirs[name] for name in _parts(model, "editor.embedding.weight" if ours == TIED else ours, value)]
        state[ours] = torch.cat([part.reshape(-1, *value.shape[1:]) for part in parts]).view_as(value)
    model.load_state_dict(state)


def _parts(model: TranscriptEditor, ours: str, value: Tensor) -> dict[str, Tensor]:
    """One of our weights as the original's, by its names there."""
    for pattern, templates in PARAMETER_NAMES:
        if not (match := re.match(pattern, ours)):
            continue
        names = [match.expand(template) + ours[match.end() :] for template in templates]
        module = model.get_submodule(ours.rpartition(".")[0])
        sizes = list(module.widths) if isinstance(module, FusedLinear) else [len(value) if value.dim() else 1]
        if len(names) < len(sizes):  # the last name holds the rest
            sizes = [*sizes[: len(names) - 1], sum(sizes[len(names) - 1 :])]
        parts = value.split(sizes) if value.dim() else [value]
        return {name: _with_axis(name, part) for name, part in zip(names, parts, strict=True)}
    raise InputError(f"{ours}: Granite Speech NAR has no such weight", "Move a model that granite_model made.")


def _with_axis(name: str, value: Tensor) -> Tensor:
    axis = next((axis for end, axis in EXTRA_AXIS.items() if name.endswith(end)), None)
    return value if axis is None else value.unsqueeze(axis)


def compare(folder: Path) -> dict[str, float]:
    """Largest difference between our results and the recorded ones, by kind; 1 where token sequences differ.

    A kind that is recorded, but that we have nothing to compare with, has NaN.

    Args:
        folder: with `config.json` and `golden.safetensors`, as `python -m trainables.models.granite_speech_nar` needs.

    Raises:
        InputError: a file or a result in it is missing, or the weights do not fit the configuration.
    """
    try:
        theirs = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        golden = load_file(folder / "golden.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder}: not readable: {error}", "Give a folder with recorded results.") from None
    try:
        return _differences(theirs, golden)
    except KeyError as error:
        raise InputError(f"{folder}: without {error}", "Give a folder with all recorded results.") from None


def _differences(theirs: Mapping[str, Any], golden: Mapping[str, Tensor]) -> dict[str, float]:
    model = granite_model(theirs).eval()
    from_granite({name[6:]: value for name, value in golden.items() if name.startswith("state.")}, model)
    losses = {
        "copy_weight": theirs["ce_loss_lambda"],
        "draft_weight": theirs["encoder_ctc_loss_lambda"],
        "mid_weight": 0,
    }
    weights, found = parse_config({"loss": losses}, "Granite Speech NAR").loss, dict[str, float]()
    utterances = [name for name in golden if not name.startswith(("state.", "gradient."))]
    for number in range(max(1, sum(name.endswith(".features") for name in utterances))):
        model.zero_grad()
        ours = results(model, golden[f"{number}.features"], golden[f"{number}.labels"], weights)
        for kind, value in ours.items():
            found[kind] = max(found.get(kind, 0.0), difference(value, golden[f"{number}.{kind}"]))
        if number == 0:
            here, recorded = gradients(model), [name for name in golden if name.startswith("gradient.")]
            if not recorded:
                raise KeyError("gradient.*")
            found["gradients"] = max(difference(here.get(name[9:]), golden[name]) for name in recorded)
    others = {name.partition(".")[2] or name for name in utterances} - {"features", "labels", *found}
    return found | dict.fromkeys(sorted(others), float("nan"))


def results(model: TranscriptEditor, features_TF: Tensor, labels_U: Tensor, weights: Loss) -> dict[str, Tensor]:
    """Results for one utterance, by their names in a folder of recorded ones; adds the gradients of the total loss."""
    states: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda _, __, x: states.append(x[0])) for layer in model.encoder.layers]
    hooks.append(model.mid_head.register_forward_hook(lambda _, __, x: states.__setitem__(-1, x[0][0])))
    edited = model(features_TF[None], torch.tensor([len(features_TF)]))
    for hook in hooks:
        hook.remove()
    embedded = model.encoder.embed(features_TF[None], torch.tensor([len(features_TF)]))[0][0]
    draft = edited.draft
    audio_BAD, audio_lengths_B = model.projector(draft.states, draft.lengths_B)
    labels = TokenRows(labels_U[None], torch.tensor([len(labels_U)]))
    nothing = TokenRows(labels_U[None, :1], torch.tensor([0]))
    losses = editor_losses(edited, labels, nothing, model.slot, torch.ones(1))
    total = losses.total(weights)
    total.backward()
    tokens = [model.tokens(draft)]
    for _ in range(STEPS):
        tokens.append(model.step(audio_BAD, audio_lengths_B, tokens[-1]))
    return {
        "encoder_states": torch.stack([embedded, *states]),
        "encoder_logits": draft.logits_BPV[0],
        "hypothesis": torch.tensor(tokens[0].lists()[0]),
        "audio_embeddings": audio_BAD[0],
        "text_logits": edited.logits_NV,
        "loss": total[None],
        "copy_loss": (losses.copying / losses.positions)[None],
        "encoder_loss": (losses.drafting / losses.pooled)[None],
        f"edited_{STEPS}": torch.tensor(tokens[-1].lists()[0]),
    }


def gradients(model: TranscriptEditor) -> dict[str, Tensor]:
    """Gradients by the original's names."""
    return {
        name: part
        for ours, parameter in model.named_parameters()
        if parameter.grad is not None
        for name, part in _parts(model, ours, parameter.grad).items()
    }


def difference(ours: Tensor | None, theirs: Tensor) -> float:
    """Largest absolute difference; infinite between different shapes or beside NaN, 1 between different tokens."""
    if ours is None or ours.shape != theirs.shape:
        return float("inf")
    if not theirs.is_floating_point():
        return float(ours.tolist() != theirs.tolist())
    return float((ours.detach() - theirs).abs().nan_to_num(torch.inf).max()) if ours.numel() else 0.0


def main() -> int:
    """Prints the largest difference of each kind; returns 1 if one is beyond its tolerance."""
    if len(sys.argv) != 2:
        print("usage: python -m trainables.models.granite_speech_nar DIR", file=sys.stderr)
        return 2
    try:
        found = compare(Path(sys.argv[1]))
    except InputError as error:
        print(f"{error.problem}. {error.remedy}", file=sys.stderr)
        return 2
    limits = {kind: TOLERANCES.get(kind, TOLERANCE) for kind in found}
    for kind, value in found.items():
        verdict = f"{value:.1e}  {'beyond' if value > limits[kind] else 'within'} {limits[kind]:g}"
        print(f"{kind:18} {'recorded, but not computed here' if math.isnan(value) else verdict}")
    return int(any(value > limits[kind] for kind, value in found.items()))


if __name__ == "__main__":
    sys.exit(main())
