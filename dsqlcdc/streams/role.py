"""The role that DSQL assumes to write: made, its trust and its permissions brought to what is wanted."""

from __future__ import annotations

import json
from typing import Any

from dsqlcdc.streams.wanted import made_tags, policy_name, wanted_policy, wanted_role, wanted_trust
from dsqlcdc.streams.work import Work


async def make(work: Work) -> None:
    """Create the role. One that another call has made is taken as it is."""
    call = work.clients.iam.create_role
    trust = json.dumps(wanted_trust(work.desired, work.observed))
    named = {"RoleName": _name(work), "Description": f"Aurora DSQL writes changes of cluster {work.desired.cluster} to Kinesis"}
    given: dict[str, Any] = {**named, "AssumeRolePolicyDocument": trust, "Tags": _tags(work)}
    await work.clients.ask(call, doing="create the role", **_about(work), done=("EntityAlreadyExists",), **given)


async def trust(work: Work) -> None:
    """Write the trust policy; statements of a role that is not ours stay."""
    document = json.dumps(wanted_trust(work.desired, work.observed))
    call = work.clients.iam.update_assume_role_policy
    await work.clients.ask(call, doing="write the trust policy", **_about(work), RoleName=_name(work), PolicyDocument=document)


async def permit(work: Work) -> None:
    """Write our inline policy; the role's other policies stay."""
    document = json.dumps(wanted_policy(work.desired, work.observed))
    given = {"RoleName": _name(work), "PolicyName": policy_name(work.desired), "PolicyDocument": document}
    await work.clients.ask(work.clients.iam.put_role_policy, doing="write the role's policy", **_about(work), **given)


async def tag(work: Work) -> None:
    await work.clients.ask(work.clients.iam.tag_role, doing="tag the role", **_about(work), RoleName=_name(work), Tags=_tags(work))


async def delete(work: Work) -> None:
    """Delete the role with its inline policies."""
    role = work.observed.role
    for policy in role.inline if role is not None else ():
        call = work.clients.iam.delete_role_policy
        await work.clients.find(call, doing="delete the role's policy", **_about(work), RoleName=_name(work), PolicyName=policy)
    await work.clients.find(work.clients.iam.delete_role, doing="delete the role", **_about(work), RoleName=_name(work))


def _tags(work: Work) -> list[dict[str, str]]:
    there = work.observed.role
    tags = made_tags(work.desired, there.tags if there is not None else None)
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def _name(work: Work) -> str:
    return wanted_role(work.desired, work.observed)


def _about(work: Work) -> dict[str, str]:
    name = _name(work)
    return {"where": f"iam role {name}", "resource": work.clients.role_arn(name)}
