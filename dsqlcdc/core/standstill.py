"""The alarm of a sink that stands still: how much of the stream's retention has gone by over its oldest owed change."""

from __future__ import annotations

import logging
from collections.abc import Iterable

log = logging.getLogger("dsqlcdc.standstill")

LEVELS = (0.5, 0.75, 0.9)
"""Parts of the retention at which it is told, each once."""
PATIENCE = 60.0
"""So many seconds without a settled change are no standstill."""


class Standstill:
    """One pipeline's alarm. `used` is the part of the retention that is gone, from 0; `level` the last of LEVELS that was told, 0 for none;
    `left` the seconds until the oldest change owed is lost, None before the first look.

    A sink that is far behind and moves, as after a start from the stream's beginning, is none: `used` tells of it, `level` stays 0.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self.used = self.level = 0.0
        self.left: float | None = None

    def look(self, now: float, oldest: float, owed: Iterable[float], stood: float) -> None:
        """Look again. `owed`: up to when (arrival, seconds) nothing is owed, of each shard that is not done with; `oldest`: no record that
        arrived before it can be read any more; `stood`: seconds for which nothing was settled though something waits, less the age at
        which a batch is written."""
        since = min(owed, default=now)
        self.used = max(0.0, (now - since) / (now - oldest)) if now > oldest else 0.0
        self.left = max(0.0, since - oldest) if now > oldest else None
        reached = max((level for level in LEVELS if self.used >= level), default=0.0)
        if stood <= PATIENCE or not reached:
            if stood <= PATIENCE and self.level:
                log.warning("%s: alarm over, the sink takes changes again", self._where)
                self.level = 0.0
            return
        if reached > self.level:
            self.level = reached
            log.error(
                "%s: alarm, the sink has taken nothing for %.0f s and %.0f %% of the stream's retention are gone: in %.1f h changes are lost",
                self._where, stood, 100 * self.used, (self.left or 0.0) / 3600,
            )  # fmt: skip
