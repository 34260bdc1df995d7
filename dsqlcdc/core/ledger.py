"""The ledger: every record read is a debt, settled exactly once; the checkpoint is the frontier before which nothing is owed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from dsqlcdc.contract import Outcome, Progress
from dsqlcdc.core.records import END, Mark, Page, Position

_BITS = 20
_MASK = (1 << _BITS) - 1


class Imbalance(AssertionError):
    """A debt was settled twice, or one that was never entered: a bug, and the run must end before it commits."""


class _Leaf:
    """One page's debts. Flags by index: 1 = settled."""

    __slots__ = ("account", "arrivals", "count", "ended", "flags", "low", "open", "sequences", "tip")

    def __init__(self, account: _Account, page: Page) -> None:
        self.account = account
        self.count = self.open = len(page.records)
        self.flags = bytearray(self.count)
        self.low = 0
        # Not the records themselves: one open debt must not hold a page's megabytes.
        self.sequences = [record.sequence_number for record in page.records]
        self.arrivals = [record.arrived for record in page.records]
        self.tip = 0.0
        self.ended = False


class _Account:
    """One shard's debts, in reading order."""

    def __init__(self, shard: str, mark: Mark) -> None:
        self.shard, self.mark, self.start = shard, mark, str(mark.position)
        self.leaves: deque[tuple[int, _Leaf]] = deque()
        self.first = self.sequence = ""
        self.read = self.settled_count = 0
        self.settled: dict[str, int] = {}
        self.ended = mark.position.kind == "end"


class Ledger:
    """All debts of one run. A debt is an int; a page's debts are consecutive, in record order.

    The law: read == Σ settled by outcome + open, for every shard and in sum. Not thread-safe; lives as long as its run.
    """

    def __init__(self, marks: Mapping[str, Mark] | None = None) -> None:
        self._accounts = {shard: _Account(shard, mark) for shard, mark in (marks or {}).items()}
        self._leaves: dict[int, _Leaf] = {}
        self._next = 0
        self._joined: dict[int, list[tuple[int, Outcome | None]]] = {}

    def enter(self, page: Page) -> int:
        """Enter a page's records as debts; the first one's number. An empty page moves the time up to which its shard owes nothing."""
        account = self._accounts.get(page.shard)
        if account is None:
            account = self._accounts[page.shard] = _Account(page.shard, Mark(Position("trim_horizon")))
        if page.records:
            number, leaf = self._next, _Leaf(account, page)
            if leaf.count > _MASK:
                raise Imbalance(f"a page of {leaf.count} records")
            self._next += 1
            self._leaves[number] = leaf
            account.leaves.append((number, leaf))
            account.read += leaf.count
            account.sequence = leaf.sequences[-1]
            account.first = account.first or leaf.sequences[0]
        else:
            number = 0
        if page.behind == 0 or page.ended:
            tip = page.read_at if page.behind == 0 else 0.0
            if account.leaves:
                last = account.leaves[-1][1]
                last.tip, last.ended = max(last.tip, tip), last.ended or page.ended
            else:
                account.mark = Mark(END if page.ended else account.mark.position, max(account.mark.arrived, tip))
        account.ended = account.ended or page.ended
        return number << _BITS

    def settle(self, debts: Iterable[int], outcome: Outcome) -> None:
        """Settle debts, and with them those that have joined them. Raises Imbalance."""
        if isinstance(debts, range) and debts and debts.step == 1 and self._whole(debts, outcome):
            return
        debts = list(debts)
        leaf, number, count = None, -1, 0
        try:
            for debt in debts:
                if debt >> _BITS != number or leaf is None:
                    if leaf is not None:
                        self._count(number, leaf, count, outcome)
                    number, count = debt >> _BITS, 0
                    leaf = self._leaves[number]
                flags, index = leaf.flags, debt & _MASK
                if flags[index]:
                    raise Imbalance(f"debt {debt} settled twice")
                flags[index] = 1
                count += 1
        except (KeyError, IndexError):
            raise Imbalance(f"a debt of page {number} settled that is not open") from None
        if leaf is not None:
            self._count(number, leaf, count, outcome)
        if self._joined and not self._joined.keys().isdisjoint(debts):
            for debt in debts:
                for follower, own in self._joined.pop(debt, ()):
                    self.settle((follower,), own or outcome)

    def _whole(self, debts: range, outcome: Outcome) -> bool:
        """Settle a stretch of one page at once; False where it takes more than that."""
        number, low, count = debts.start >> _BITS, debts.start & _MASK, len(debts)
        leaf = self._leaves.get(number)
        if leaf is None or low + count > leaf.count or leaf.flags.find(1, low, low + count) >= 0:
            return False
        if self._joined and any(debt in debts for debt in self._joined):
            return False
        leaf.flags[low : low + count] = b"\1" * count
        self._count(number, leaf, count, outcome)
        return True

    def _count(self, number: int, leaf: _Leaf, count: int, outcome: Outcome) -> None:
        leaf.open -= count
        account = leaf.account
        account.settled_count += count
        account.settled[outcome.value] = account.settled.get(outcome.value, 0) + count
        if leaf.open == 0:
            del self._leaves[number]
            # only its last record is asked for now: a page behind an open one must not hold ten thousand names
            leaf.sequences, leaf.arrivals, leaf.flags = leaf.sequences[-1:], leaf.arrivals[-1:], bytearray()

    def join(self, original: int, debt: int, outcome: Outcome | None) -> None:
        """Let a debt share the fate of an open one: settled with it, as `outcome`, or as the original's where None.

        A duplicate settled before its original lets its shard's frontier pass; a crash before the original is delivered then loses the change.
        """
        if not self.is_open(original):
            raise Imbalance(f"debt {debt} joins {original}, which is not open")
        self._joined.setdefault(original, []).append((debt, outcome))

    def is_open(self, debt: int) -> bool:
        leaf = self._leaves.get(debt >> _BITS)
        return leaf is not None and not leaf.flags[debt & _MASK]

    def page_open(self, debt: int) -> bool:
        """Is anything open in the page this debt belongs to?"""
        return debt >> _BITS in self._leaves

    @property
    def pages(self) -> int:
        """How many pages with records were entered: the number of the next one."""
        return self._next

    @staticmethod
    def page_of(debt: int) -> int:
        """The number of the page this debt belongs to."""
        return debt >> _BITS

    def is_page_open(self, page: int) -> bool:
        """Is anything open in the page of this number?"""
        return page in self._leaves

    def frontier(self) -> dict[str, Mark]:
        """Per shard the last place before which nothing is owed. Never moves back."""
        return {shard: self._advance(account) for shard, account in self._accounts.items()}

    def _advance(self, account: _Account) -> Mark:
        leaves, mark = account.leaves, account.mark
        position, arrived = mark.position, mark.arrived
        while leaves and leaves[0][1].open == 0:
            leaf = leaves.popleft()[1]
            position = END if leaf.ended else Position("after", leaf.sequences[-1], leaf.arrivals[-1])
            arrived = max(arrived, leaf.arrivals[-1], leaf.tip)
        if leaves:
            leaf = leaves[0][1]
            low = leaf.flags.find(0, leaf.low)
            if low > leaf.low or (low > 0 and position.sequence != leaf.sequences[low - 1]):
                leaf.low = low
                position = Position("after", leaf.sequences[low - 1], leaf.arrivals[low - 1])
                arrived = max(arrived, leaf.arrivals[low - 1])
        if position is not mark.position or arrived != mark.arrived:
            account.mark = Mark(position, arrived)
        return account.mark

    def progress(self) -> Sequence[Progress]:
        """How far each shard was read in this run, and what became of it."""
        return [
            Progress(
                a.shard,
                a.start,
                a.sequence,
                a.read,
                dict(a.settled),
                a.read - a.settled_count,
                a.ended,
                _frontier(a.mark.position),
                a.mark.arrived,
                a.first,
            )
            for a in self._accounts.values()
        ]

    def open_of(self, shard: str) -> int:
        account = self._accounts[shard]
        return account.read - account.settled_count

    @property
    def read(self) -> int:
        return sum(account.read for account in self._accounts.values())

    @property
    def open(self) -> int:
        """Debts not settled, counted from the pages, not from the sums: so that the law can be asserted."""
        return sum(leaf.open for leaf in self._leaves.values())

    @property
    def settled(self) -> dict[str, int]:
        """By outcome; every outcome is named."""
        totals = {outcome.value: 0 for outcome in Outcome}
        for account in self._accounts.values():
            for outcome, count in account.settled.items():
                totals[outcome] += count
        return totals

    def check(self) -> None:
        """Assert the law. Raises Imbalance."""
        read, settled, open_ = self.read, self.settled, self.open
        if read != sum(settled.values()) + open_:
            raise Imbalance(f"read {read} != settled {settled} + open {open_}")


def _frontier(position: Position) -> str:
    """A position as Progress.frontier names it."""
    return "end" if position.kind == "end" else position.sequence
