"""The options of `type: webhook`."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, WithJsonSchema, field_validator, model_validator
from yarl import URL

from dsqlcdc.options import Duration, Size, StrictOptions, Tls, duration, size
from dsqlcdc_webhook.addresses import Network, literal, refusal
from dsqlcdc_webhook.parcel import Format
from dsqlcdc_webhook.sign import secret_key

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_RESERVED = {"host", "connection", "transfer-encoding", "te", "trailer", "upgrade", "expect", "accept-encoding", "user-agent"}


def _secret(value: SecretStr) -> SecretStr:
    secret_key(value.get_secret_value())
    return value


def _network(value: str) -> str:
    ip_network(value)
    return value


Secret = Annotated[SecretStr, AfterValidator(_secret)]
Cidr = Annotated[str, AfterValidator(_network), WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8"]})]


class Batch(StrictOptions):
    """Many events in one request, each of another row."""

    max_items: int = Field(default=100, ge=1, le=10_000, description="events in a request at the most")
    max_bytes: Size = size("1MiB", least="1KiB", description="of a request's body; a larger event goes alone")
    linger: Duration = duration("200ms", description="how long the first event waits for others")


class ClaimCheck(StrictOptions):
    """Where the data of large events is put."""

    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="an S3 bucket")
    prefix: str = Field(default="claims/", description="goes before the name, `{id}.json`, as it stands")
    above: Size = size("256KiB", least="1KiB", description="a larger body is put into the bucket; so is one answered with 413")
    expires: Duration | None = Field(
        default=None,
        ge=60,
        le=7 * 24 * 3600,
        description="`dataref` is a URL signed for so long; null: s3://bucket/key, for receivers with access of their own",
    )


class Options(StrictOptions):
    """A receiver of signed CloudEvents over HTTPS."""

    url: str = Field(description="where to POST; https, without a user")
    secrets: tuple[Secret, ...] = Field(min_length=1, max_length=8, description="`whsec_…` with 24 to 64 bytes each; all of them sign")
    headers: dict[str, SecretStr] = Field(default_factory=dict, description="added to each request; never shown")
    allow_http: bool = Field(default=False, description="plain http is allowed")
    allow_private: tuple[Cidr, ...] = Field(default=(), description="private networks that may be connected to, as CIDR")
    tls: Tls = Tls()
    concurrency: int = Field(
        default=16, ge=1, le=256, description="requests in flight at the most, one a row; grows and shrinks by the answers"
    )
    format: Format = Field(
        default="cloudevents", description="structured JSON; `cloudevents_binary`: attributes as headers; `raw`: the record as received"
    )
    batch: Batch | None = Field(default=None, description="`application/cloudevents-batch+json`; null: one event a request")
    claim_check: ClaimCheck | None = Field(default=None, description="put the data of large events into S3")
    timeout: Duration = duration("15s", least="100ms", description="of a whole request")
    connect_timeout: Duration = duration("3s", least="10ms", description="of connecting, TLS included")

    @field_validator("headers")
    @classmethod
    def _headers_fit(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, value in headers.items():
            if not _HEADER.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a header")
            if name.lower() in _RESERVED or name.lower().startswith(("webhook-", "content-")):
                raise ValueError(f"the header {name} is set by the sink")
            if not all(" " <= c <= "~" for c in value.get_secret_value()):
                raise ValueError(f"the header {name} may hold printable ASCII only")
        return headers

    @property
    def networks(self) -> tuple[Network, ...]:
        return tuple(ip_network(cidr) for cidr in self.allow_private)

    @field_validator("batch", "claim_check")
    @classmethod
    def _fit_the_format(cls, value: Batch | ClaimCheck | None, info: ValidationInfo) -> Batch | ClaimCheck | None:
        format = info.data.get("format", "cloudevents")
        if isinstance(value, Batch) and format != "cloudevents":
            raise ValueError(f"batch goes with format cloudevents only: CloudEvents has no batches of {format}")
        if isinstance(value, ClaimCheck) and format == "raw":
            raise ValueError("claim_check does not go with format raw, which has no place to say where the data is")
        return value

    @model_validator(mode="after")
    def _url_fits(self) -> Self:
        text = self.url
        if not all("!" <= c <= "~" for c in text) or "\\" in text:
            raise ValueError(
                "url holds a character that a URL cannot; a host in another script is written as xn--…: write it percent-encoded"
            )
        try:
            url = URL(text)
            address = literal(url.host or "")
        except ValueError as error:
            raise ValueError(f"url cannot be read, {error}: write https://HOST/… with a name or a plain address") from None
        if url.scheme != "https" and not (url.scheme == "http" and self.allow_http):
            raise ValueError("url begins with another scheme, and http:// goes with allow_http only: write https://…")
        if "@" in text.partition("://")[2].partition("/")[0] or url.user is not None or url.password is not None:
            raise ValueError('url holds a user or password: write a header instead, as in headers: {Authorization: "${TOKEN}"}')
        if not url.host:
            raise ValueError("url names no host: write https://HOST/…")
        if url.fragment:
            raise ValueError("url has a fragment, which is never sent: write it without #…")
        if address is not None and (why := refusal(address, self.networks)) is not None:
            raise ValueError(f"url cannot lead to {url.host}, {why}: write another address")
        return self
