"""What is sound in a process that sees every shard, and is not where many run side by side and none sees all: Lambda."""

from __future__ import annotations

from collections.abc import Mapping

from dsqlcdc.config.findings import Findings
from dsqlcdc.config.resolved import Config, SinkConfig
from dsqlcdc.contract import Sink


def check_partial(config: Config, sinks: Mapping[str, Sink], findings: Findings) -> None:
    """Report what would lose or repeat. `sinks` by name, as they are made for such a process. `state`, `http` and `source.start` are not
    used there: the trigger keeps the position and says where to begin."""
    if config.fragments.type != "s3":
        findings.at(
            "E456",
            ("fragments", "type"),
            "pieces of oversized rows that other invocations cannot see",
            why=f"a row's pieces come to different invocations, and fragments of type {config.fragments.type!r} stay in one",
            fix="Write fragments: {type: s3, bucket: …}",
        )
    if config.dead_letters.type != "s3":
        findings.at(
            "E457",
            ("dead_letters", "type"),
            "dead letters on a disk that does not last",
            why="a function's files go with its sandbox",
            fix="Write dead_letters: {type: s3, bucket: …}",
        )
    for name, sink in config.sinks.items():
        _sink(sink, sinks.get(name), findings)


def _sink(sink: SinkConfig, made: Sink | None, findings: Findings) -> None:
    at = ("sinks", sink.name)
    if sink.order == "commit":
        why = "changes are released in commit order by how far all shards were read, and an invocation sees a batch of one"
        findings.at("E459", (*at, "order"), "order 'commit' cannot be had in Lambda", why=why, fix="Use unique or latest, or the daemon")
    if sink.start is not None:
        why = "the trigger's starting position is the same for all sinks of the function"
        findings.at("E460", (*at, "start"), "a sink's own start cannot be had in Lambda", why=why, fix="Give it a function of its own")
    if made is None:
        return
    if made.needs_order:
        why = "invocations run side by side, so changes of one row may reach it in any order"
        findings.at("E458", at, f"sink {sink.name!r} needs changes in order", why=why, fix="Run it in the daemon: dsqlcdc run", key=True)
    elif type(made).word is not Sink.word:
        why = "what it wants to be told at start is kept with the checkpoint, and Lambda has none of ours"
        findings.at("E461", at, f"sink {sink.name!r} needs a checkpoint", why=why, fix="Run it in the daemon: dsqlcdc run", key=True)
