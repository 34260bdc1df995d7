"""The errors, grouped by who catches them.

Fault                      carries code, what, where, why, run (the next command)
├── ConfigError            hosts: exit 2. Holds every finding
├── Stopped                hosts: exit 1. A source or a sink cannot go on
│   ├── Misconfigured      raised by sinks, stores and sources: every record would fail until somebody mends it
│   ├── Held               another runner has this pipeline and sink
│   └── Poisoned           too many of a sink's verdicts are DEAD
├── Lost                   hosts: exit 3. Records may be lost; a gap has been persisted
└── Unavailable            the retry loops: asked again later; nothing was settled
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Self

_CONFIG = re.compile(r"\bCONFIG\b")


class Fault(Exception):
    """Base of all errors that users see: `DSQLCDC-E012 what, where: why. Run: the next command`."""

    default_code: ClassVar[str] = "E000"

    def __init__(self, what: str, *, where: str = "", why: str = "", run: str = "", code: str = "") -> None:
        self.what, self.where, self.why, self.run = what, where, why, run
        self.code = code or self.default_code
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"DSQLCDC-{self.code} {self.what}"
        if self.where:
            text += f", {self.where}"
        if self.why:
            text += f": {self.why}"
        if not text.endswith("."):
            text += "."
        if self.run:
            text += f" Run: {self.run}"
        return text

    def named(self, config: str) -> Self:
        """This fault, with the file's name where it said CONFIG: whoever raised it did not know the name, whoever shows it does."""
        self.why, self.run = self.name_config(self.why, config), self.name_config(self.run, config)
        self.args = (str(self),)
        return self

    @staticmethod
    def name_config(text: str, config: str) -> str:
        """A text with the config file's name where it says CONFIG; as it is where the name is ""."""
        return _CONFIG.sub(lambda _: config, text) if config else text

    def as_json(self) -> dict[str, str]:
        return {"code": f"DSQLCDC-{self.code}", "what": self.what, "where": self.where, "why": self.why, "run": self.run}


class ConfigError(Fault):
    """The configuration cannot be used. `findings` are all of them, one Fault each (itself where there is but one)."""

    default_code = "E001"

    def __init__(self, what: str, *, where: str = "", why: str = "", run: str = "", code: str = "", findings: Sequence[Fault] = ()) -> None:
        super().__init__(what, where=where, why=why, run=run, code=code)
        self.findings: tuple[Fault, ...] = tuple(findings) or (self,)


class Stopped(Fault):
    """A source or a sink cannot go on. Nothing that is owed was settled."""

    default_code = "E100"


class Misconfigured(Stopped):
    """Every record would fail until somebody mends what `why` names: access denied, no such bucket or stream, wrong key."""

    default_code = "E101"


class Held(Stopped):
    """Another runner has this pipeline and sink; `why` names it."""

    default_code = "E201"


class Poisoned(Stopped):
    """Too many of a sink's verdicts were DEAD: stopped rather than flood the dead letters."""

    default_code = "E301"


class Lost(Fault):
    """Records may be lost: they were trimmed before they were read. A gap has been persisted."""

    default_code = "E110"


class Unavailable(Fault):
    """The other side could not be asked, or its answer was lost. Backpressure: asked again with jitter, never a verdict on a record.

    `after`: seconds to wait at the least, when the other side said so.
    """

    default_code = "E120"

    def __init__(self, what: str, *, where: str = "", why: str = "", run: str = "", code: str = "", after: float | None = None) -> None:
        super().__init__(what, where=where, why=why, run=run, code=code)
        self.after = after
