"""Conversion of weights to and from `GraniteSpeechNarForCTC` of transformers, the original transcript editor.

The networks differ in names and in fused projections; keys of our configuration express the rest. The public
implementation changes an utterance's results with the padding beside it; ours does not, so the two agree on utterances
without padding. Facts were checked on pull request 46031 of transformers, commit 032cc088.

`python -m trainables.models.granite_speech_nar DIR` compares our results with those recorded in DIR: `config.json`
(of the original) and `golden.safetensors` with weights, inputs, outputs and gradients.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainables.config import Loss
from trainables.config_model import Model
from trainables.config_parsing import parse_config
from trainables.errors import InputError
from trainables.models.editing.losses import editor_losses
from trainables.models.editing.slots import TokenRows
from trainables.models.editing.transcript_editor import TranscriptEditor
from trainables.models.layers import FusedLinear

ENCODER, PROJECTOR, EDITOR = "model.encoder.", "model.projector.", "model.language_model."
BLOCK = ENCODER + r"layers.\1."
PARAMETER_NAMES = [  # ours, theirs: one name for each part of a fused projection, or for several parts together
    (r"encoder\.subsampling\.output\.", [ENCODER + "input_linear."]),
    (r"encoder\.layers\.(\d+)\.first_feed_forward_norm\.", [BLOCK + "ff1.pre_norm."]),
    (r"encoder\.layers\.(\d+)\.first_feed_forward\.inner\.", [BLOCK + "ff1.up_proj."]),
    (r"encoder\.layers\.(\d+)\.first_feed_forward\.outer\.", [BLOCK + "ff1.down_proj."]),
    (r"encoder\.layers\.(\d+)\.attention_norm\.", [BLOCK + "attn.pre_norm."]),
    (r"encoder\.layers\.(\d+)\.attention\.qkv\.", [BLOCK + "attn.to_q.", BLOCK + "attn.to_kv."]),
    (r"encoder\.layers\.(\d+)\.attention\.distances\.table\.", [BLOCK + "attn.rel_pos_emb."]),
    (r"encoder\.layers\.(\d+)\.attention\.output\.", [BLOCK + "attn.to_out."]),
    (r"encoder\.layers\.(\d+)\.convolution_norm\.", [BLOCK + "conv.norm."]),
    (r"encoder\.layers\.(\d+)\.convolution\.gated\.", [BLOCK + "conv.up_conv."]),
    (r"encoder\.layers\.(\d+)\.convolution\.depthwise\.", [BLOCK + "conv.depth_conv.conv."]),
    (r"encoder\.layers\.(\d+)\.convolution\.norm\.", [BLOCK + "conv.batch_norm."]),
    (r"encoder\.layers\.(\d+)\.convolution\.output\.", [BLOCK + "conv.down_conv."]),
    (r"encoder\.layers\.(\d+)\.second_feed_forward_norm\.", [BLOCK + "ff2.pre_norm."]),
    (r"encoder\.layers\.(\d+)\.second_feed_forward\.inner\.", [BLOCK + "ff2.up_proj."]),
    (r"encoder\.layers\.(\d+)\.second_feed_forward\.outer\.", [BLOCK + "ff2.down_proj."]),
    (r"encoder\.layers\.(\d+)\.norm\.", [BLOCK + "post_norm."]),
    (r"mid_head\.output\.", [ENCODER + "out."]),
    (r"mid_head\.back\.", [ENCODER + "out_mid."]),
    (r"ctc_head\.", [ENCODER + "out_bpe."]),
    (r"projector\.norms\.(\d+)\.", [PROJECTOR + r"layer_norms.\1."]),
    (r"projector\.input\.", [PROJECTOR + "layer_projector."]),
    (r"projector\.queries$", [PROJECTOR + "query"]),
    (r"projector\.positions$", [PROJECTOR + "window_positions"]),
    (r"projector\.layers\.(\d+)\.attention_norm\.", [PROJECTOR + r"qformer.layers.\1.attn_norm."]),
    (r"projector\.layers\.(\d+)\.query\.", [PROJECTOR + r"qformer.layers.\1.cross_attention.q_proj."]),
    (
        r"projector\.layers\.(\d+)\.key_value\.",
        [PROJECTOR + rf"qformer.layers.\1.cross_attention.{part}_proj." for part in "kv"],
    ),
    (r"projector\.layers\.(\d+)\.output\.", [PROJECTOR + r"qformer.layers.\1.cross_attention.o_proj."]),
    (r"projector\.layers\.(\d+)\.feed_forward_norm\.", [PROJECTOR + r"qformer.layers.\1.mlp_norm."]),
    (r"projector\.layers\.(\d+)\.inner\.", [PROJECTOR + r"qformer.layers.\1.mlp.fc1."]),
    (r"projector\.layers\.(\d+)\.outer\.", [PROJECTOR + r"qformer.layers.\1.mlp.fc2."]),
    (r"projector\.norm\.", [PROJECTOR + "out_norm."]),
    (r"projector\.output\.", [PROJECTOR + "out_linear."]),
    (r"editor\.embedding\.", [EDITOR + "embed_tokens."]),
    (r"editor\.layers\.(\d+)\.self_attention_norm\.", [EDITOR + r"layers.\1.input_layernorm."]),
    (
        r"editor\.layers\.(\d+)\.self_attention\.qkv\.",
        [EDITOR + rf"layers.\1.self_attn.{part}_proj." for part in "qkv"],
    ),
    (r"editor\.layers\.(\d+)\.self_attention\.output\.", [EDITOR + r"layers.\1.self_attn.o_proj."]),
    (r"editor\.layers\.(\d+)\.feed_forward_norm\.", [EDITOR + r"layers.\1.post_attention_layernorm."]),
    (
        r"editor\.layers\.(\d+)\.feed_forward\.inner\.",
        [EDITOR + rf"layers.\1.mlp.{part}_proj." for part in ("gate", "up")],
    ),
    (r"editor\.layers\.(\d+)\.feed_forward\.outer\.", [EDITOR + r"layers.\1.mlp.down_proj."]),
    (r"editor\.norm\.", [EDITOR + "norm."]),
]
TIED = "editor.output.weight"  # shared with the embedding, which is saved alone
EXTRA_AXIS = {  # ours has an axis less: pointwise convolutions, and a batch of one
    "conv.up_conv.weight": -1, "conv.down_conv.weight": -1, "projector.query": 0, "window_positions": 0,
}  # fmt: skip
TOLERANCES = {"gradients": 1e-4}  # the largest difference of a kind of result; of all others TOLERANCE
TOLERANCE = 1e-5
STEPS = 3  # editing steps recorded


def granite_shape(theirs: Mapping[str, Any]) -> Model:
    """Section `model` of a configuration for the network of a `config.json` of Granite Speech NAR.

    Raises:
        InputError: no configuration has this network; or a key is missing.
    """
    try:
        return parse_config({"model": _shape(theirs)}, "Granite Speech NAR").model
    except KeyError as error:
        raise InputError(f"config.json: without {error}", "Give the whole config.json of the model.") from None


def _shape(theirs: Mapping[str, Any]) -> dict[str, Any]:
    encoder, projector, text = (theirs[f"{part}_config"] for part in ("encoder", "projector", "text"))
    middle = encoder.get("self_conditioning_layer") or max(1, encoder["num_layers"] // 2)
    rotary, bias = text["rope_parameters"], bool(text.get("attention_bias"))
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


def granite_model(theirs: Mapping[str, Any]) -> TranscriptEditor:
    """An untrained transcript editor with the network of a `config.json` of Granite Speech NAR.

    Its slots are the original's blank, and no token is suppressed.
    """
    encoder = theirs["encoder_config"]
    vocab_size, characters = theirs["text_config"]["vocab_size"], encoder["output_dim"] - 1
    slot = theirs["blank_token_id"]
    return TranscriptEditor(granite_shape(theirs), vocab_size, characters, encoder["input_dim"], slot, ())


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
    expected = to_granite(model)
    differing = [
        f"{name} is {tuple(theirs[name].shape) if name in theirs else 'missing'} there and {tuple(value.shape)} here"
        for name, value in expected.items()
        if name not in theirs or theirs[name].shape != value.shape
    ]
    differing += [f"{name} has no counterpart here" for name in theirs if name not in expected]
    if differing:
        raise InputError(
            f"weights of another shape: {'; '.join(differing)}",
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
    weights = Loss(copy_weight=theirs["ce_loss_lambda"], draft_weight=theirs["encoder_ctc_loss_lambda"], mid_weight=0)
    found: dict[str, float] = {}
    for number in range(max(1, sum(name.endswith(".features") for name in golden))):
        model.zero_grad()
        ours = results(model, golden[f"{number}.features"], golden[f"{number}.labels"], weights)
        for kind, value in ours.items():
            found[kind] = max(found.get(kind, 0.0), difference(value, golden[f"{number}.{kind}"]))
        if number == 0:
            here, recorded = gradients(model), [name for name in golden if name.startswith("gradient.")]
            found["gradients"] = max((difference(here.get(name[9:]), golden[name]) for name in recorded), default=0.0)
    return found


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
        print(f"{kind:18} {value:.1e}  {'beyond' if value > limits[kind] else 'within'} {limits[kind]:g}")
    return int(any(value > limits[kind] for kind, value in found.items()))


if __name__ == "__main__":
    sys.exit(main())
