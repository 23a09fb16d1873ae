"""What a proposal costs: the sampler, the width that fills the budget, and the count, on one core.

    python tests/benchmarks/proposal_cost.py [--proposals 500] [--known 40]

Each proposal is made as a sweep makes it, from the trials before it; beyond `--known` of them, the latest so many.
Counts begin without any model built. Reading a corpus and training its tokenizers is no part of it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import torch

from asr_platform.study.samplers import Observation, propose
from search_spaces import counting
from search_spaces.budget import complete
from search_spaces.reader import SHIPPED, parse_space
from search_spaces.space import Proposal, Space
from trainables.config.tree import Config, Tokenizer
from trainables.data.text.tokenizer import Vocabulary
from trainables.errors import InputError

NUM_FEATS = 80
CHARACTERS = Vocabulary(33, 28)
WIDTH = "model.d_model: {choice: [256, 320, 384]}"
FEED_FORWARD = "model.feed_forward: {fit: [512, 4096]}"


def spaces() -> dict[str, Space]:
    """hw4p2 as it ships, with the other width fitted, and with none."""
    text = (SHIPPED / "hw4p2.yaml").read_text(encoding="utf-8")
    ranged = text.replace(FEED_FORWARD, "model.feed_forward: {int: [1024, 2048], step: 256}")
    texts = {
        "hw4p2": text,
        "hw4p2, model.d_model: fit": ranged.replace(WIDTH, "model.d_model: fit"),
        "hw4p2, nothing fitted": ranged,
    }
    assert len(set(texts.values())) == len(texts), "hw4p2.yaml has changed: correct the lines replaced here"
    return {name: parse_space(text, "hw4p2.yaml") for name, text in texts.items()}


def measure(space: Space, proposals: int, known: int) -> tuple[list[float], list[Proposal], int]:
    """Processor seconds of each proposal, what became of them, and how many were tried for these."""
    tried = 0

    def feasible(values: dict[str, object]) -> Proposal | None:
        nonlocal tried
        tried += 1
        try:
            return complete(space, values, vocabulary_of, NUM_FEATS)
        except InputError:
            return None

    counting._shallow_counts.cache_clear()
    draw = random.Random(0)
    trials: list[Observation] = []
    seconds, found = [], []
    for _ in range(proposals):
        began = time.process_time()
        suggestion, proposal = propose(space, trials[-known:], feasible)
        seconds.append(time.process_time() - began)
        found.append(proposal)
        cer = draw.random()
        trials.append(Observation(suggestion.params, "complete", 1, cer, {"val_cer": cer}))
    return seconds, found, tried


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    return CHARACTERS._replace(tokens=tokenizer.vocab_size or CHARACTERS.tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proposals", type=int, default=500)
    parser.add_argument("--known", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    counting.count_parameters(Config(), CHARACTERS, NUM_FEATS)  # imports what the meta device needs
    for name, space in spaces().items():
        seconds, found, tried = measure(space, arguments.proposals, arguments.known)
        filled = [proposal.parameters / space.settings.budget for proposal in found]
        print(
            f"{name}: {1000 * statistics.mean(seconds):.1f} ms a proposal on average "
            f"(median {1000 * statistics.median(seconds):.1f}, longest {1000 * max(seconds):.0f}); "
            f"{len(found)} of {tried} tried are feasible, {min(filled):.1%} to {max(filled):.1%} of the budget"
        )


if __name__ == "__main__":
    main()
