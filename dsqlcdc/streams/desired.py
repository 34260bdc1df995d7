"""What should be there: the config's `stream:` block, resolved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

OWNER_TAG = "dsqlcdc:pipeline"
"""Whatever is made here carries the pipeline's name under this tag; nothing without it is ever deleted."""
CLUSTER_TAG = "dsqlcdc:cluster"
"""The role and the Kinesis stream carry the id of the cluster they were made for: only a config of that cluster deletes them."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The Kinesis data stream. `shards` and `max_shards`: None for an on-demand stream. `kms_key`: None leaves encryption as it is."""

    name: str
    arn: str = ""
    """Where the config names the stream by its ARN: its account and Region must be the caller's."""
    mode: Literal["on_demand", "provisioned"] = "on_demand"
    mode_named: bool = True
    """The config names the mode. Where it does not, a stream that is there already keeps the mode it has."""
    shards: int | None = None
    max_shards: int | None = None
    retention_hours: int = 168
    max_record_kib: int = 10240
    kms_key: str | None = None


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `stream apply` makes. `role`: the name of the service role. `tags`: the user's; the owner's tag is added to them."""

    pipeline: str
    cluster: str
    target: Target
    role: str
    role_named: bool = True
    """The config names the role. Where it does not, a CDC stream that is there already keeps the role it has."""
    tags: Mapping[str, str] = {}
    remedies: Mapping[str, Literal["explain", "apply"]] = {}
    """By statusReason code; `default` for the others."""
    poll: float = 60.0
    """Seconds between two looks at the CDC stream while it is ACTIVE."""

    def policy(self, code: str) -> Literal["explain", "apply"]:
        """What to do about a statusReason."""
        return self.remedies.get(code) or self.remedies.get("default", "explain")
