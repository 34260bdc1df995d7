"""The little of Painless that an update needs: if and else, comparing, && and ||, assigning to `ctx` from `params`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from dsqlcdc.testing.search_index import Refused

_TOKEN = re.compile(r"\s*(?:(\d+)|'([^']*)'|([A-Za-z_][\w.]*)|(==|!=|>=|<=|&&|\|\||[<>=(){};]))")
_NAMED: Mapping[str, Any] = {"null": None, "true": True, "false": False}


def run(source: str, ctx: dict[str, Any], params: Mapping[str, Any]) -> None:
    """Run a script over `ctx` (`op`, `_source`). Raises Refused for what does not compile (or is not known here), and where it fails."""
    _Run(source, {"ctx": ctx, "params": params}).statements()


class _Run:
    def __init__(self, source: str, names: Mapping[str, Any]) -> None:
        self._names, self._at = names, 0
        self._tokens: list[tuple[str, Any]] = []
        position = 0
        while position < len(source.rstrip()):
            found = _TOKEN.match(source, position)
            if found is None:
                raise _failed("compile error", f"unexpected character [{source[position]}]")
            number, text, path, mark = found.groups()
            token = (
                ("value", int(number)) if number else ("value", text) if text is not None else ("path", path) if path else ("mark", mark)
            )
            self._tokens.append(token)
            position = found.end()

    def statements(self, live: bool = True) -> None:
        while self._at < len(self._tokens) and not self._is("}"):
            self._statement(live)

    def _statement(self, live: bool) -> None:
        if self._is("if", take=True):
            self._expect("(")
            fits = bool(self._either(live))
            self._expect(")")
            self._block(live and fits)
            if self._is("else", take=True):
                if self._is("if"):
                    self._statement(live and not fits)
                else:
                    self._block(live and not fits)
            return
        path = self._next()[1]
        self._expect("=")
        value = self._either(live)
        self._is(";", take=True)
        if live:
            *way, last = str(path).split(".")
            self._walk(way)[last] = value

    def _block(self, live: bool) -> None:
        self._expect("{")
        self.statements(live)
        self._expect("}")

    def _either(self, live: bool) -> Any:
        value = self._both(live)
        while self._is("||", take=True):
            other = self._both(live and not value)
            value = value or other
        return value

    def _both(self, live: bool) -> Any:
        value = self._compared(live)
        while self._is("&&", take=True):
            other = self._compared(live and bool(value))
            value = value and other
        return value

    def _compared(self, live: bool) -> Any:
        left = self._value(live)
        mark = self._tokens[self._at][1] if self._at < len(self._tokens) and self._tokens[self._at][0] == "mark" else ""
        if mark not in ("==", "!=", ">", ">=", "<", "<="):
            return left
        self._at += 1
        right = self._value(live)
        if not live:
            return False
        if mark in ("==", "!="):
            return (left == right) is (mark == "==")
        if left is None or right is None:
            raise _failed("runtime error", "cannot compare null")
        return {">": left > right, ">=": left >= right, "<": left < right, "<=": left <= right}[mark]

    def _value(self, live: bool) -> Any:
        if self._is("(", take=True):
            value = self._either(live)
            self._expect(")")
            return value
        kind, token = self._next()
        if kind == "value":
            return token
        if kind != "path":
            raise _failed("compile error", f"unexpected token [{token}]")
        if token in _NAMED:
            return _NAMED[token]
        *way, last = token.split(".")
        return self._walk(way).get(last) if live else None

    def _walk(self, way: list[str]) -> dict[str, Any]:
        place: Any = self._names
        for name in way:
            place = cast(Mapping[str, Any], place).get(name)
            if not isinstance(place, dict):
                raise _failed("runtime error", f"cannot access a field of [{name}]")
        return cast(dict[str, Any], place)

    def _is(self, token: str, *, take: bool = False) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at] in (("mark", token), ("path", token))
        self._at += found and take
        return found

    def _expect(self, token: str) -> None:
        if not self._is(token, take=True):
            raise _failed("compile error", f"[{token}] is expected")

    def _next(self) -> tuple[str, Any]:
        if self._at >= len(self._tokens):
            raise _failed("compile error", "unexpected end of script")
        self._at += 1
        return self._tokens[self._at - 1]


def _failed(when: str, why: str) -> Refused:
    return Refused(400, "illegal_argument_exception", f"failed to execute script: {when}: {why}")
