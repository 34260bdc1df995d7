"""`${VAR}` and `${VAR:default}` in strings; `$${` stands for `${` itself."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dsqlcdc.config.findings import Findings, nearest
from dsqlcdc.config.tree import Place

_REFERENCE = re.compile(r"\$(\$\{)|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Variables:
    """Puts the environment's values into texts and reports what cannot be. A value is never expanded again."""

    def __init__(self, environ: Mapping[str, str], findings: Findings) -> None:
        self._environ, self._findings = environ, findings

    def expand(self, text: str, place: Place) -> tuple[str, bool]:
        """The text with its variables, and whether there were any. What cannot be expanded stays as it is."""
        if "${" not in text:
            return text, False
        used = False

        def replace(match: re.Match[str]) -> str:
            nonlocal used
            if match[1]:
                return "${"
            used = True
            name, colon, default = match[2].partition(":")
            if not match[3] or not _NAME.fullmatch(name):
                self._malformed(match[0], place, closed=bool(match[3]))
                return match[0]
            if name in self._environ:
                return self._environ[name]
            if colon:
                return default
            self._unset(name, place)
            return match[0]

        return _REFERENCE.sub(replace, text), used

    def _malformed(self, text: str, place: Place, *, closed: bool) -> None:
        why = "a name is letters, digits and _" if closed else "the closing } is missing"
        fix = "Write ${NAME} or ${NAME:default}, or $${ for ${ itself"
        self._findings.place("E008", place, f"a variable is written wrongly: {text[:40]}", why=why, fix=fix)

    def _unset(self, name: str, place: Place) -> None:
        near = nearest(name, list(self._environ))
        fix = f"Set it, or write a default: ${{{name}:default}}" + (f". {near}" if near else "")
        self._findings.place("E007", place, f"the variable {name} is not set", why="its value is needed here", fix=fix)
