"""A finding: one mistake in a config file, with a stable code, its line and column, and a fix.

E002 the file cannot be read            E012 not one of the choices           E023 skew beyond lateness
E003 not UTF-8                          E013 a value of the wrong kind        E024 start latest without a memory
E004 empty, or not a mapping            E014 no such sink type                E025 one path for two stores
E005 not YAML                           E015 two plugins of one name          E026 a table pattern never matches
E006 a key given twice                  E016 a plugin cannot be loaded        E027 two Regions
E007 a variable is not set              E017 options the sink refuses         E028 pieces forgotten before they can come
E008 a variable written wrongly         E018 a row model cannot be used       E029 names that differ only in case
E010 unknown key                        E020 an order that needs a key        E030 pieces that stay behind
E011 missing key                        E021 a sink that needs a key          E038 raw beside masked columns
E043 a file that is not there           E022 two sinks write one place        E039 a mask of a key column
E044 no such Region (warning: none that is known)
E045 remedies that two processes may both apply (warning)
E046 a page for everybody (warning)
E048 hold_back without order commit                                           E049 an order that is not strict enough

Where not every shard is seen (Lambda):
E456 pieces that others cannot see      E458 a sink that needs order          E460 a start of its own
E457 dead letters on a disk that goes   E459 order commit                     E461 a sink that keeps a word
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from dsqlcdc.config.tree import Path, Place, Tree
from dsqlcdc.errors import ConfigError

__all__ = ["UNSET", "Finding", "Findings", "nearest"]

UNSET = "E007"
"""The code of a variable that is not set: not a mistake of the file."""


class Finding(ConfigError):
    """One mistake, or with severity "warning" something to think about that keeps nothing from running. `line` and `column` count from 1; `key`
    is the place in dotted form; `fix` says what to write instead."""

    def __init__(
        self,
        code: str,
        what: str,
        *,
        file: str,
        place: Place,
        key: str = "",
        why: str = "",
        fix: str = "",
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        self.severity = severity
        self.file, self.line, self.column, self.key, self.fix = file, place.line, place.column, key, fix
        super().__init__(what, where=f"{file}:{place.line}:{place.column}", why=why, run=f"dsqlcdc config lint {file}", code=code)

    def __str__(self) -> str:
        return f"{self.told()} Run: {self.run}"

    def told(self) -> str:
        """Without the command that finds it, for that command."""
        text = f"DSQLCDC-{self.code} {self.what}, {self.where}"
        text += f": {self.why.rstrip('.')}." if self.why else "."
        if self.fix:
            text += f" {self.fix.rstrip('.?')}{'?' if self.fix.endswith('?') else '.'}"
        return text

    def as_json(self) -> dict[str, Any]:
        return {
            **super().as_json(),
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "key": self.key,
            "fix": self.fix,
        }


class Findings:
    """Gathers what is wrong with one file. What must not be shown is taken out of every text."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.tree = Tree()
        self._found: list[Finding] = []
        self._remarks: list[Finding] = []
        self._hidden: tuple[str, ...] = ()

    def hide(self, secrets: Iterable[str]) -> None:
        """From now on these texts show as `***`. Those under three characters would mangle the rest, and are not hidden."""
        self._hidden = tuple(sorted({s for s in secrets if len(s) >= 3}, key=len, reverse=True))

    def at(self, code: str, path: Path, what: str, *, why: str = "", fix: str = "", key: bool = False) -> None:
        """A finding at a value, or at its key; where the place is not in the file, at the nearest one above it."""
        place = self.tree.place(path, key=key)
        self.place(code, place, what, why=why, fix=fix, key=".".join(map(str, path)))

    def place(self, code: str, place: Place, what: str, *, why: str = "", fix: str = "", key: str = "") -> None:
        if code >= "E010" and any(f.code in (UNSET, "E008") and (f.line, f.column) == (place.line, place.column) for f in self._found):
            return  # the text of a variable that could not be expanded is no value: one finding is enough
        what, why, fix = self._clean(what), self._clean(why), self._clean(fix)
        self._found.append(Finding(code, what, file=self.file, place=place, key=key, why=why, fix=fix))

    def remark(self, code: str, path: Path, what: str, *, why: str = "", fix: str = "") -> None:
        """A warning at a value: it is told, and keeps nothing from running."""
        what, why, fix = self._clean(what), self._clean(why), self._clean(fix)
        place, key = self.tree.place(path), ".".join(map(str, path))
        self._remarks.append(Finding(code, what, file=self.file, place=place, key=key, why=why, fix=fix, severity="warning"))

    def sorted(self) -> list[Finding]:
        """The mistakes."""
        return sorted(self._found, key=_by_place)

    def remarks(self) -> list[Finding]:
        """The warnings."""
        return sorted(self._remarks, key=_by_place)

    def __bool__(self) -> bool:
        return bool(self._found)

    def _clean(self, text: str) -> str:
        for secret in self._hidden:
            text = text.replace(secret, "***")
        return text


def _by_place(finding: Finding) -> tuple[int, int, str]:
    return finding.line, finding.column, finding.code


def nearest(word: object, words: Sequence[str]) -> str:
    """`Did you mean 'x'?`, or nothing."""
    by_lower = {w.lower(): w for w in words}
    near = get_close_matches(str(word).lower(), list(by_lower), n=1, cutoff=0.6)
    return f"Did you mean {by_lower[near[0]]!r}?" if near else ""
