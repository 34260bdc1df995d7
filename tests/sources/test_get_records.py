"""What we sign ourselves is what botocore would have signed, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from dsqlcdc.sources.get_records import Direct, Scope

TOKENS = st.none() | st.text("abc/+=", min_size=1, max_size=30)
DAY = 86_400


HEADERS = {"Content-Type": "application/x-amz-json-1.1", "User-Agent": "us", "X-Amz-Target": "Kinesis_20131202.GetRecords"}


def theirs(host: str, region: str, body: bytes, credentials: Any, now: float) -> dict[str, str]:
    request = AWSRequest(method="POST", url=f"http://{host}/", data=body, headers=HEADERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "get_current_datetime", lambda: datetime.fromtimestamp(now, UTC))
        auth.SigV4Auth(credentials, "kinesis", region).add_auth(request)
    return dict(request.headers.items())


@given(
    host=st.sampled_from(["kinesis.eu-west-3.amazonaws.com", "127.0.0.1:4566", "123456789012.data-kinesis.us-east-1.amazonaws.com"]),
    region=st.sampled_from(["eu-west-3", "us-east-1"]),
    calls=st.lists(
        st.tuples(
            st.binary(max_size=40),
            st.sampled_from(["k1", "k2"]),
            st.sampled_from(["s1", "s2"]),
            TOKENS,
            st.integers(0, 3) | st.floats(0, 3) | st.integers(0, 3 * DAY),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_the_signature_is_botocores(host: str, region: str, calls: list[tuple[bytes, str, str, str | None, float]]) -> None:
    """One scope through changes of key, secret, token, second and day: what two calls share is kept only as long as they share it."""
    scope = Scope(host, "/", region, "kinesis", HEADERS)
    for body, access, secret, token, later in calls:
        credentials, now = ReadOnlyCredentials(access, secret, token), 1_700_000_000 + later
        assert scope.sign(body, credentials, now) == theirs(host, region, body, credentials, now)


@pytest.mark.parametrize("later", [1, DAY])
def test_control_what_is_kept_too_long_is_seen(monkeypatch: pytest.MonkeyPatch, later: int) -> None:
    scope, credentials = Scope("host", "/", "us-east-1", "kinesis", HEADERS), ReadOnlyCredentials("AKIA", "s", None)
    now = 1_700_000_000
    scope.sign(b"", credentials, now)
    monkeypatch.setattr(scope, "_common", (now + later, "AKIA", "s", None))  # as if it had been made for that second
    assert scope.sign(b"", credentials, now + later) != theirs("host", "us-east-1", b"", credentials, now + later)


class _Prepared:
    url = "https://kinesis.us-east-1.amazonaws.com:443/"
    headers: ClassVar = {
        "X-Amz-Target": b"Kinesis_20131202.GetRecords",
        "Authorization": b"AWS4-HMAC-SHA256 Credential=AKIA/20231114/us-east-1/kinesis/aws4_request, SignedHeaders=host, Signature=0",
    }


class _Credentials:
    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return ReadOnlyCredentials("AKIA", "s", None)


@pytest.mark.parametrize(("status", "code"), [(200, None), (206, "206"), (302, "302"), (400, "Odd"), (500, "Odd")])
async def test_an_answer_is_an_answer_only_with_status_200(status: int, code: str | None) -> None:
    seen: list[tuple[Mapping[str, str], bytes]] = []

    async def exchange(headers: Mapping[str, str], body: bytes, admit: Any) -> Any:
        seen.append((headers, body))
        return status, {"x": "1"}, bytearray(b'{"__type":"Odd","message":"m"}' if status >= 400 else b"")

    async def admit(size: int) -> None:
        return None

    direct = Direct(_Prepared(), _Credentials(), exchange, lambda: 1.7e9)
    if code is None:
        assert await direct({"Limit": 1}, admit) == ({"x": "1"}, bytearray())
    else:
        with pytest.raises(Exception, match="GetRecords") as caught:
            await direct({"Limit": 1}, admit)
        assert caught.value.response["Error"]["Code"] == code  # type: ignore[attr-defined]
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status  # type: ignore[attr-defined]
    ((headers, body),) = seen
    assert body == b'{"Limit":1}'
    assert headers["X-Amz-Target"] == "Kinesis_20131202.GetRecords"
