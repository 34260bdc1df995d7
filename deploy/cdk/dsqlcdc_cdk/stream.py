"""The change stream of a DSQL cluster: Kinesis stream, role, and the CDC stream, which CloudFormation has no type for, by a custom resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import ArnFormat, CustomResource, Duration, RemovalPolicy, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesis as kinesis
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from constructs import Construct

from .alarms import alarm

LARGEST_RECORD = 10_240
"""KiB: with Kinesis's default, 1024, the first large row makes the CDC stream IMPAIRED."""
TIMEOUT = Duration.minutes(15)
"""Of one invocation. A stream takes one to three minutes; where the time is over Lambda repeats the event, and the next goes on."""


class CdcStream(Construct):
    """A CDC stream into a Kinesis stream. Another value of a property makes another one, beside the old, which is deleted after.

    `cluster`: the DSQL cluster's identifier, in this account and Region. `code`: the package that `make lambda-zip` builds, such as
    `Code.from_asset("dist/lambda.zip")`. `stream`: a Kinesis stream of yours that takes records of 10 MiB; else one is made, on demand and
    encrypted, that outlives the stack. `retention`, `stream_name` and `encryption_key` are of the one that is made. `generation`: another
    text makes another CDC stream, as a FAILED one needs. `tags` are the CDC stream's.

    Raises ValueError for a `stream` of this app whose records are capped below 10 MiB, and for settings of a stream that is not made.
    """

    stream: kinesis.IStream
    """Where the changes go: give it to a consumer, or `grant_read` it."""
    role: iam.Role
    """What DSQL writes with."""
    resource: CustomResource
    cluster: str

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        cluster: str,
        code: lambda_.Code,
        stream: kinesis.IStream | None = None,
        stream_name: str | None = None,
        retention: Duration | None = None,
        encryption_key: kms.IKey | None = None,
        generation: str = "1",
        tags: Mapping[str, str] | None = None,
        runtime: lambda_.Runtime = lambda_.Runtime.PYTHON_3_13,
        architecture: lambda_.Architecture = lambda_.Architecture.X86_64,
    ) -> None:
        super().__init__(scope, id)
        self.cluster = cluster
        if stream is not None and (stream_name or retention or encryption_key):
            raise ValueError(
                "stream_name, retention and encryption_key are of a stream that is made here, and `stream` is one that is there"
            )
        self._retention = retention or Duration.days(7)
        self.stream = stream or self._made(stream_name, encryption_key)
        _takes_large_records(self.stream)
        arns = self._arns()
        self.role = self._role(arns)
        granted = self._let_write()
        self.resource = CustomResource(
            self,
            "Resource",
            resource_type="Custom::DsqlCdcStream",
            service_token=self._function(arns, code, runtime, architecture).function_arn,
            service_timeout=Duration.minutes(35),  # two invocations and the minute between them
            properties={
                "ClusterIdentifier": cluster,
                "StreamArn": self.stream.stream_arn,
                "RoleArn": self.role.role_arn,
                "Generation": generation,
                "Tags": {"stack": Stack.of(self).stack_name, **(tags or {})},
            },
        )
        self.resource.node.add_dependency(granted)

    @property
    def stream_identifier(self) -> str:
        """The CDC stream's identifier, as metrics and `dsqlcdc stream status` have it."""
        return self.resource.get_att_string("StreamIdentifier")

    def metric(self, name: str, *, statistic: str = "Maximum", period: Duration | None = None) -> cloudwatch.Metric:
        """A metric of the CDC stream: IsImpaired, BehindSourceLag, PublishedRecords, PublishedBytes …"""
        return cloudwatch.Metric(
            namespace="AWS/AuroraDSQL",
            metric_name=name,
            dimensions_map={"ClusterId": self.cluster, "StreamId": self.stream_identifier},
            statistic=statistic,
            period=period or Duration.minutes(1),
        )

    def add_alarms(self, topic: sns.ITopic, *, retention: Duration | None = None) -> Sequence[cloudwatch.Alarm]:
        """The alarms on the CDC stream and its Kinesis stream. `retention`: of a Kinesis stream that was not made here, a week unless given."""
        half = (retention or self._retention).to_milliseconds() / 2
        impaired, lag = self.metric("IsImpaired"), self.metric("BehindSourceLag", statistic="Average")
        age = self._kinesis("GetRecords.IteratorAgeMilliseconds", "Maximum")
        older = self._kinesis("GetRecords.IteratorAgeMilliseconds", "Maximum", minutes=5)
        reads = self._kinesis("GetRecords.Latency", "SampleCount", minutes=5)
        writes = self._kinesis("WriteProvisionedThroughputExceeded", "Sum")
        refused = self._kinesis("ReadProvisionedThroughputExceeded", "Sum", minutes=5)
        held = "The CDC stream is IMPAIRED, and DSQL holds changes back"
        late = "DSQL has committed changes that are not in Kinesis a minute later"
        behind = "What was read last had been in the Kinesis stream for over a minute"
        old = "What was read last is half of the retention old, and what gets older than it is lost"
        nobody = "For ten minutes nobody has read the Kinesis stream"
        full = "DSQL writes more than the Kinesis stream takes"
        shared = "Kinesis refuses reads for a quarter of an hour, so somebody else reads the same shards"
        return [
            alarm(self, "StreamImpaired", topic, impaired, held, "stream-impaired", periods=2),
            alarm(self, "BehindSource", topic, lag, late, "behind-source-lag", above=60_000, periods=5),
            alarm(self, "ConsumerBehind", topic, age, behind, "behind", above=60_000, periods=5),
            alarm(self, "RetentionRunsOut", topic, older, old, "standstill", above=half),
            alarm(self, "NobodyReads", topic, reads, nobody, "process-down", below=1, periods=2, silence=True),
            alarm(self, "WritesThrottled", topic, writes, full, "write-throttled", periods=3),
            alarm(self, "ReadsThrottled", topic, refused, shared, "reads-throttled", above=60, periods=3, resolves=False),
        ]

    def _kinesis(self, name: str, statistic: str, minutes: int = 1) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace="AWS/Kinesis",
            metric_name=name,
            dimensions_map={"StreamName": self.stream.stream_name},
            statistic=statistic,
            period=Duration.minutes(minutes),
        )

    def _made(self, name: str | None, key: kms.IKey | None) -> kinesis.Stream:
        made = kinesis.Stream(
            self,
            "Stream",
            stream_name=name,
            stream_mode=kinesis.StreamMode.ON_DEMAND,
            retention_period=self._retention,
            encryption=kinesis.StreamEncryption.KMS if key is not None else kinesis.StreamEncryption.MANAGED,
            encryption_key=key,
            removal_policy=RemovalPolicy.RETAIN,
        )
        resource = made.node.default_child
        assert isinstance(resource, kinesis.CfnStream)
        resource.max_record_size_in_kib = LARGEST_RECORD
        return made

    def _arns(self) -> tuple[str, str]:
        """Of the cluster, and of all its streams."""
        form = ArnFormat.SLASH_RESOURCE_NAME
        cluster = Stack.of(self).format_arn(service="dsql", resource="cluster", resource_name=self.cluster, arn_format=form)
        return cluster, f"{cluster}/stream/*"

    def _role(self, arns: tuple[str, str]) -> iam.Role:
        """The streams of the cluster may take it, not the cluster: with that the stream would stay CREATING, or FAIL."""
        conditions = {"StringEquals": {"aws:SourceAccount": Stack.of(self).account}, "ArnLike": {"aws:SourceArn": arns[1]}}
        return iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("dsql.amazonaws.com", conditions=conditions))

    def _let_write(self) -> iam.Grant:
        """What the service needs of the Kinesis stream, and of its key. The stream is made after it: DSQL looks at once."""
        wanted = ("kinesis:PutRecord", "kinesis:PutRecords", "kinesis:DescribeStreamSummary", "kinesis:ListShards")
        granted = self.stream.grant(self.role, *wanted)
        if (key := self.stream.encryption_key) is not None:
            through = {"StringEquals": {"kms:ViaService": f"kinesis.{Stack.of(self).region}.amazonaws.com"}}
            self.role.add_to_policy(iam.PolicyStatement(actions=["kms:GenerateDataKey"], resources=[key.key_arn], conditions=through))
        return granted

    def _function(
        self, arns: tuple[str, str], code: lambda_.Code, runtime: lambda_.Runtime, architecture: lambda_.Architecture
    ) -> lambda_.Function:
        log = logs.LogGroup(self, "FunctionLog", retention=logs.RetentionDays.THREE_MONTHS, removal_policy=RemovalPolicy.DESTROY)
        role = iam.Role(self, "FunctionRole", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log.grant_write(role)
        calls = ("CreateStream", "DeleteStream", "GetCluster", "GetStream", "ListStreams", "TagResource")
        role.add_to_policy(iam.PolicyStatement(actions=[f"dsql:{call}" for call in calls], resources=list(arns)))
        passed = {"StringEquals": {"iam:PassedToService": "dsql.amazonaws.com"}}
        role.add_to_policy(iam.PolicyStatement(actions=["iam:PassRole"], resources=[self.role.role_arn], conditions=passed))
        return lambda_.Function(
            self,
            "Function",
            description="Makes, replaces and deletes the CDC stream of this stack",
            runtime=runtime,
            architecture=architecture,
            handler="dsqlcdc.hosts.cfn.handler",
            code=code,
            role=role,
            timeout=TIMEOUT,
            memory_size=512,
            log_group=log,
            retry_attempts=2,
        )


def _takes_large_records(stream: kinesis.IStream) -> None:
    """What is known of a stream of this app; one that is imported says nothing."""
    resource = stream.node.default_child
    if isinstance(resource, kinesis.CfnStream) and (resource.max_record_size_in_kib or 1024) < LARGEST_RECORD:
        raise ValueError(
            f"{stream.node.path} takes records of {int(resource.max_record_size_in_kib or 1024)} KiB, and the first large row would make the CDC "
            f"stream IMPAIRED: set stream.node.default_child.max_record_size_in_kib = {LARGEST_RECORD}"
        )
