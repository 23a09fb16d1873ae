"""The end of a run whose machines are about to be taken away, after its trials have saved what they have."""

from __future__ import annotations

import time
from collections.abc import Callable

from asr_platform.tuning.interrupts import Interrupt
from asr_platform.tuning.loop.proposer import Proposer
from asr_platform.tuning.nodes.membership import Nodes
from asr_platform.tuning.nodes.notices import give_notice

DEPARTURE_SECONDS = 90.0  # for checkpoints; deploy/slurm.sh has two minutes for all


class Departure:
    """Follows `Interrupt.leaving`: gives notice to all trials in training, and stops the run when none is left.

    Where workers watch for no notices (`Nodes.noticed`), the run is stopped at once.

    Args:
        say: prints a line for the user.
    """

    def __init__(self, interrupt: Interrupt, proposer: Proposer, nodes: Nodes, say: Callable[[str], None]) -> None:
        self.interrupt, self.proposer, self.nodes, self.say = interrupt, proposer, nodes, say
        self.deadline: float | None = None

    def step(self) -> None:
        """Must be called between two events of Ray Tune's loop."""
        if not self.interrupt.leaving or self.interrupt.requested:
            return
        training = self.proposer.training if self.nodes.noticed else {}
        if self.deadline is None:
            self.deadline = time.monotonic() + DEPARTURE_SECONDS
            self.say(f"notice that the machines will be gone: {len(training)} trials save what they have")
            for run in training:
                give_notice(run)
        if not training or time.monotonic() > self.deadline:
            self.interrupt.stop("stopped")
