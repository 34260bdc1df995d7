"""What Lambda cannot keep is found before it is deployed, with its place in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsqlcdc.cli.app import invoke
from dsqlcdc.config import lint
from dsqlcdc.contract import Change, Context, Setback, Sink

GOOD = """pipeline: p
source: {stream: orders}
sinks:
  lake: {type: s3, bucket: my-lake}
dead_letters: {type: s3, bucket: my-lake}
fragments: {type: s3, bucket: my-lake}
"""


class Ordered(Sink):
    needs_order = True

    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        return ()


class Worded(Sink):
    async def write(self, changes: Sequence[Change]) -> Sequence[Setback]:
        return ()

    def word(self) -> bytes:
        return b"I was here"


def codes(path: Path, text: str, **more: Any) -> list[tuple[str, int]]:
    path.write_text(text)
    return [(finding.code, finding.line) for finding in lint(path, {}, **more)]


def test_what_is_sound_there_is_sound_here(tmp_path: Path) -> None:
    assert codes(tmp_path / "c.yaml", GOOD, whole=False) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("fragments: {type: s3, bucket: my-lake}", "fragments: {type: memory}", ("E456", 6)),
        ("fragments: {type: s3, bucket: my-lake}\n", "", ("E456", 1)),
        ("dead_letters: {type: s3, bucket: my-lake}", "dead_letters: {path: letters}", ("E457", 5)),
        ("bucket: my-lake}\ndead", "bucket: my-lake, start: latest}\ndead", ("E460", 4)),
        ("bucket: my-lake}\ndead", "bucket: my-lake, order: commit, hold_back: 1m}\ndead", ("E459", 4)),
    ],
)
def test_what_the_daemon_takes_and_lambda_cannot_is_found_where_it_stands(
    tmp_path: Path, old: str, new: str, found: tuple[str, int]
) -> None:
    text = GOOD.replace(old, new)
    assert codes(tmp_path / "c.yaml", text) == [], "the daemon takes it"
    assert codes(tmp_path / "c.yaml", text, whole=False) == [found]


@pytest.mark.parametrize(("kind", "code"), [(Ordered, "E458"), (Worded, "E461")])
def test_a_sink_that_needs_order_or_a_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Sink], code: str
) -> None:
    def factory(options: Mapping[str, Any], context: Context) -> Sink:
        return kind()

    monkeypatch.setattr("dsqlcdc.config.read.sink_factory", lambda type: factory)
    assert codes(tmp_path / "c.yaml", GOOD) == []
    assert codes(tmp_path / "c.yaml", GOOD, whole=False) == [(code, 4)]


def test_the_command_finds_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(GOOD.replace("fragments: {type: s3, bucket: my-lake}", "fragments: {type: memory}"))
    assert invoke(["config", "lint", str(path)]) == 0
    assert invoke(["config", "lint", "--lambda", str(path)]) == 2
    assert "DSQLCDC-E456" in capsys.readouterr().out
