"""Whose signatures count."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from dsqlcdc_s3.audit.findings import Report
from dsqlcdc_s3.digest import Stored, message
from dsqlcdc_s3.signing import PublicKey, public_key_of

_REMEMBERED = 64
"""Keys that digests name themselves, in memory."""


class Trust:
    """The keys that are trusted; with none, the one that a digest names itself is used, and the report says what that is worth."""

    def __init__(self, keys: Sequence[PublicKey], report: Report, *, expected: bool) -> None:
        self._keys, self._report, self._expected = list(keys), report, expected
        self._named: dict[str, PublicKey | None] = {}
        self._signed = False

    @property
    def pinned(self) -> bool:
        return bool(self._keys)

    def judge(self, key: str, stored: Stored) -> None:
        """Is this digest signed by a key that counts?"""
        signing, report = stored.digest.signing, self._report
        if signing.algorithm == "none" or not stored.signature:
            if self._signed or stored.signature or signing.algorithm != "none":
                report.add("altered", "unsigned", key, "it has no signature, though one before it has")
            return
        try:
            signature = base64.b64decode(stored.signature, validate=True)
        except binascii.Error:
            signature = b""
        keys = self._keys or [named for named in (self._key_of(signing.public_key),) if named is not None]
        for known in keys:
            if known.verifies(signing.algorithm, signature, message(stored.line)):
                self._signed = True
                report.signed += 1
                if known.fingerprint not in report.signers:
                    report.signers.append(known.fingerprint)
                return
        trusted = ", ".join(known.fingerprint[:16] for known in keys) or "none that can be read"
        report.add(
            "altered", "signature", key, f"its signature is not of a key that is trusted ({trusted}); it names {signing.fingerprint[:16]}"
        )

    def end(self) -> None:
        report = self._report
        if report.digests and not self._signed:
            if self._expected:
                report.add("altered", "unsigned", report.place, "digests are to be signed, and none is")
            else:
                report.unproved.append(
                    "The digests are not signed: whoever may write to the bucket could have rewritten the whole lake, digests included "
                    "(sign them: digest.key)."
                )
        elif report.signed < report.digests and report.signed:
            report.unproved.append(
                f"{report.digests - report.signed} digests were written before the first signed one; its signature covers them by the chain."
            )
        if report.signed and not self._keys:
            report.unproved.append(
                "The signatures were verified with keys that the digests name themselves: whoever could rewrite the lake could name another "
                "(pin yours: --public-key or digest.public_keys)."
            )

    def _key_of(self, text: str) -> PublicKey | None:
        if text not in self._named:
            if len(self._named) >= _REMEMBERED:
                self._named.clear()
            self._named[text] = public_key_of(text, "named by a digest")
        return self._named[text]
