"""What happens in one schedule, drawn from its seed: the sweep, its trials' fates, and each driver's end."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from crashes import Fault, Kind

Store = Literal["memory", "sqlite", "mlflow"]
SPACE = """
base:
  model: {{d_model: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, feed_forward: 48, conv_channels: 16}}
  training: {{update_seconds: 4.0}}
vary:
  model.dropout: {{float: [0, 0.2]}}
start: [{{model.dropout: 0.0}}, {{model.dropout: 0.05}}, {{model.dropout: 0.1}}, {{model.dropout: 0.15}}]
epochs: {epochs}
asha: {{grace: {grace}, reduction: 2, plateau: {plateau}{promotion}}}
keep: {keep}
"""
WRITES: dict[Store, int] = {"memory": 150, "sqlite": 150, "mlflow": 300}  # of a driver, about
MOST_FAULTS = 4
HOUR = 3600.0


@dataclass(frozen=True)
class Shape:
    """What the space of a schedule's sweep says."""

    epochs: int
    grace: int
    plateau: float | None
    promotion: int | None
    keep: int

    @property
    def space(self) -> str:
        """In YAML."""
        return SPACE.format(
            epochs=self.epochs,
            grace=self.grace,
            plateau="null" if self.plateau is None else self.plateau,
            promotion="" if self.promotion is None else f", promotion: {self.promotion}",
            keep=self.keep,
        )


SHAPES = [
    Shape(2, 1, None, None, 1),
    Shape(3, 1, None, None, 2),
    Shape(4, 2, 0.6, None, 1),
    Shape(4, 2, None, 1, 2),
    Shape(3, 2, None, 1, 1),
]


@dataclass(frozen=True)
class End:
    """How a driver ends, if not by itself.

    Args:
        fault: at one of its writes.
        interrupt: the step of the event loop at which a signal comes.
    """

    fault: Fault | None = None
    interrupt: int | None = None

    def __str__(self) -> str:
        return str(self.fault or f"interrupted at step {self.interrupt}")


@dataclass(frozen=True)
class Schedule:
    """One schedule.

    Args:
        trials: so many are asked for.
        diverging: the epoch at which a trial diverges, by its number.
        ends: of the drivers, one after the other; the last driver lives to the sweep's end.
        hours: of virtual time, a cap that is taken away once it has been reached; None: there is none.
        steering: how likely another process asks for something at each step of the event loop.
    """

    seed: int
    store: Store
    shape: Shape
    trials: int
    concurrency: int
    diverging: dict[int, int]
    ends: tuple[End, ...]
    hours: float | None
    steering: float

    @classmethod
    def of(cls, seed: int, store: Store) -> Schedule:
        random = Random(seed)
        shape, trials = random.choice(SHAPES), random.randint(2, 4)
        ends = tuple(_end(random, store) for _ in range(random.randint(1, MOST_FAULTS)))
        return cls(
            seed=seed,
            store=store,
            shape=shape,
            trials=trials,
            concurrency=random.randint(1, 3),
            diverging={number: random.randint(1, shape.epochs) for number in range(trials) if random.random() < 0.15},
            ends=ends,
            hours=random.uniform(0.01, 0.1) if random.random() < 0.15 else None,
            steering=random.choice([0.0, 0.05, 0.2]),
        )

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}, ledger in {self.store}: {self.trials} trials, {self.concurrency} at once, {self.shape}",
            *(f"  trial {number} diverges in epoch {epoch}" for number, epoch in self.diverging.items()),
            *(f"  driver {number}: {end}" for number, end in enumerate(self.ends)),
        ]
        lines += [f"  {self.hours:.2f} hours at most"] if self.hours else []
        return "\n".join([*lines, f"  a request in {self.steering:.0%} of the steps"])


def _end(random: Random, store: Store) -> End:
    faults: list[Kind] = ["before", "after", "before", "after", "full", *(["away"] if store == "mlflow" else [])]
    kind = random.choice([*faults, None])
    if kind is None:
        return End(interrupt=random.randint(1, 30))
    return End(Fault(kind, random.randrange(WRITES[store])))
