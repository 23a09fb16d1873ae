"""Acts on the requests of other processes while Ray Tune's event loop runs."""

from __future__ import annotations

import time

from asr_platform.study.feasibility import Feasibility
from asr_platform.study.ledger import Ledger
from asr_platform.study.recorded_space import recorded_limits
from asr_platform.study.run_record import RunRecord
from asr_platform.study.steering.acts import act_on_pending
from asr_platform.study.steering.requests import Request
from asr_platform.tuning.callbacks.meter import Meter

INTERVAL = 2.0  # seconds between looks at the requests


class Steering:
    """Acts on requests in the ledger, and keeps what a run has read at its start up to date."""

    def __init__(self, ledger: Ledger, feasibility: Feasibility, meter: Meter, record: RunRecord) -> None:
        self.ledger, self.feasibility, self.meter, self.record = ledger, feasibility, meter, record
        self.next_look = 0.0

    def act(self) -> list[Request]:
        """Acts on the requests that wait, unless it has looked for them less than INTERVAL ago; returns them."""
        if time.monotonic() < self.next_look:
            return []
        self.next_look = time.monotonic() + INTERVAL
        requests = act_on_pending(self.ledger, self.feasibility)
        if any(request.kind in ("add", "change") for request in requests):
            about = self.ledger.about
            self.meter.limits = recorded_limits(about)
            self.record.ask_for(about["trials"])
        return requests
