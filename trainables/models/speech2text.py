"""Conversion of weights to and from `Speech2TextForConditionalGeneration` of transformers, a reference implementation.

The networks differ only in names: ours fuses the projections to queries, keys and values. Keys of our
configuration express the rest: `first_position` (Speech2Text's is the padding token's id + 1), `sinusoids`,
`scale_states`, `scale_embeddings`, `tied_embeddings`, `activation`. Our CTC head has no counterpart. In Speech2Text,
padding changes an utterance's last states (its second convolution sees the output of the first one for zeros); in ours
it does not, so the two agree on utterances without padding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainables.config.model import Model
from trainables.config.parsing import parse_config
from trainables.errors import InputError
from trainables.models.subsampling import KERNEL
from trainables.shapes import check_weights

LAYER = r"(\w+)\.layers\.(\d+)\."  # encoder or decoder, and the number
PARAMETER_NAMES = [  # ours, theirs, the parts of a fused projection
    (r"encoder\.subsampling\.first\.convolution\.", "model.encoder.conv.conv_layers.0.", [""]),
    (r"encoder\.subsampling\.second\.convolution\.", "model.encoder.conv.conv_layers.1.", [""]),
    (r"decoder\.embedding\.", "model.decoder.embed_tokens.", [""]),
    (r"decoder\.output\.weight", "lm_head.weight", [""]),
    (r"(encoder|decoder)\.norm\.", r"model.\1.layer_norm.", [""]),
    (rf"{LAYER}(?:self_)?attention\.qkv\.", r"model.\1.layers.\2.self_attn.{}_proj.", ["q", "k", "v"]),
    (rf"{LAYER}(?:self_)?attention\.output\.", r"model.\1.layers.\2.self_attn.out_proj.", [""]),
    (rf"{LAYER}(?:self_)?attention_norm\.", r"model.\1.layers.\2.self_attn_layer_norm.", [""]),
    (rf"{LAYER}cross_attention\.query\.", r"model.\1.layers.\2.encoder_attn.q_proj.", [""]),
    (rf"{LAYER}cross_attention\.key_value\.", r"model.\1.layers.\2.encoder_attn.{}_proj.", ["k", "v"]),
    (rf"{LAYER}cross_attention\.output\.", r"model.\1.layers.\2.encoder_attn.out_proj.", [""]),
    (rf"{LAYER}cross_attention_norm\.", r"model.\1.layers.\2.encoder_attn_layer_norm.", [""]),
    (rf"{LAYER}feed_forward\.inner\.", r"model.\1.layers.\2.fc1.", [""]),
    (rf"{LAYER}feed_forward\.outer\.", r"model.\1.layers.\2.fc2.", [""]),
    (rf"{LAYER}feed_forward_norm\.", r"model.\1.layers.\2.final_layer_norm.", [""]),
]
CTC_HEAD = "ctc_head."
SMALLEST_PAD = 1  # with 0, Speech2Text's encoder takes every valid frame for padding
WITHOUT_EFFECT = {
    "attention", "input_dropout", "position_dropout", "conv_kernel", "conv_expansion", "conv_norm", "max_distance",
    "rotary_base",
}  # fmt: skip
"""Keys without an effect on the outputs of a network in which all others are as Speech2Text has them."""
REQUIRED = (  # attributes of a Speech2TextConfig
    "activation_function", "conv_channels", "conv_kernel_sizes", "d_model", "decoder_attention_heads",
    "decoder_ffn_dim", "decoder_layerdrop", "decoder_layers", "dropout", "encoder_attention_heads", "encoder_ffn_dim",
    "encoder_layerdrop", "encoder_layers", "pad_token_id", "scale_embedding", "tie_word_embeddings",
)  # fmt: skip


def speech2text_shape(theirs: Any) -> Model:
    """Section `model` of a configuration for the network of a `Speech2TextConfig`.

    Raises:
        InputError: no configuration has this network; the message lists all reasons.
    """
    missing = [name for name in REQUIRED if getattr(theirs, name, None) is None]
    if missing:
        raise InputError(f"Speech2TextConfig: {', '.join(missing)}: not set", "Give each of them its value.")
    pairs = [
        ("encoder_ffn_dim", "decoder_ffn_dim"),
        ("encoder_attention_heads", "decoder_attention_heads"),
        ("encoder_layerdrop", "decoder_layerdrop"),
    ]
    values = [(one, getattr(theirs, one), other, getattr(theirs, other)) for one, other in pairs]
    mistakes = [f"{one}={a} and {other}={b} differ" for one, a, other, b in values if a != b]
    remedies = ["Only networks with equal halves move over."] if mistakes else []
    if list(theirs.conv_kernel_sizes) != [KERNEL, KERNEL]:
        mistakes.append(f"conv_kernel_sizes={list(theirs.conv_kernel_sizes)} are not two of {KERNEL}")
        remedies.append(f"Only networks with two convolutions of width {KERNEL} move over.")
    if theirs.conv_channels % 2:
        mistakes.append(f"conv_channels={theirs.conv_channels} is odd")
        remedies.append("Only an even number of channels, which gated linear units halve, moves over.")
    if mistakes:
        raise InputError(f"Speech2TextConfig: {'; '.join(mistakes)}", " ".join(remedies))
    shape = {
        "d_model": theirs.d_model,
        "heads": theirs.encoder_attention_heads,
        "encoder_layers": theirs.encoder_layers,
        "decoder_layers": theirs.decoder_layers,
        "feed_forward": theirs.encoder_ffn_dim,
        "activation": theirs.activation_function,
        "reduction": "conv",
        "reduction_factor": 4,
        "conv_channels": theirs.conv_channels // 2,
        "first_position": theirs.pad_token_id + 1,
        "sinusoids": "concatenated",
        "scale_states": theirs.scale_embedding,
        "scale_embeddings": theirs.scale_embedding,
        "tied_embeddings": theirs.tie_word_embeddings,
        "dropout": theirs.dropout,
        "layer_drop": theirs.encoder_layerdrop,
    }
    return parse_config({"model": shape}, "Speech2TextConfig").model


def speech2text_fields(model: Model, tokens: int, bins: int) -> dict[str, Any]:
    """Fields of the `Speech2TextConfig` that is nearest to a network; see `unlike_speech2text`.

    Args:
        tokens: number of tokens of the vocabulary.
        bins: number of mel bins.
    """
    return {
        "vocab_size": tokens,
        "input_feat_per_channel": bins,
        "d_model": model.d_model,
        "encoder_attention_heads": model.heads,
        "decoder_attention_heads": model.heads,
        "encoder_layers": model.encoder_layers,
        "decoder_layers": model.decoder_layers,
        "encoder_ffn_dim": model.inner_width,
        "decoder_ffn_dim": model.inner_width,
        "activation_function": model.activation,
        "conv_channels": 2 * model.conv_channels,
        "conv_kernel_sizes": [KERNEL, KERNEL],
        "pad_token_id": max(model.first_position - 1, SMALLEST_PAD),
        "scale_embedding": model.scale_states,
        "tie_word_embeddings": model.tied_embeddings,
        "dropout": model.dropout,
        "encoder_layerdrop": model.layer_drop,
        "decoder_layerdrop": model.layer_drop,
    }


def unlike_speech2text(model: Model, theirs: Any) -> list[str]:
    """Keys whose values give other outputs than a `Speech2TextConfig`, such as `reduction=stack, not conv`."""
    ours = model.model_copy(update={"feed_forward": model.inner_width, "ff_expansion": None})
    if model.head_size is not None and model.head_size * model.heads == model.d_model:
        ours = ours.model_copy(update={"head_size": None})
    if model.kv_heads == model.heads:
        ours = ours.model_copy(update={"kv_heads": None})
    there = speech2text_shape(theirs).model_dump()
    return [
        f"{key}={value}, not {there[key]}"
        for key, value in ours.model_dump().items()
        if key not in WITHOUT_EFFECT and not isinstance(value, dict) and value != there[key]
    ]


def to_speech2text(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts the state dict of a `SpeechTransformer` to one for `Speech2TextForConditionalGeneration`.

    Raises:
        InputError: a parameter, other than the CTC head's, has no counterpart.
    """
    theirs: dict[str, Tensor] = {}
    for name, value in ours.items():
        if name.startswith(CTC_HEAD):
            continue
        for pattern, template, parts in PARAMETER_NAMES:
            if re.match(pattern, name):
                names = [re.sub(pattern, template.format(part), name) for part in parts]
                theirs.update(zip(names, value.chunk(len(parts)), strict=True))
                break
        else:
            raise InputError(
                f"{name}: Speech2Text has no such parameter",
                "Move a model with reduction=conv, LayerNorm, qkv_bias, without gates, other norms or output_bias.",
            )
    return theirs


def from_speech2text(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts the state dict of a `Speech2TextForConditionalGeneration` to one for a `SpeechTransformer`.

    Args:
        theirs: the state dict to convert.
        ours: the state dict of a model with the section `speech2text_shape`, from which the CTC head is taken.

    Raises:
        InputError: names or shapes of the two differ.
    """
    check_weights(
        theirs,
        to_speech2text(ours),
        "Make our model with speech2text_shape, of the configuration that the weights were made with.",
    )
    state = {}
    for name, value in ours.items():
        there = list(to_speech2text({name: value}))
        state[name] = torch.cat([theirs[part] for part in there]) if there else value
    return state
