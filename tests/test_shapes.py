"""Models on the meta device have the shapes of real models."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from trainables.config.tree import Model
from trainables.data.text.tokenizer import Vocabulary
from trainables.models.speech_transformer import make_model
from trainables.shapes import shapes_only

BUILD = """
import sys
from trainables.config.tree import Model
from trainables.shapes import shapes_only
from trainables.data.text.tokenizer import Vocabulary
from trainables.models.speech_transformer import make_model
with shapes_only():
    make_model(Model(), Vocabulary(30, 25), 80)
print("torch._dynamo" in sys.modules)
"""


def test_the_shapes_are_those_of_the_model() -> None:
    with shapes_only():
        shapes = make_model(Model(), Vocabulary(30, 25), 80)
    assert all(tensor.is_meta for tensor in (*shapes.parameters(), *shapes.buffers()))
    found = {name: tensor.shape for name, tensor in make_model(Model(), Vocabulary(30, 25), 80).state_dict().items()}
    assert {name: tensor.shape for name, tensor in shapes.state_dict().items()} == found


def test_what_is_made_after_it_has_numbers_again() -> None:
    with shapes_only():
        pass
    torch.manual_seed(0)
    assert nn.Linear(4, 4).weight.std() > 0 and not nn.Linear(4, 4).weight.is_meta


def test_torch_does_not_import_its_compiler_for_it() -> None:
    printed = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"
