"""Records learning curves of small learners that are no recognisers: tables that no search policy was tuned on.

    python tests/benchmarks/record_small_learners.py OUT [--configurations 150] [--epochs 20] [--learners boosting ...]
    python tests/benchmarks/policies.py --table OUT/perceptron.npz [--table ...]

They take minutes on two cores and need no download: the data comes with scikit-learn, the sentences with the package.
They differ in what is learned, in the measure (errors, cross-entropy, squares), in noise, and in schedule: a rate that
falls at the end lets curves cross late, as those of attention decoders do.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

Range = tuple[float, float]
Values = dict[str, float]
VALIDATION_SHARE = 3  # every third example validates
BATCH, STEPS = 64, 32  # of the character models: sequences an update, characters each


class Learner(NamedTuple):
    """A small model and its hyperparameters, of which learning curves are recorded.

    Attributes:
        ranges: lowest and highest value of each hyperparameter, drawn on a logarithmic scale.
        train: yields the validation measure after each epoch, given the values, a seed and the number of epochs.
    """

    ranges: dict[str, Range]
    train: Callable[[Values, int, int], Iterator[float]]


@cache
def split(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Inputs and targets of a data set of scikit-learn: for training, then for validation."""
    from sklearn import datasets

    inputs, targets = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(inputs))
    inputs = (inputs - inputs.mean(axis=0)) / (inputs.std(axis=0) + 1e-6)
    held_out = np.arange(len(inputs)) % VALIDATION_SHARE == 0
    train, validation = order[~held_out], order[held_out]
    return inputs[train], targets[train], inputs[validation], targets[validation]


def perceptron(values: Values, seed: int, epochs: int) -> Iterator[float]:
    """Share of errors of a perceptron on handwritten digits, by stochastic gradient descent with a constant rate."""
    import torch
    from torch import nn

    hidden = int(values["width"])
    layers = [nn.Linear(64, hidden), nn.ReLU(), nn.Dropout(values["dropout"]), nn.Linear(hidden, 10)]
    model, momentum = nn.Sequential(*layers), 1 - values["friction"]
    optimizer = torch.optim.SGD(model.parameters(), values["lr"], momentum, weight_decay=values["weight_decay"])
    rates = [1.0] * epochs
    yield from classify(model, optimizer, rates, int(values["batch"]), seed, lambda images: images, errors=True)


def convolution(values: Values, seed: int, epochs: int) -> Iterator[float]:
    """Cross-entropy of a convolutional network on handwritten digits, whose rate falls to 0 as a cosine does."""
    import torch
    from torch import nn

    channels = int(values["channels"])
    layers = [nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Dropout(values["dropout"]), nn.Linear(16 * channels, 10))
    optimizer = torch.optim.AdamW(model.parameters(), values["lr"], weight_decay=values["weight_decay"])
    rates = [(1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)]
    batch = int(values["batch"])
    yield from classify(model, optimizer, rates, batch, seed, lambda images: images.view(-1, 1, 8, 8), errors=False)


def classify(
    model: nn.Module, optimizer: Optimizer, rates: Sequence[float], batch: int, seed: int,
    shaped: Callable[[Tensor], Tensor], errors: bool,
) -> Iterator[float]:  # fmt: skip
    """Trains a classifier of digits; yields the share of errors, or the cross-entropy, after each epoch.

    Args:
        rates: factors of the learning rate in each epoch.
        shaped: images (B, 64) as the model takes them.
    """
    import torch
    from torch.nn.functional import cross_entropy

    x, y, x_validation, y_validation = (torch.from_numpy(array) for array in split("digits"))
    x, x_validation = shaped(x.float()), shaped(x_validation.float())
    order = torch.Generator().manual_seed(seed)
    peak = optimizer.param_groups[0]["lr"]
    for rate in rates:
        optimizer.param_groups[0]["lr"] = peak * rate
        model.train()
        for indices in torch.randperm(len(x), generator=order).split(batch):
            optimizer.zero_grad()
            cross_entropy(model(x[indices]), y[indices]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            logits = model(x_validation)
        wrong = (logits.argmax(1) != y_validation).double().mean()
        yield float(wrong if errors else cross_entropy(logits, y_validation))


def boosting(values: Values, seed: int, epochs: int) -> Iterator[float]:
    """Mean square of boosted trees that predict the course of a disease; an epoch adds five trees."""
    from sklearn.ensemble import GradientBoostingRegressor

    x, y, x_validation, y_validation = split("diabetes")
    model = GradientBoostingRegressor(
        learning_rate=values["lr"],
        n_estimators=5 * epochs,
        max_depth=int(values["depth"]),
        min_samples_leaf=int(values["leaf"]),
        subsample=values["subsample"],
        random_state=seed,
    )
    model.fit(x, y)
    for number, predicted in enumerate(model.staged_predict(x_validation), start=1):
        if number % 5 == 0:
            yield float(((predicted - y_validation) ** 2).mean() / y.var())


@cache
def sentences(size: int) -> np.ndarray:
    """Characters (size,) of made-up spoken commands, as numbers from 0."""
    from trainables.data.importers.synthetic import sentence

    random, text = np.random.default_rng(0), ""
    while len(text) < size:
        text += sentence(random) + "\n"
    text, letters = text[:size], sorted(set(text))
    return np.array([letters.index(letter) for letter in text])


def characters(values: Values, seed: int, epochs: int) -> Iterator[float]:
    """Cross-entropy of a recurrent model of characters, whose rate rises over a fifth of the epochs and then falls."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self, width: int, dropout: float) -> None:
            super().__init__()
            self.embedding, self.dropout = nn.Embedding(64, width), nn.Dropout(dropout)
            self.recurrent, self.output = nn.GRU(width, width, batch_first=True), nn.Linear(width, 64)

        def forward(self, letters_BU: Tensor) -> Tensor:
            states_BUD, _ = self.recurrent(self.dropout(self.embedding(letters_BU)))
            logits_BUV: Tensor = self.output(self.dropout(states_BUD))
            return logits_BUV

    model = Model(int(values["width"]), values["dropout"])
    optimizer = torch.optim.AdamW(model.parameters(), values["lr"], weight_decay=values["weight_decay"])
    text, held_out = (torch.from_numpy(part) for part in np.split(sentences(60_000), [48_000]))
    shuffled, loss_of = torch.Generator().manual_seed(seed), nn.CrossEntropyLoss()

    def loss(letters: Tensor) -> Tensor:
        found: Tensor = loss_of(model(letters[:, :-1]).flatten(0, 1), letters[:, 1:].flatten())
        return found

    for epoch in range(epochs):
        rate = min((epoch + 1) / (epochs / 5), math.sqrt(epochs / 5 / (epoch + 1)))
        optimizer.param_groups[0]["lr"] = rate * values["lr"]
        model.train()
        windows = text.unfold(0, STEPS + 1, STEPS)
        for indices in torch.randperm(len(windows), generator=shuffled).split(BATCH):
            optimizer.zero_grad()
            loss(windows[indices]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), values["clip"])
            optimizer.step()
        model.eval()
        with torch.no_grad():
            yield float(loss(held_out.unfold(0, STEPS + 1, STEPS)))


DECAY = (1e-6, 1e-1)
LEARNERS = {
    "perceptron": Learner(
        {"lr": (1e-4, 1.0), "friction": (0.01, 1.0), "weight_decay": DECAY, "width": (4, 128), "dropout": (0.01, 0.7),
         "batch": (8, 256)},
        perceptron,
    ),
    "convolution": Learner(
        {"lr": (1e-4, 1e-1), "weight_decay": DECAY, "channels": (2, 24), "dropout": (0.01, 0.7), "batch": (16, 256)},
        convolution,
    ),
    "boosting": Learner(
        {"lr": (3e-3, 0.5), "depth": (1, 8), "leaf": (1, 40), "subsample": (0.2, 1.0)},
        boosting,
    ),
    "characters": Learner(
        {"lr": (1e-4, 1e-1), "weight_decay": DECAY, "width": (8, 96), "dropout": (0.01, 0.7), "clip": (0.05, 10)},
        characters,
    ),
}  # fmt: skip


def record(name: str, number: int, epochs: int) -> tuple[list[float], list[float]]:
    """Values of configuration `number` of a learner, and its curve, which ends in NaNs if it diverges."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(number)
    learner, draws = LEARNERS[name], np.random.default_rng(number)
    values = {key: math.exp(draws.uniform(*np.log(ends))) for key, ends in learner.ranges.items()}
    curve = list(learner.train(values, number, epochs))
    finite = np.minimum.accumulate(np.isfinite(curve))
    return list(values.values()), np.where(finite, curve, math.nan).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder of the tables")
    parser.add_argument("--configurations", type=int, default=150)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    numbers, context = range(options.configurations), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        for name in options.learners:
            size = len(numbers)
            rows = list(pool.map(record, [name] * size, numbers, [options.epochs] * size, chunksize=4))
            values_NK, losses_NE = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
            before_N1 = np.full((size, 1), np.nan)  # the moment before training, which nothing reads
            np.savez_compressed(
                options.out / f"{name}.npz",
                keys=np.array(list(LEARNERS[name].ranges)),
                hyperparameters=values_NK.astype(np.float32),
                validation_loss=np.hstack([before_N1, losses_NE]).astype(np.float32),
            )
            print(f"{name}: {size} configurations, the best {np.nanmin(losses_NE):.4g}", flush=True)


if __name__ == "__main__":
    main()
