"""Granite Speech NAR of any small shape, from transformers' conformer blocks and Granite layers, without our code.

transformers has no `GraniteSpeechNarForCTC` yet; its parts are there but for the projector and the pooling, which
are written out here by their formulas. `record` makes a folder like the one with the original's recorded results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

CONFIG: dict[str, Any] = {
    "encoder_config": {
        "num_layers": 2,
        "hidden_dim": 16,
        "num_heads": 2,
        "dim_head": 8,
        "input_dim": 10,
        "output_dim": 7,
        "context_size": 12,
        "max_pos_emb": 16,
        "self_conditioning_layer": 1,
        "bpe_output_dim": 19,
        "bpe_pooling_window": 4,
        "conv_kernel_size": 5,
        "conv_expansion_factor": 2,
        "feedforward_mult": 2,
    },
    "projector_config": {
        "downsample_rate": 5,
        "hidden_size": 16,
        "num_heads": 2,
        "num_layers": 1,
        "block_size": 15,
        "mlp_ratio": 2,
        "layernorm_eps": 1e-6,
        "attn_bias": True,
        "mlp_bias": True,
    },
    "text_config": {
        "vocab_size": 19,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "embedding_multiplier": 1.0,
        "attention_multiplier": 0.5,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "hidden_act": "silu",
    },
    "encoder_layer_indices": [1, -1],
    "scale_projected_embeddings": False,
    "blank_token_id": 2,
    "min_edit_sequence_length": 8,
    "ce_loss_lambda": 0.02,
    "encoder_ctc_loss_lambda": 0.3,
}


def config(leaves: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`CONFIG` with the leaves given, such as `{"encoder_config.num_layers": 3}`, in place of its own."""
    tree = deepcopy(CONFIG)
    for key, value in (leaves or {}).items():
        section, _, name = key.rpartition(".")
        (tree[section] if section else tree)[name] = value
    return tree


class Encoder(nn.Module):
    """The conformer with both heads, and pooling by the first one's blank."""

    def __init__(self, shape: Mapping[str, Any]) -> None:
        super().__init__()
        speech = pytest.importorskip("transformers.models.granite_speech.modeling_granite_speech")
        self.shape = SimpleNamespace(**shape, dropout=0.0)
        self.input_linear = nn.Linear(self.shape.input_dim, self.shape.hidden_dim)
        self.layers = nn.ModuleList(
            speech.GraniteSpeechConformerBlock(self.shape) for _ in range(self.shape.num_layers)
        )
        self.out = nn.Linear(self.shape.hidden_dim, self.shape.output_dim)
        self.out_mid = nn.Linear(self.shape.output_dim, self.shape.hidden_dim)
        self.out_bpe = nn.Linear(self.shape.hidden_dim, self.shape.bpe_output_dim)

    def forward(self, features_TF: Tensor) -> tuple[list[Tensor], Tensor]:
        """States (T, D) before and after each block, and logits (P, V) of the draft."""
        place_S, window = torch.arange(self.shape.context_size), self.shape.bpe_pooling_window
        middle = self.shape.self_conditioning_layer or self.shape.num_layers // 2
        distances = (place_S[:, None] - place_S) + self.shape.max_pos_emb
        x = self.input_linear(features_TF[None])
        states, weight_T = [x[0]], torch.zeros(0)
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x, distances)
            if number == middle:
                probabilities = self.out(x).softmax(-1)
                x, weight_T = x + self.out_mid(probabilities), 1 - probabilities[0, :, 0]
            states.append(x[0])
        windows = zip(x[0].split(window), weight_T[:, None].split(window), strict=True)
        pooled = [(state * weight).sum(0) / (weight.sum() + 1e-8) for state, weight in windows]
        return states, self.out_bpe(torch.stack(pooled))


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(width, width, bias))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        found = []
        query, key, value = self.q_proj(queries), self.k_proj(keys), self.v_proj(keys)
        for q, k, v in zip(*(x.chunk(self.heads, -1) for x in (query, key, value)), strict=True):
            found.append((q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v)
        joined: Tensor = self.o_proj(torch.cat(found, -1))
        return joined


class ProjectorLayer(nn.Module):
    def __init__(self, shape: Mapping[str, Any]) -> None:
        super().__init__()
        width, inner = shape["hidden_size"], int(shape["hidden_size"] * shape["mlp_ratio"])
        self.attn_norm = nn.LayerNorm(width, eps=shape["layernorm_eps"])
        self.cross_attention = CrossAttention(width, shape["num_heads"], shape["attn_bias"])
        self.mlp_norm = nn.LayerNorm(width, eps=shape["layernorm_eps"])
        bias = shape["mlp_bias"]
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner, bias), "fc2": nn.Linear(inner, width, bias)})

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        x = x + self.cross_attention(self.attn_norm(x), keys)
        return x + self.mlp["fc2"](F.silu(self.mlp["fc1"](self.mlp_norm(x))))


class Projector(nn.Module):
    def __init__(self, shape: Mapping[str, Any], encoder_width: int, layers: int, editor_width: int) -> None:
        super().__init__()
        self.window, self.rate, width = shape["block_size"], shape["downsample_rate"], shape["hidden_size"]
        epsilon = shape["layernorm_eps"]
        self.layer_norms = nn.ModuleList(nn.LayerNorm(encoder_width, eps=epsilon) for _ in range(layers))
        self.layer_projector = nn.Linear(layers * encoder_width, width)
        self.query = nn.Parameter(torch.randn(1, self.window // self.rate, width))
        self.window_positions = nn.Parameter(torch.randn(1, self.window, width))
        blocks = nn.ModuleList(ProjectorLayer(shape) for _ in range(shape["num_layers"]))
        self.qformer = nn.ModuleDict({"layers": blocks})
        self.out_norm = nn.LayerNorm(width, eps=epsilon)
        self.out_linear = nn.Linear(width, editor_width)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """States (T, D) of each layer read -> audio positions of whole windows, window by window."""
        normed = [norm(x) for norm, x in zip(self.layer_norms, states, strict=True)]
        x = F.gelu(self.layer_projector(torch.cat(normed, -1)))
        found = []
        for window in F.pad(x, (0, 0, 0, -len(x) % self.window)).split(self.window):
            y = self.query[0] + torch.stack([segment.mean(0) for segment in window.split(self.rate)])
            for layer in self.qformer["layers"]:
                y = layer(y, window + self.window_positions[0])
            found.append(self.out_linear(self.out_norm(y)))
        return torch.cat(found)


class Original(nn.Module):
    """The whole network, with the original's parameter names, for one utterance at a time."""

    def __init__(self, theirs: Mapping[str, Any]) -> None:
        super().__init__()
        granite = pytest.importorskip("transformers.models.granite.modeling_granite")
        text = granite.GraniteConfig(**theirs["text_config"], attn_implementation="eager")
        self.theirs, width = theirs, theirs["encoder_config"]["hidden_dim"]
        self.model = nn.Module()
        self.model.encoder = Encoder(theirs["encoder_config"])
        layers = len(theirs["encoder_layer_indices"])
        self.model.projector = Projector(theirs["projector_config"], width, layers, text.hidden_size)
        self.model.language_model = granite.GraniteModel(text)

    def edit(self, audio: Tensor, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Text positions for token ids, and the logits there."""
        text, blank = self.theirs["text_config"], self.theirs["blank_token_id"]
        positions = [blank]
        for id in ids:
            positions += [id, blank]
        positions += [blank] * (self.theirs["min_edit_sequence_length"] - len(positions))
        editor = self.model.language_model
        inputs = torch.tensor(positions)
        x = torch.cat([audio, editor.embed_tokens(inputs)])[None] * text["embedding_multiplier"]
        turns = editor.rotary_emb(x, torch.arange(x.shape[1])[None])
        for layer in editor.layers:  # eager attention without a mask sees everything
            x = layer(x, position_embeddings=turns)
        logits = F.linear(editor.norm(x)[0, len(audio) :], editor.embed_tokens.weight)
        return inputs, logits / text["logits_scaling"]

    def collapse(self, logits: Tensor) -> list[int]:
        best = logits.argmax(-1).unique_consecutive()
        return best[best != self.theirs["blank_token_id"]].tolist()

    def results(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Results for one utterance, by the names in a folder of recorded ones; adds gradients of the total loss."""
        theirs, blank = self.theirs, self.theirs["blank_token_id"]
        states, draft = self.model.encoder(features)
        audio = self.model.projector([states[number] for number in theirs["encoder_layer_indices"]])
        if theirs["scale_projected_embeddings"]:
            audio = audio / theirs["text_config"]["embedding_multiplier"]
        heard = audio[: len(features) // theirs["projector_config"]["downsample_rate"]]
        tokens = hypothesis = self.collapse(draft)
        inputs, logits = self.edit(heard, hypothesis)
        ctc = [
            F.ctc_loss(x.log_softmax(-1), labels, [len(x)], [len(labels)], blank, reduction="sum", zero_infinity=True)
            / len(x)
            for x in (logits, draft)
        ]
        copying = F.cross_entropy(logits, inputs)
        loss = ctc[0] + theirs["ce_loss_lambda"] * copying + theirs["encoder_ctc_loss_lambda"] * ctc[1]
        loss.backward()
        for _ in range(3):
            tokens = self.collapse(self.edit(heard, tokens)[1])
        found = {
            "encoder_states": torch.stack(states), "encoder_logits": draft, "audio_embeddings": audio,
            "hypothesis": torch.tensor(hypothesis, dtype=torch.long), "text_logits": logits, "loss": loss[None],
            "copy_loss": copying[None], "encoder_loss": ctc[1][None],
            "edited_3": torch.tensor(tokens, dtype=torch.long),
        }  # fmt: skip
        return {name: value.detach().clone() for name, value in found.items()}


def record(folder: Path, theirs: Mapping[str, Any], frames: Sequence[int], silent: bool = False) -> Path:
    """Writes `config.json` and `golden.safetensors` of random weights and utterances of so many frames.

    Args:
        silent: all hypotheses are empty.
    """
    torch.manual_seed(0)
    model = Original(theirs).eval()
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 2)
        elif value.is_floating_point() and value.dim() == 1 and "inv_freq" not in name:
            nn.init.normal_(value, mean=value.mean().item(), std=0.3)
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=0.1)  # larger ones copy
    if silent:
        model.model.encoder.out_bpe.bias.data[theirs["blank_token_id"]] += 100
    golden = {f"state.{name}": value.clone() for name, value in model.state_dict().items()}
    encoder, vocab_size = theirs["encoder_config"], theirs["text_config"]["vocab_size"]
    tokens = torch.tensor([id for id in range(vocab_size) if id != theirs["blank_token_id"]])
    for number, length in enumerate(frames):
        features = torch.randn(length, encoder["input_dim"])
        labels = tokens[torch.randint(len(tokens), (max(0, length // 8),))]
        model.zero_grad()
        golden |= {f"{number}.features": features, f"{number}.labels": labels}
        golden |= {f"{number}.{name}": value for name, value in model.results(features, labels).items()}
        if number == 0:
            found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
            golden |= {f"gradient.{name}": value.clone() for name, value in found.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(theirs), encoding="utf-8")
    save_file({name: value.contiguous() for name, value in golden.items()}, folder / "golden.safetensors")
    return folder
