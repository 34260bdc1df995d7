"""The DSQL control plane: clusters, CDC streams, tags; its REST calls and its refusals."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from dsqlcdc.local.cdc import DELIVERS, CdcStream, Cluster, Pace, given_key
from dsqlcdc.local.clock import Clock
from dsqlcdc.local.dsql_input import Query, check_id, check_stream, check_tags, conflict, malformed, missing, page, refused
from dsqlcdc.local.kinesis import Kinesis
from dsqlcdc.local.others import Metric
from dsqlcdc.local.reach import Account, obstacle, usable
from dsqlcdc.local.refusal import Refusal
from dsqlcdc.local.streams import ACCOUNT

QUOTA = 5
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


class Dsql:
    """The model and its calls. `delay`: seconds that creating and deleting take. `account` has the roles and keys.

    A role is refused for `role_delay` seconds after it was first named, and the first `role_refusals` times, as AWS does until IAM has
    spread it.
    """

    def __init__(
        self, clock: Clock, kinesis: Kinesis, account: Account, rng: random.Random, *, region: str = "us-east-1", delay: float = 0.2
    ) -> None:
        self.clock, self.kinesis, self.account, self.region, self.delay = clock, kinesis, account, region, delay
        self.clusters: dict[str, Cluster] = {}
        self.reset()
        self._rng = rng

    def reset(self) -> None:
        self.clusters.clear()
        self.pace = Pace()
        self.role_delay, self.role_refusals = 0.0, 1
        self._role_seen: dict[str, float] = {}
        self._role_named: Counter[str] = Counter()

    def cluster(self, cluster_id: str) -> Cluster:
        found = self.clusters.get(cluster_id)
        if found is None or found.status == "DELETED":
            raise missing(cluster_id, "cluster")
        return found

    def stream(self, cluster_id: str, stream_id: str) -> CdcStream:
        found = self.cluster(cluster_id).streams.get(stream_id)
        if found is None or found.status == "DELETED":
            raise missing(stream_id, "stream")
        return found

    def delivering(self, cluster_id: str) -> list[CdcStream]:
        self.look()
        return [stream for stream in self.cluster(cluster_id).live_streams() if stream.status in DELIVERS]

    def look(self, *, idle: bool = True) -> None:
        """A round of every CDC stream, or without `idle` of those only that have something to try again."""
        for cluster in self.clusters.values():
            for stream in cluster.streams.values():
                if idle or stream.error:
                    stream.look(self.kinesis, self.obstacle)

    def key_of(self, cluster_id: str) -> str:
        """The customer's key of a cluster, "" where it has none or is not there."""
        found = self.clusters.get(cluster_id)
        return found.kms_key if found else ""

    def obstacle(self, stream: CdcStream) -> str:
        """What keeps the stream from its target now: the code of a statusReason, "" where nothing does."""
        key = self.clusters[stream.cluster].kms_key
        if key and not usable(self.account, key):
            return "CLUSTER_CMK_INACCESSIBLE"
        return obstacle(stream.arn, stream.target, self.kinesis, self.account)

    def metrics(self) -> list[Metric]:
        """What CloudWatch would show of the CDC streams now. A model: on AWS it comes a minute or two later."""
        live = [stream for cluster in self.clusters.values() for stream in cluster.live_streams() if stream.status in DELIVERS]
        of = [({"ClusterId": stream.cluster, "StreamId": stream.id}, stream) for stream in live]
        return [
            *(Metric("BehindSourceLag", stream.lag * 1000, by) for by, stream in of),
            *(Metric("IsImpaired", float(stream.status == "IMPAIRED"), by) for by, stream in of),
        ]

    def call(self, method: str, path: str, query: Query, body: bytes) -> dict[str, Any]:
        """One REST call. `path` is percent-encoded, as it came."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        try:
            given: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any]) if body else {}
        except msgspec.DecodeError as error:
            raise refused(f"The body is not a JSON object: {error}", "cannotParse") from None
        match method, parts:
            case "POST", ["cluster"]:
                return self._cluster_out(self.create_cluster(given))
            case "GET", ["cluster"]:
                return self._list_clusters(query)
            case _, ["cluster", cluster]:
                return self._one_cluster(method, self.cluster(check_id(cluster, "identifier")), given)
            case "GET", ["clusters", cluster, "vpc-endpoint-service-name"]:
                return {"serviceName": f"com.amazonaws.{self.region}.dsql-local", "clusterVpcEndpoint": self.cluster(cluster).endpoint}
            case "POST", ["stream", cluster]:
                return self._created(self.create_stream(check_id(cluster, "clusterIdentifier"), given))
            case "GET", ["stream", cluster]:
                return self._list_streams(self.cluster(check_id(cluster, "clusterIdentifier")), query)
            case "GET" | "DELETE", ["stream", cluster, stream]:
                found = self.stream(check_id(cluster, "clusterIdentifier"), check_id(stream, "streamIdentifier"))
                return self._stream_out(found) if method == "GET" else self._delete_stream(found)
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
        target = check_stream(given, self.region)
        cluster = self.cluster(cluster_id)
        token, live = given.get("clientToken"), cluster.live_streams()
        for stream in live:
            if token and stream.given.get("clientToken") == token:
                if stream.given != given:
                    raise conflict("A stream was created with this client token and other parameters.", stream.id)
                return stream
        if cluster.status != "ACTIVE":
            raise refused(f"Cluster {cluster_id} is not ACTIVE, it is {cluster.status}.")
        for stream in live:
            if stream.status in ("CREATING", "DELETING"):
                raise conflict(f"Another stream operation is in progress: {stream.id} is {stream.status}.", stream.id)
        if len(live) >= QUOTA:
            members = {"resourceId": cluster_id, "resourceType": "stream", "serviceCode": "dsql", "quotaCode": "L-STREAMS"}
            raise Refusal("ServiceQuotaExceededException", "You have reached the stream limit.", 402, **members)
        self._check_target(target)
        arn = f"{cluster.arn}/stream/{self._id()}"
        made = CdcStream(arn, target, given, self.clock.now() + self.delay, self.clock, self.pace)
        cluster.streams[made.id] = made
        return made

    def _check_target(self, target: Mapping[str, Any]) -> None:
        try:
            status = self.kinesis.stream(target["streamArn"]).status
        except Refusal:
            raise refused(f"The Kinesis stream {target['streamArn']} does not exist.") from None
        if status not in ("ACTIVE", "UPDATING"):
            raise refused(f"The Kinesis stream {target['streamArn']} is {status}.")
        arn, now = target["roleArn"], self.clock.now()
        role = self.account.role(arn)
        spread = now - self._role_seen.setdefault(arn, now) >= self.role_delay
        if role is not None and not role.trusted:
            self._role_named[arn] += 1
            spread = spread and self._role_named[arn] > self.role_refusals
        if role is None or not spread:
            raise refused(f"The provided IAM role {arn} is invalid or cannot be assumed.")

    def _delete_stream(self, stream: CdcStream) -> dict[str, Any]:
        if stream.status in ("CREATING", "DELETING"):
            raise conflict(f"Stream {stream.id} is {stream.status}.", stream.id)
        stream.delete(self.delay)
        return self._summary(stream)

    def _one_cluster(self, method: str, cluster: Cluster, given: Mapping[str, Any]) -> dict[str, Any]:
        if method == "GET":
            return self._cluster_out(cluster, full=True)
        return self._delete_cluster(cluster) if method == "DELETE" else self._update_cluster(cluster, given)

    def _delete_cluster(self, cluster: Cluster) -> dict[str, Any]:
        if cluster.protected:
            raise conflict("Deletion protection is enabled.", cluster.id, "cluster")
        if cluster.live_streams():
            raise conflict("The cluster has streams.", cluster.id, "cluster")
        cluster.delete(self.delay)
        return self._cluster_out(cluster)

    def _update_cluster(self, cluster: Cluster, given: Mapping[str, Any]) -> dict[str, Any]:
        if given.get("deletionProtectionEnabled") is not None:
            cluster.protected = bool(given["deletionProtectionEnabled"])
        cluster.kms_key = given_key(given) if given.get("kmsEncryptionKey") else cluster.kms_key
        return self._cluster_out(cluster)

    def _tags(self, method: str, arn: str, query: Query, given: Mapping[str, Any]) -> dict[str, Any]:
        head, _, name = arn.rpartition(":")
        match name.split("/"):
            case ["cluster", cluster] if head == f"arn:aws:dsql:{self.region}:{ACCOUNT}":
                owner: Cluster | CdcStream = self.cluster(cluster)
            case ["cluster", cluster, "stream", stream] if head == f"arn:aws:dsql:{self.region}:{ACCOUNT}":
                owner = self.stream(cluster, stream)
            case _:
                raise malformed("resourceArn", "it is not the ARN of a cluster or stream of this Region and account")
        if method == "GET":
            return {"tags": owner.tags}
        if method == "POST":
            check_tags(given.get("tags") or {})
            owner.tags.update(given.get("tags") or {})
        else:
            for key in query.getall("tagKeys", ()):
                owner.tags.pop(key, None)
        return {}

    def _list_clusters(self, query: Query) -> dict[str, Any]:
        live = [cluster for cluster in self.clusters.values() if cluster.status != "DELETED"]
        found, token = page(live, query)
        return {"clusters": [{"identifier": c.id, "arn": c.arn} for c in found], **token}

    def _list_streams(self, cluster: Cluster, query: Query) -> dict[str, Any]:
        found, token = page(cluster.live_streams(), query)
        return {"streams": [self._summary(stream) for stream in found], **token}

    def _summary(self, stream: CdcStream) -> dict[str, Any]:
        return {
            "clusterIdentifier": stream.cluster,
            "streamIdentifier": stream.id,
            "arn": stream.arn,
            "status": stream.status,
            "creationTime": round(stream.created, 3),
        }

    def _created(self, stream: CdcStream) -> dict[str, Any]:
        return self._summary(stream) | {"ordering": "UNORDERED", "format": "JSON"}

    def _stream_out(self, stream: CdcStream) -> dict[str, Any]:
        out = self._summary(stream) | {"ordering": "UNORDERED", "format": "JSON", "tags": stream.tags}
        if stream.error:
            out["statusReason"] = {"error": stream.error, "updatedAt": round(stream.error_at, 3)}
        return out | {"targetDefinition": {"kinesis": dict(stream.target)}}

    def _cluster_out(self, cluster: Cluster, full: bool = False) -> dict[str, Any]:
        encryption = {"encryptionType": "AWS_OWNED_KMS_KEY", "encryptionStatus": "ENABLED"}
        if cluster.kms_key:
            state = "ENABLED" if usable(self.account, cluster.kms_key) else "KMS_KEY_INACCESSIBLE"
            encryption = {"encryptionType": "CUSTOMER_MANAGED_KMS_KEY", "kmsKeyArn": cluster.kms_key, "encryptionStatus": state}
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
