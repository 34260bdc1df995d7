"""Routes: which changes a sink takes; every one is on exactly one side."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.contract import Change, Op, Table
from dsqlcdc.core.route import Route, Router


def change(table: str = "app.t", op: Op = Op.INSERT, number: int = 0) -> Change:
    schema, _, name = table.partition(".")
    return Change(number.to_bytes(16), op, Table("c", schema, name), None, number, "", msgspec.Raw(b"{}"), None, b"", "a", "1", 0.0)


@pytest.mark.parametrize(
    ("words", "ops"),
    [
        ((), set(Op)),
        (("insert",), {Op.INSERT, Op.UPSERT}),
        (("update",), {Op.UPDATE, Op.UPSERT}),
        (("delete",), {Op.DELETE}),
        (("upsert",), {Op.UPSERT}),
        (("snapshot",), {Op.SNAPSHOT}),
        (("insert", "delete"), {Op.INSERT, Op.UPSERT, Op.DELETE}),
    ],
)
def test_words_name_operations_and_an_unknown_code_goes_with_inserts_and_updates(words: tuple[str, ...], ops: set[Op]) -> None:
    assert Route(ops=words).operations() == ops


def test_tables_are_taken_by_glob_and_case_counts() -> None:
    route = Route(tables=("app.*", "public.orders"))
    names = ("app.x", "public.orders", "App.x", "public.order")
    taken = [name for name in names if route.takes_table(change(name).table)]
    assert taken == ["app.x", "public.orders"]


@given(
    st.lists(st.tuples(st.sampled_from(["app.a", "app.b", "x.a"]), st.sampled_from(list(Op)))),
    st.sampled_from([(), ("app.*",), ("*.a",), ("none",)]),
    st.sampled_from([(), ("insert",), ("delete", "update")]),
)
def test_every_change_is_on_one_side_with_its_debt_and_order_is_kept(
    items: list[tuple[str, Op]], tables: tuple[str, ...], ops: tuple[str, ...]
) -> None:
    changes = [change(table, op, n) for n, (table, op) in enumerate(items)]
    route = Route(tables=tables, ops=ops)
    router = Router(route)
    kept, owed, elsewhere = router.by_table(changes, list(range(len(changes))))
    assert owed == [c.version for c in kept] == [c.version for c in changes if route.takes_table(c.table)]
    assert sorted(owed + elsewhere) == list(range(len(changes)))
    going, debts, others = router.by_op(kept, owed)
    assert debts == [c.version for c in going] == [c.version for c in kept if c.op in route.operations()]
    assert all(c.version == debt and c.op not in route.operations() for c, debt in others)
    assert sorted(debts + [debt for _, debt in others]) == owed
