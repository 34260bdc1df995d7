"""What the config will know and does not know yet. Such a key is refused as such, never ignored and never called a mistake."""

from __future__ import annotations

from typing import Any

from dsqlcdc.config.findings import Findings
from dsqlcdc.config.tree import Path

_WHY = "this feature is not built yet"


def refuse_unbuilt(data: dict[str, Any], findings: Findings) -> dict[str, Any]:
    """Report every such key and give back the data without it, so that it is not reported again."""
    kept = dict(data)
    if "stream" in kept:
        del kept["stream"]
        _refuse(findings, ("stream",), "the block `stream`", "Remove it, and make the streams with the AWS CLI")
    sinks = kept.get("sinks")
    if isinstance(sinks, dict):
        named: dict[str, Any] = sinks  # pyright: ignore[reportUnknownVariableType]
        kept["sinks"] = {name: _sink(name, sink, findings) for name, sink in named.items()}
    return kept


def _sink(name: str, sink: Any, findings: Findings) -> Any:
    """The sink without what was refused."""
    if not isinstance(sink, dict):
        return sink
    at: Path = ("sinks", name)
    kept: dict[str, Any] = dict(sink)  # pyright: ignore[reportUnknownArgumentType]
    if kept.get("order") == "commit":
        del kept["order"]
        _refuse(findings, (*at, "order"), "order 'commit'", "Use unique or latest", key=False)
    return kept


def _refuse(findings: Findings, path: Path, what: str, fix: str, *, key: bool = True) -> None:
    findings.at("E009", path, f"{what} cannot be used yet", why=_WHY, fix=fix, key=key)
