"""Routes: which changes a sink takes."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import msgspec

from dsqlcdc.contract import Change, Op, Table

_WORDS = {
    "insert": (Op.INSERT, Op.UPSERT),
    "update": (Op.UPDATE, Op.UPSERT),
    "delete": (Op.DELETE,),
    "upsert": (Op.UPSERT,),
    "snapshot": (Op.SNAPSHOT,),
}


class Route(msgspec.Struct, frozen=True):
    """Tables by glob over `schema.table`, operations by word; empty means all. `insert` and `update` each include `upsert`."""

    tables: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()

    def takes_table(self, table: Table) -> bool:
        return not self.tables or any(fnmatch.fnmatchcase(str(table), glob) for glob in self.tables)

    def operations(self) -> frozenset[Op]:
        """The operations taken. An op code DSQL may add is an upsert: whoever takes inserts or updates takes it."""
        return frozenset(op for word in self.ops for op in _WORDS[word]) if self.ops else frozenset(Op)


class Router:
    """A route with its answers remembered by table: asked once a change."""

    def __init__(self, route: Route) -> None:
        self._route, self._ops = route, route.operations()
        self._all_tables, self._all_ops = not route.tables, self._ops == frozenset(Op)
        self._tables: dict[Table, bool] = {}

    def by_table(self, changes: Sequence[Change], debts: Sequence[int]) -> tuple[Sequence[Change], Sequence[int], list[int]]:
        """Changes of tables this sink takes, their debts, and the debts of the others."""
        if self._all_tables:
            return changes, debts, []
        return _split(changes, debts, [self._takes(change.table) for change in changes])

    def by_op(self, changes: Sequence[Change], debts: Sequence[int]) -> tuple[Sequence[Change], Sequence[int], list[tuple[Change, int]]]:
        """Changes of operations this sink takes, their debts, and the others with theirs."""
        if self._all_ops:
            return changes, debts, []
        ops = self._ops
        others = [(change, debt) for change, debt in zip(changes, debts, strict=True) if change.op not in ops]
        if not others:
            return changes, debts, []
        kept, owed, _ = _split(changes, debts, [change.op in ops for change in changes])
        return kept, owed, others

    def _takes(self, table: Table) -> bool:
        taken = self._tables.get(table)
        if taken is None:
            taken = self._tables[table] = self._route.takes_table(table)
        return taken


def _split(changes: Sequence[Change], debts: Sequence[int], keep: Sequence[bool]) -> tuple[list[Change], list[int], list[int]]:
    return (
        [change for change, kept in zip(changes, keep, strict=True) if kept],
        [debt for debt, kept in zip(debts, keep, strict=True) if kept],
        [debt for debt, kept in zip(debts, keep, strict=True) if not kept],
    )
