"""The stream manager as the commands use it, on the embedded AWS, and killed wherever a test likes."""

from __future__ import annotations

import time
from typing import Any

from dsqlcdc.core.ports import Gap
from dsqlcdc.local import Local
from dsqlcdc.stores.memory_checkpoints import MemoryCheckpoints
from dsqlcdc.streams.apply import Applied, apply
from dsqlcdc.streams.clients import Clients
from dsqlcdc.streams.delete import delete, deletion
from dsqlcdc.streams.desired import Desired
from dsqlcdc.streams.observe import observe
from dsqlcdc.streams.plan import Plan, plan
from dsqlcdc.streams.work import Work

from .mortal import Life

ACCOUNT, REGION = "123456789012", "us-east-1"
STREAM_ARN = f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/orders-cdc"
ROLE_ARN = f"arn:aws:iam::{ACCOUNT}:role/orders-cdc-dsql"


class Manager:
    """`plan`, `apply` and `delete`, each as one process."""

    def __init__(self, aws: Local, clients: Clients, desired: Desired) -> None:
        self.aws, self.clients, self.desired = aws, clients, desired
        self.said: list[str] = []
        self.store = MemoryCheckpoints()
        self.role_wait = 5.0

    async def work(self, clients: Clients | None = None) -> Work:
        clients = clients or self.clients
        return Work(
            desired=self.desired,
            observed=await observe(self.desired, clients),
            clients=clients,
            say=self.said.append,
            clock=time.time,
            poll=0.01,
            poll_most=0.05,
            role_wait=self.role_wait,
        )

    async def plan(self) -> Plan:
        return plan(self.desired, (await self.work()).observed)

    async def apply(self, life: Life | None = None, *, replace: bool = False, deadline: float = 20.0) -> Applied:
        life = life or Life()
        work = await self.work(life.clients(self.clients))
        planned = plan(self.desired, work.observed)
        return await apply(planned, work, replace=replace, store=life.store(self.store), deadline=deadline)

    async def delete(self, life: Life | None = None, *, everything: bool = False) -> Plan:
        work = await self.work((life or Life()).clients(self.clients))
        planned = deletion(self.desired, work.observed, everything=everything)
        await delete(planned, work, deadline=20.0)
        return planned

    def live(self) -> list[Any]:
        return [one for one in self.aws.dsql.cluster(self.desired.cluster).live_streams() if one.status != "DELETING"]

    async def gaps(self) -> list[Gap]:
        return list(await self.store.gaps(self.desired.pipeline))


def steps(planned: Plan | Applied) -> list[tuple[str, str]]:
    return [(action.action, action.step) for action in planned.changes]
