"""Conversion of weights to and from NeMo's `TransformerEncoder`, the public frame-stacking encoder.

Its module is `nemo/collections/asr/modules/transformer_encoder.py`. The networks differ only in names, and keys of our
configuration express its arguments. Two of its ways with padding are not ours: frames behind an utterance's end enter
its last stack, which changes nothing where they are 0 and frames have no norm; and the subsampling `stacking` counts
states of the padded batch. So the two agree on utterances of whole stacks, and on all with `feature_stacking`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trainables.config.model import Model
from trainables.config.parsing import parse_config
from trainables.errors import InputError
from trainables.shapes import check_weights

DEFAULTS: dict[str, Any] = {  # of the arguments that shape the network
    "d_model": 512, "n_heads": 8, "n_layers": 17, "feat_out": -1, "subsampling": "feature_stacking",
    "subsampling_factor": 4, "drop_rate": 0.1, "dropout_pre_encoder": None, "dropout_emb": 0.0, "qkv_bias": False,
    "qk_norm": False, "ff_expansion": 4.0, "pre_block_norm": True, "self_attention_model": "rel_pos",
    "rope_base": 10_000.0, "rotary_fraction": 1.0, "xscaling": False, "attn_mode": "full",
}  # fmt: skip
OTHERS = ("_target_", "feat_in", "pos_emb_max_len", "sync_max_audio_length")  # arguments that no key expresses
POSITIONS = {
    "rel_pos": "transformer_xl",
    "abs_pos": "sinusoidal",
    "rope": "rotary",
    "no_pos": "none",
    None: "none",
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "self_attention_model": tuple(POSITIONS),
    "subsampling": ("feature_stacking", "stacking", "stacking_norm"),
    "attn_mode": ("full", "causal"),
    "rotary_fraction": (1.0,),
}
ENCODER = "encoder."  # prefix of ours
LAYER = r"layers\.(\d+)\."
PARAMETER_NAMES = [  # ours behind the prefix, theirs
    (r"subsampling\.frame_norm\.", "pre_encode.pre_norm."),
    (r"embedding_norm\.", "embed_norm."),
    (rf"{LAYER}attention_norm\.", r"layers.\1.norm1."),
    (rf"{LAYER}attention\.qkv\.", r"layers.\1.attn.w_qkv."),
    (rf"{LAYER}attention\.output\.", r"layers.\1.attn.out_proj."),
    (rf"{LAYER}attention\.query_norm\.norm\.", r"layers.\1.attn.q_norm."),
    (rf"{LAYER}attention\.key_norm\.norm\.", r"layers.\1.attn.k_norm."),
    (rf"{LAYER}attention\.distances\.projection\.", r"layers.\1.attn.linear_pos."),
    (rf"{LAYER}attention\.distances\.content_bias", r"layers.\1.attn.pos_bias_u"),
    (rf"{LAYER}attention\.distances\.position_bias", r"layers.\1.attn.pos_bias_v"),
    (rf"{LAYER}feed_forward_norm\.", r"layers.\1.norm2."),
    (rf"{LAYER}feed_forward\.inner\.", r"layers.\1.ffn.net.0."),
    (rf"{LAYER}feed_forward\.outer\.", r"layers.\1.ffn.net.3."),
    (r"norm\.", "final_norm."),
    (r"output\.", "out_proj."),
]


def frame_stacking_shape(arguments: Mapping[str, Any]) -> Model:
    """Section `model` of a configuration with the encoder that NeMo's `TransformerEncoder` builds.

    Args:
        arguments: of `TransformerEncoder`, such as the section `encoder` of a NeMo configuration; those that are left
            out have its defaults.

    Raises:
        InputError: no configuration has this encoder; the message lists all reasons.
    """
    theirs = _completed(arguments)
    positions, factor = POSITIONS[theirs["self_attention_model"]], theirs["subsampling_factor"]
    shape = {
        "d_model": theirs["d_model"],
        "heads": theirs["n_heads"],
        "encoder_layers": theirs["n_layers"],
        "ff_expansion": theirs["ff_expansion"],
        "qkv_bias": theirs["qkv_bias"],
        "qk_norm": "layer" if theirs["qk_norm"] else "none",
        "dropout": theirs["drop_rate"],
        "input_dropout": 0.0 if positions == "none" else theirs["dropout_pre_encoder"],
        "position_dropout": theirs["dropout_emb"],
        "reduction": "stack",
        "reduction_factor": factor,
        "stack_bias": theirs["subsampling"] != "feature_stacking",
        "frame_norm": "layer" if theirs["subsampling"] == "stacking_norm" and factor != 1 else "none",
        "embedding_norm": theirs["pre_block_norm"],
        "norm_positions": theirs["pre_block_norm"],
        "scale_states": theirs["xscaling"] and positions != "none",
        "encoder_positions": positions,
        "rotary_base": theirs["rope_base"],
        "encoder_causal": theirs["attn_mode"] == "causal",
        "encoder_output": None if theirs["feat_out"] in (None, -1, 0) else theirs["feat_out"],
    }
    return parse_config({"model": shape}, "TransformerEncoder").model


def to_frame_stacking(ours: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Converts the encoder's part of the state dict of a `SpeechTransformer` to one for NeMo's `TransformerEncoder`.

    Args:
        arguments: of `TransformerEncoder`.

    Raises:
        InputError: a parameter of the encoder has no counterpart, or there is no such encoder.
    """
    names = [(r"subsampling\.output\.", _stacking_name(_completed(arguments))), *PARAMETER_NAMES]
    theirs: dict[str, Tensor] = {}
    for name, value in ours.items():
        if not name.startswith(ENCODER):
            continue
        own = name.removeprefix(ENCODER)
        found = next((re.sub(pattern, there, own) for pattern, there in names if re.match(pattern, own)), None)
        if found is None:
            raise InputError(
                f"{name}: NeMo's TransformerEncoder has no such parameter",
                "Move an encoder of the section that frame_stacking_shape gives.",
            )
        theirs[found] = value
    return theirs


def from_frame_stacking(
    theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], arguments: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Converts the state dict of NeMo's `TransformerEncoder` to one for a `SpeechTransformer`.

    Args:
        theirs: the state dict to convert.
        ours: the state dict of a model with the section `frame_stacking_shape`, from which all other parts are taken.
        arguments: of `TransformerEncoder`.

    Raises:
        InputError: names or shapes of the two differ, or there is no such encoder.
    """
    check_weights(
        theirs,
        to_frame_stacking(ours, arguments),
        "Make our model with frame_stacking_shape, of the arguments that the weights were made with.",
    )
    state = {}
    for name, value in ours.items():
        there = list(to_frame_stacking({name: value}, arguments))
        state[name] = theirs[there[0]] if there else value
    return state


def _completed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    mistakes = [
        f"unknown argument {name}; the arguments are {', '.join(DEFAULTS)}"
        for name in arguments
        if name not in DEFAULTS and name not in OTHERS
    ]
    theirs = {**DEFAULTS, **{name: value for name, value in arguments.items() if name in DEFAULTS}}
    for name, choices in CHOICES.items():
        if theirs[name] not in choices:
            allowed = " or ".join(map(repr, choices))
            mistakes.append(f"{name}={theirs[name]!r} has no counterpart here, only {allowed}")
    if mistakes:
        raise InputError(f"TransformerEncoder: {'; '.join(mistakes)}", "Only such encoders move over.")
    return theirs


def _stacking_name(theirs: Mapping[str, Any]) -> str:
    """Prefix of their projection of the stacked frames; `stacking` of factor 1 is a bare linear layer."""
    if theirs["subsampling"] == "feature_stacking":
        return "pre_encode.proj."
    return "pre_encode.proj_out." if theirs["subsampling_factor"] != 1 else "pre_encode."
