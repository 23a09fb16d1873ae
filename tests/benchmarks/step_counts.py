"""What training asks of a GPU, counted on a CPU: kernels, uploads, waits, graphs, shapes, padding, decoding steps.

    python tests/benchmarks/step_counts.py --space hw4p2 --json

A pass is the gathering of a batch, the forward and the backward pass. It is run on a small corpus of LibriSpeech's
lengths, in bf16, with a narrow model of as many layers. Every operation below autograd is seen: each one that is no
view is a kernel of a GPU, dropout is one as it is there, and where a CPU goes another way, the GPU's is taken. Shapes,
padding and decoding steps are those of generated lengths of train-clean-100 and dev-clean. What a kernel does inside,
such as CTC's own copies of lengths, is not seen.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import torch
from librispeech_lengths import DEV_CLEAN, FRAMES_PER_SECOND, TRAIN_CLEAN_100, Lengths
from noise_corpus import noise_corpus
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from search_spaces.reader import load_space
from trainables.config.tree import PASS_SECONDS, Config
from trainables.data.augmentation import drawn_lengths, draws, possible_lengths
from trainables.data.batch_plan import BatchPlan, batches_per_update, placed
from trainables.data.corpus import Corpus
from trainables.masking import on_cpu
from trainables.models.kernels import dropout
from trainables.training.loop import Trainer
from trainables.training.tasks.recognition import VALIDATION_SECONDS

NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_consecutive"}
UPLOADS = ("tensor", "as_tensor", "from_numpy")
NARROW = {"d_model": 32, "heads": 2, "feed_forward": 64, "conv_channels": 16}  # as many kernels, in less time


class Kernels(TorchDispatchMode):
    """Counts operations that launch a kernel on a GPU (`launches`), and those for which a CPU waits (`waits`)."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        boolean = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITS or boolean:
            self.waits[name] += 1
        elif not func.is_view and name not in NO_KERNEL:
            self.launches[name] += 1
        return func(*args, **(kwargs or {}))


class Uploads(TorchFunctionMode):
    """Counts tensors that are made of numbers of the CPU, and lists that are made of tensors (`waits`)."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self.makers = {name: getattr(torch, name) for name in UPLOADS}  # a mode does not see all of them
        for name, maker in self.makers.items():
            setattr(torch, name, functools.partial(self._make, name, maker))
        super().__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        for name, maker in self.makers.items():
            setattr(torch, name, maker)

    def _make(self, name: str, maker: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        self.uploads[name] += 1
        return maker(*args, **kwargs)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu):
            self.waits[func.__name__] += 1
        if func is torch.nn.functional.ctc_loss:  # reads lengths that lie on the device
            self.waits["ctc_loss"] += sum(isinstance(lengths, torch.Tensor) for lengths in args[2:4])
        if func is torch.nn.functional.dropout:  # on a CPU it is several operations
            x, p, training = (*args, *(kwargs or {}).values(), 0.5, True)[:3]
            return torch.native_dropout(x, p, True)[0] if training and p else x
        return func(*args, **(kwargs or {}))


@contextmanager
def gpu_ways() -> Iterator[None]:
    """Context in which code that goes another way on a CPU goes that of a GPU."""
    with ExitStack() as stack:
        for module in (dropout, draws):
            stack.enter_context(patch.object(module, on_cpu.__name__, lambda device: False))
        yield


def pass_counts(trainer: Trainer) -> dict[str, Any]:
    """Kernels, uploads and waits of one pass, after a first one that makes what stays."""
    epoch = 1
    trainer.enter(trainer.phases[epoch - 1])
    trainer.model.train()
    trainer.task.start_epoch(epoch, [])
    sums = torch.zeros(len(trainer.task.SUMS), dtype=torch.float64)
    update = next(iter(trainer.updates_of(epoch)))[:1]
    trainer.accumulate_gradients(update, trainer.config.loss, sums)
    with gpu_ways(), Uploads() as uploads, Kernels() as kernels:
        trainer.accumulate_gradients(update, trainer.config.loss, sums)
    return {
        "launches": kernels.launches.total(),
        "uploads": uploads.uploads.total(),
        "waits": kernels.waits.total() + uploads.waits.total(),
        "kernels": dict(kernels.launches.most_common()),
    }


def compiled_counts(trainer: Trainer, passes: int = 3) -> dict[str, Any]:
    """Graphs and graph breaks of compiled layers in passes of different shapes."""
    from torch._dynamo.testing import CompileCounterWithBackend
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    graphs = CompileCounterWithBackend("eager")  # they are traced, and run as they are
    trainer.compile(graphs)
    sums = torch.zeros(len(trainer.task.SUMS), dtype=torch.float64)
    for update in itertools.islice(trainer.updates_of(1), passes):
        trainer.accumulate_gradients(update, trainer.config.loss, sums)
    return {"graphs": graphs.frame_count, "breaks": sum(counters["graph_break"].values())}


def plan_counts(config: Config, lengths: Lengths) -> dict[str, Any]:
    """Different shapes (B, T, U) of an epoch's updates, each in one pass, and the share of padding in their frames."""
    speed = config.data.speed_perturbation
    expected = possible_lengths(lengths.frames, speed)
    budget = config.training.update_seconds * FRAMES_PER_SECOND
    batches = batches_per_update(lengths.frames, budget, PASS_SECONDS * FRAMES_PER_SECOND)
    plan = BatchPlan(lengths.frames, budget / batches, expected=expected)
    plan = plan.at(drawn_lengths(lengths.frames, speed, (0, 1)))
    batches = placed(plan.epoch(1), lengths.tokens + 1, rank=0, world=1, device=torch.device("cpu"))
    shapes = {(len(batch.indices), batch.edge, batch.tokens) for batch in batches}
    return {"passes": len(batches), "shapes": len(shapes), "padded_share": plan.padding_share()}


def decode_steps(lengths: Lengths) -> int:
    """Decoding steps of a validation whose hypotheses are as long as the references."""
    plan = BatchPlan(lengths.frames, VALIDATION_SECONDS[True] * FRAMES_PER_SECOND)
    return sum(int(lengths.tokens[rows].max()) + 1 for rows, _ in plan.epoch())


def counts(config: Config, corpus: Corpus, scale: float = 1.0) -> dict[str, Any]:
    """All counts; `scale` is the share of LibriSpeech's utterances whose lengths are planned."""
    small = {"precision": "bf16", "update_seconds": 30.0, "pass_seconds": 30.0, "epochs": 1}
    tree = config.model_dump()
    tree["model"] |= NARROW
    tree["training"] |= small
    trainer = Trainer(Config.model_validate(tree), corpus, torch.device("cpu"))
    return {
        **pass_counts(trainer),
        **compiled_counts(trainer),
        **plan_counts(config, TRAIN_CLEAN_100.lengths(scale)),
        "decode_steps": decode_steps(DEV_CLEAN.lengths(scale)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="hw4p2", help="the search space whose base is counted")
    parser.add_argument("--hours", type=float, default=0.2, help="hours of the corpus on which the pass is run")
    parser.add_argument("--scale", type=float, default=1.0, help="share of LibriSpeech's utterances to plan")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = noise_corpus(Path(folder) / "noise", options.hours)
        found = counts(load_space(options.space).config({}), corpus, options.scale)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        if name != "kernels":
            print(f"{name:>14}  {value:.1%}" if isinstance(value, float) else f"{name:>14}  {value:,}")
    for name, count in found["kernels"].items():
        print(f"{count:>14,}  {name}")


if __name__ == "__main__":
    main()
