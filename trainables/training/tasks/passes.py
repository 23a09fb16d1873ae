"""Passes of an update: how many it takes, and which utterances are in each.

What is learnt does not depend on them, except for rounding and for what is drawn or counted in each pass: dropout, the
statistics of a batch norm, and the number of positions by which a transcript editor's loss is divided.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainables.data.batch_plan import BatchPlan, Integers, placed
from trainables.data.device.placement import DeviceMemory
from trainables.output import say
from trainables.training.tasks.task import Task

MEMORY_SHARE = 0.5  # of the free memory; the rest is for gradients of activations, fragments and other trials
PROBED = 2  # utterances in the pass whose tensors are counted
GRADIENTS, AVERAGES = 1, 2  # of the size of the weights: what an update needs beside them, the latter for AdamW


def in_passes(
    batches: Sequence[tuple[Integers, int]], per_update: int, budget: float, world: int
) -> list[list[tuple[Integers, int]]]:  # fmt: skip
    """The passes of each update: as few for each of its batches as possible, whose sizes differ by one at most.

    So the batches of a bucket have one shape if they are not split, and two if they are.

    Args:
        batches: utterances and padded length of each batch of an epoch (`BatchPlan.epoch`).
        per_update: number of successive batches that make an update.
        budget: padded length that a worker's share of a pass may hold; a share of one utterance may be longer.
        world: number of workers that share each pass.
    """
    found = []
    for indices, edge in batches:
        most = max(1, int(budget // edge)) * world
        found.append([(part, edge) for part in np.array_split(indices, math.ceil(len(indices) / most))])
    return [[*chain(*found[start : start + per_update])] for start in range(0, len(found), per_update)]


def fitting_budget(task: Task, plan: BatchPlan, world: int, optimizer: torch.optim.Optimizer) -> float:
    """Padded length that a worker's share of a pass may hold in the GPU's free memory, the same for all workers.

    Args:
        task: a task in an epoch; its model is in the GPU's memory.
        plan: a plan of any epoch.
        optimizer: it has no state before the first update of a run.
    """
    memory = DeviceMemory.of(task.device)
    assert memory is not None, "a CPU's passes have a budget of their own"
    unused = torch.cuda.memory_reserved(task.device) - torch.cuda.memory_allocated(task.device)
    state = (GRADIENTS if optimizer.state else GRADIENTS + AVERAGES) * sum(
        weight.nbytes for weight in task.trained.model.parameters()
    )
    most = MEMORY_SHARE * (memory.left + unused - state) / kept_bytes(task, plan)
    budget = torch.tensor(max(0.0, most), dtype=torch.float64, device=task.device)
    if world > 1:
        dist.all_reduce(budget, dist.ReduceOp.MIN)
    say(f"passes of up to {budget.item():,.0f} padded frames (of a language model, tokens) fit on the GPU")
    return budget.item()


def kept_bytes(task: Task, plan: BatchPlan) -> float:
    """Bytes that a pass keeps for its backward pass, for each padded frame or token.

    They are counted in a forward pass of the longest utterances by a copy of the model: the tensors that autograd
    saves, without the weights. The task's model, its gradients and torch's random generators stay as they are.
    """
    indices, edge = plan.epoch()[0][0][:PROBED], int(plan.edges[-1])
    (batch,) = placed([(indices, edge)], task.target_tokens, 0, 1, task.device)
    devices = [task.device] if task.device.type == "cuda" else []
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    model = copy.deepcopy(task.trained.model).train()  # whose layers are not compiled
    with torch.random.fork_rng(devices), torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        loss = task.losses(model, task.config.loss, batch).loss  # alive until all are counted
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    del loss
    return sum(size for place, size in saved.items() if place not in weights) / (len(indices) * edge)
