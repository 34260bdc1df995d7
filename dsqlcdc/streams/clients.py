"""The clients of the stream manager: opened together, asked patiently, and saying of every denial what to allow on what."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec

from dsqlcdc.aws import Aws, client, error_code, errors, translate
from dsqlcdc.core.backoff import Backoff
from dsqlcdc.core.patience import Patience
from dsqlcdc.errors import Misconfigured
from dsqlcdc.streams.desired import Desired

MISSING = ("ResourceNotFoundException", "NoSuchEntity", "NotFoundException")
SERVICES = ("kinesis", "dsql", "iam", "kms", "sts")
_ARN = re.compile(r"arn:(aws[\w-]*):kinesis:([\w-]+):(\d{12}):stream/")

Call = Callable[..., Awaitable[Any]]


class Clients(msgspec.Struct, frozen=True, kw_only=True):
    """aiobotocore clients of one account and Region. `random` gives numbers in [0, 1); `deadline`: seconds for which what passes is
    asked again."""

    kinesis: Any
    dsql: Any
    iam: Any
    kms: Any
    cloudwatch: Any = None
    """Only where `open_clients` is asked for it."""
    account: str
    region: str
    partition: str = "aws"
    random: Callable[[], float] = random.random
    deadline: float = 300.0

    async def ask(self, call: Call, *, doing: str, where: str, resource: str, done: Sequence[str] = (), **given: Any) -> dict[str, Any]:
        """Call, asking again with jitter while the service throttles, is busy or is not reached.

        `doing` and `where` as in dsqlcdc.aws.translate; `resource` is the ARN that the permission is needed on. An error code of `done`
        says that there is nothing left to do: the answer is empty. Raises Misconfigured, or Stopped (E125) at the deadline. A call that
        is cancelled may have taken effect.
        """
        return await self.find(call, doing=doing, where=where, resource=resource, done=done, missing=(), **given) or {}

    async def find(
        self,
        call: Call,
        *,
        doing: str,
        where: str,
        resource: str,
        done: Sequence[str] = (),
        missing: Sequence[str] = MISSING,
        **given: Any,
    ) -> dict[str, Any] | None:
        """As `ask`; None where what is asked for is not there."""

        async def once() -> dict[str, Any] | None:
            try:
                answer: dict[str, Any] = await call(**given)
            except errors() as error:
                if error_code(error) in missing:
                    return None
                if error_code(error) in done:
                    return {}
                raise translate(error, doing=doing, where=where, resource=resource) from error
            return answer

        return await self.patience().ask(once)

    def patience(self) -> Patience:
        return Patience(Backoff(base=0.5, cap=10.0), self.random, deadline=self.deadline)

    def stream_arn(self, name: str) -> str:
        """Of a Kinesis stream."""
        return f"arn:{self.partition}:kinesis:{self.region}:{self.account}:stream/{name}"

    def role_arn(self, name: str) -> str:
        return f"arn:{self.partition}:iam::{self.account}:role/{name}"

    def cluster_arn(self, cluster: str) -> str:
        return f"arn:{self.partition}:dsql:{self.region}:{self.account}:cluster/{cluster}"

    def cdc_arn(self, cluster: str, stream: str = "*") -> str:
        return f"{self.cluster_arn(cluster)}/stream/{stream}"

    def key_arn(self, key: str) -> str:
        """Of a KMS key, as far as its id, alias or ARN tells."""
        kind = "" if key.startswith("alias/") else "key/"
        return key if key.startswith("arn:") else f"arn:{self.partition}:kms:{self.region}:{self.account}:{kind}{key}"


@asynccontextmanager
async def open_clients(aws: Aws, desired: Desired, *, deadline: float = 300.0, metrics: bool = False) -> AsyncGenerator[Clients, None]:
    """Clients for what is desired, in the Region of its Kinesis stream where the config names it by ARN. Leaving closes them. `metrics`:
    one of CloudWatch too.

    Raises Misconfigured: no Region, no credentials, or (E170) a Kinesis stream in another account or Region than the caller's; Stopped
    (E125) when AWS is not reached within `deadline` seconds.
    """
    named = _ARN.match(desired.target.arn)
    if named is not None and aws.region is None:
        aws = msgspec.structs.replace(aws, region=named[2])
    async with AsyncExitStack() as stack:
        opened = {
            service: await stack.enter_async_context(client(service, aws)) for service in (*SERVICES, *(["cloudwatch"] if metrics else []))
        }
        sts, region = opened.pop("sts"), str(opened["kinesis"].meta.region_name)
        unknown = Clients(**opened, account="*", region=region, deadline=deadline)
        identity = await unknown.ask(sts.get_caller_identity, doing="say whose credentials these are", where="aws sts", resource="")
        clients = msgspec.structs.replace(unknown, account=str(identity["Account"]), partition=_partition(str(identity["Arn"])))
        _same_place(desired, clients)
        yield clients


def _partition(arn: str) -> str:
    return arn.split(":")[1] if arn.startswith("arn:") else "aws"


def _same_place(desired: Desired, clients: Clients) -> None:
    """Everything is in one account and Region (spec §1)."""
    named = _ARN.match(desired.target.arn)
    if named is None:
        return
    for what, theirs, ours in (("account", named[3], clients.account), ("Region", named[2], clients.region)):
        if theirs != ours:
            why = f"it is in {theirs}, the credentials and the cluster are in {ours}; DSQL writes within one account and Region only"
            run = "aws sts get-caller-identity, to see whose credentials these are"
            raise Misconfigured(
                f"the Kinesis stream is in another {what}", where=f"source.stream {desired.target.arn}", why=why, run=run, code="E170"
            )
