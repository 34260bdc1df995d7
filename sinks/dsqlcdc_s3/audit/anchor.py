"""Does the lake reach as far as something outside of it says?"""

from __future__ import annotations

from dsqlcdc_s3.account import behind
from dsqlcdc_s3.audit.coverage import Coverage
from dsqlcdc_s3.audit.findings import Anchor, Report
from dsqlcdc_s3.chain import Owner
from dsqlcdc_s3.manifest import Word, decode_word
from dsqlcdc_s3.paths import manifest_key


def compare(
    report: Report, owner: Owner, coverage: Coverage, anchor: Anchor | None, last: int, *, apart_store: bool, partial: bool
) -> None:
    """Compare with what the state store says. `last`: the lake's last manifest; `apart_store`: digests are in a bucket of their own."""
    word = decode_word(anchor.word) if anchor is not None else None
    if anchor is None or word is None or word.place != owner.place:
        if not apart_store:
            report.unproved.append(
                "That the lake did not lose its end: its last manifests, digests and objects could have been deleted together. The state "
                "store knows how far it reached, and so do digests in a bucket of their own; neither was asked."
            )
        return
    if last < word.last:
        key = manifest_key(owner.prefix, word.last)
        what = f"the state says that there were {word.last} manifests, and the chain ends at {last}"
        report.add("missing", "truncated", key, what)
    if not partial and report.first:
        _heads(report, coverage, anchor, word)


def _heads(report: Report, coverage: Coverage, anchor: Anchor, word: Word) -> None:
    told: dict[str, str] = {}
    for account in word.accounts:
        told |= {read.shard: read.frontier for read in account.reads}
    for shard, position in sorted(anchor.positions.items()):
        state = coverage.shards.get(shard)
        reached = told.get(shard, "") or ""
        if state is not None and behind(reached, state.reached):
            reached = state.reached
        if state is not None and behind(reached, position):
            what = f"the state says that it is settled up to {position}, the lake tells up to {reached or 'nothing'}"
            report.add("missing", "head", shard, what)
