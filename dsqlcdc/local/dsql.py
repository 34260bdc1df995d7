"""The DSQL control plane: clusters, CDC streams, tags; its REST calls and its refusals."""

from __future__ import annotations

import base64
import binascii
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec
from multidict import MultiMapping

from dsqlcdc.local.cdc import DELIVERS, CdcStream, Cluster, TrustOf
from dsqlcdc.local.clock import Clock
from dsqlcdc.local.kinesis import Kinesis
from dsqlcdc.local.refusal import Refusal
from dsqlcdc.local.streams import ACCOUNT

QUOTA = 5
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_T = TypeVar("_T")
Query = MultiMapping[str]


class Dsql:
    """The model and its calls. `delay`: seconds that creating and deleting take. `trust` looks a role up.

    A role is refused for `role_delay` seconds after it was first named, as AWS does until IAM has spread it.
    """

    def __init__(
        self, clock: Clock, kinesis: Kinesis, trust: TrustOf, rng: random.Random, *, region: str = "us-east-1", delay: float = 0.2
    ) -> None:
        self.clock, self.kinesis, self.trust, self.region, self.delay = clock, kinesis, trust, region, delay
        self.clusters: dict[str, Cluster] = {}
        self.role_delay = 0.0
        self._rng = rng
        self._role_seen: dict[str, float] = {}

    def reset(self) -> None:
        self.clusters.clear()
        self._role_seen.clear()
        self.role_delay = 0.0

    def cluster(self, cluster_id: str) -> Cluster:
        found = self.clusters.get(cluster_id)
        if found is None or found.status == "DELETED":
            raise _missing(cluster_id, "cluster")
        return found

    def stream(self, cluster_id: str, stream_id: str) -> CdcStream:
        found = self.cluster(cluster_id).streams.get(stream_id)
        if found is None or found.status == "DELETED":
            raise _missing(stream_id, "stream")
        return found

    def delivering(self, cluster_id: str) -> list[CdcStream]:
        return [stream for stream in self.cluster(cluster_id).live_streams() if stream.status in DELIVERS]

    def deliver(self) -> None:
        """Try again what could not be delivered."""
        for cluster in self.clusters.values():
            for stream in cluster.streams.values():
                stream.deliver(self.kinesis, self.trust)

    def call(self, method: str, path: str, query: Query, body: bytes) -> dict[str, Any]:
        """One REST call. `path` is percent-encoded, as it came."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        try:
            given: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any]) if body else {}
        except msgspec.DecodeError as error:
            raise _invalid(f"The body is not a JSON object: {error}", "cannotParse") from None
        match method, parts:
            case "POST", ["cluster"]:
                return self._cluster_out(self.create_cluster(given))
            case "GET", ["cluster"]:
                return self._list_clusters(query)
            case "GET", ["cluster", cluster]:
                return self._cluster_out(self.cluster(cluster), full=True)
            case "POST", ["cluster", cluster]:
                return self._update_cluster(self.cluster(cluster), given)
            case "DELETE", ["cluster", cluster]:
                return self._delete_cluster(self.cluster(cluster))
            case "GET", ["clusters", cluster, "vpc-endpoint-service-name"]:
                return {"serviceName": f"com.amazonaws.{self.region}.dsql-local", "clusterVpcEndpoint": self.cluster(cluster).endpoint}
            case "POST", ["stream", cluster]:
                return self._created(self.create_stream(cluster, given))
            case "GET", ["stream", cluster]:
                return self._list_streams(self.cluster(cluster), query)
            case "GET", ["stream", cluster, stream]:
                return self._stream_out(self.stream(cluster, stream))
            case "DELETE", ["stream", cluster, stream]:
                return self._delete_stream(self.stream(cluster, stream))
            case _, ["tags", *arn]:
                return self._tags(method, "/".join(arn), query, given)
            case _:
                raise Refusal("UnknownOperationException", f"The embedded DSQL does not have {method} {path}.", 404)

    def create_cluster(self, given: Mapping[str, Any]) -> Cluster:
        token = given.get("clientToken")
        for cluster in self.clusters.values():
            if token and cluster.token == token:
                return cluster
        cluster_id = self._id()
        arn = f"arn:aws:dsql:{self.region}:{ACCOUNT}:cluster/{cluster_id}"
        made = Cluster(cluster_id, arn, self.region, given, self.clock.now() + self.delay, self.clock)
        self.clusters[cluster_id] = made
        return made

    def create_stream(self, cluster_id: str, given: Mapping[str, Any]) -> CdcStream:
        cluster = self.cluster(cluster_id)
        if (given.get("ordering"), given.get("format")) != ("UNORDERED", "JSON"):
            raise _invalid("ordering must be UNORDERED and format JSON.")
        definition: Mapping[str, Any] = given.get("targetDefinition") or {}
        target: Mapping[str, str] = definition.get("kinesis") or {}
        if not target.get("streamArn") or not target.get("roleArn"):
            raise _invalid("targetDefinition.kinesis needs streamArn and roleArn.")
        token = given.get("clientToken")
        live = cluster.live_streams()
        for stream in live:
            if token and stream.token == token:
                if stream.target != target:
                    raise _conflict("A stream was created with this client token and other parameters.", stream.id)
                return stream
        if cluster.status != "ACTIVE":
            raise _invalid(f"Cluster {cluster_id} is not ACTIVE, it is {cluster.status}.")
        for stream in live:
            if stream.status in ("CREATING", "DELETING"):
                raise _conflict(f"Another stream operation is in progress: {stream.id} is {stream.status}.", stream.id)
        if len(live) >= QUOTA:
            members = {"resourceId": cluster_id, "resourceType": "stream", "serviceCode": "dsql", "quotaCode": "L-STREAMS"}
            raise Refusal("ServiceQuotaExceededException", "You have reached the stream limit.", 402, **members)
        self._check_target(target)
        arn = f"{cluster.arn}/stream/{self._id()}"
        made = CdcStream(arn, target, given.get("tags") or {}, token, self.clock.now() + self.delay, self.clock)
        cluster.streams[made.id] = made
        if not self.trust(target["roleArn"]):
            made.fail("ROLE_ACCESS_DENIED")
        return made

    def _check_target(self, target: Mapping[str, Any]) -> None:
        try:
            status = self.kinesis.stream(target["streamArn"]).status
        except Refusal:
            raise _invalid(f"The Kinesis stream {target['streamArn']} does not exist.") from None
        if status not in ("ACTIVE", "UPDATING"):
            raise _invalid(f"The Kinesis stream {target['streamArn']} is {status}.")
        role, now = target["roleArn"], self.clock.now()
        if self.trust(role) is None or now - self._role_seen.setdefault(role, now) < self.role_delay:
            raise _invalid(f"The provided IAM role {role} is invalid or cannot be assumed.")

    def _delete_stream(self, stream: CdcStream) -> dict[str, Any]:
        if stream.status in ("CREATING", "DELETING"):
            raise _conflict(f"Stream {stream.id} is {stream.status}.", stream.id)
        stream.delete(self.delay)
        return self._summary(stream)

    def _delete_cluster(self, cluster: Cluster) -> dict[str, Any]:
        if cluster.protected:
            raise _conflict("Deletion protection is enabled.", cluster.id, "cluster")
        if cluster.live_streams():
            raise _conflict("The cluster has streams.", cluster.id, "cluster")
        cluster.delete(self.delay)
        return self._cluster_out(cluster)

    def _update_cluster(self, cluster: Cluster, given: Mapping[str, Any]) -> dict[str, Any]:
        if given.get("deletionProtectionEnabled") is not None:
            cluster.protected = bool(given["deletionProtectionEnabled"])
        cluster.kms_key = given.get("kmsEncryptionKey") or cluster.kms_key
        return self._cluster_out(cluster)

    def _tags(self, method: str, arn: str, query: Query, given: Mapping[str, Any]) -> dict[str, Any]:
        parts = arn.rsplit(":", 1)[-1].split("/")
        owner: Cluster | CdcStream = self.stream(parts[1], parts[3]) if len(parts) == 4 else self.cluster(parts[-1])
        if method == "GET":
            return {"tags": owner.tags}
        if method == "POST":
            owner.tags.update(given.get("tags") or {})
        else:
            for key in query.getall("tagKeys", ()):
                owner.tags.pop(key, None)
        return {}

    def _list_clusters(self, query: Query) -> dict[str, Any]:
        live = [cluster for cluster in self.clusters.values() if cluster.status != "DELETED"]
        page, token = _page(live, query)
        return {"clusters": [{"identifier": c.id, "arn": c.arn} for c in page], **token}

    def _list_streams(self, cluster: Cluster, query: Query) -> dict[str, Any]:
        page, token = _page(cluster.live_streams(), query)
        return {"streams": [self._summary(stream) for stream in page], **token}

    def _summary(self, stream: CdcStream) -> dict[str, Any]:
        return {
            "clusterIdentifier": stream.cluster,
            "streamIdentifier": stream.id,
            "arn": stream.arn,
            "status": stream.status,
            "creationTime": round(stream.created, 3),
        }

    def _created(self, stream: CdcStream) -> dict[str, Any]:
        return self._summary(stream) | {"status": "CREATING", "ordering": "UNORDERED", "format": "JSON"}

    def _stream_out(self, stream: CdcStream) -> dict[str, Any]:
        out = self._summary(stream) | {"ordering": "UNORDERED", "format": "JSON", "tags": stream.tags}
        if stream.error:
            out["statusReason"] = {"error": stream.error, "updatedAt": round(stream.error_at, 3)}
        return out | {"targetDefinition": {"kinesis": dict(stream.target)}}

    def _cluster_out(self, cluster: Cluster, full: bool = False) -> dict[str, Any]:
        encryption = {"encryptionType": "AWS_OWNED_KMS_KEY", "encryptionStatus": "ENABLED"}
        if cluster.kms_key:
            encryption |= {"encryptionType": "CUSTOMER_MANAGED_KMS_KEY", "kmsKeyArn": cluster.kms_key}
        out = {
            "identifier": cluster.id,
            "arn": cluster.arn,
            "status": cluster.status,
            "creationTime": round(cluster.created, 3),
            "deletionProtectionEnabled": cluster.protected,
            "encryptionDetails": encryption,
            "endpoint": cluster.endpoint,
        }
        return out | ({"tags": cluster.tags} if full else {})

    def _id(self) -> str:
        return "".join(self._rng.choices(_ALPHABET, k=26))


def _page(items: Sequence[_T], query: Query) -> tuple[Sequence[_T], dict[str, str]]:
    try:
        size = int(query.get("max-results") or 10)
        start = int(base64.urlsafe_b64decode(query.get("next-token") or "MA=="))
    except (binascii.Error, ValueError):
        raise _invalid("max-results or next-token is not valid.") from None
    more = {"nextToken": base64.urlsafe_b64encode(str(start + size).encode()).decode()} if len(items) > start + size else {}
    return items[start : start + size], more


def _missing(resource: str, kind: str) -> Refusal:
    return Refusal("ResourceNotFoundException", f"The {kind} {resource} does not exist.", 404, resourceId=resource, resourceType=kind)


def _conflict(why: str, resource: str, kind: str = "stream") -> Refusal:
    return Refusal("ConflictException", why, 409, resourceId=resource, resourceType=kind)


def _invalid(why: str, reason: str = "other") -> Refusal:
    return Refusal("ValidationException", why, 400, reason=reason)
