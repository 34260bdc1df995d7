"""dsqlcdc as a Lambda function behind a Kinesis stream: trigger, sweeper, on-failure bucket, alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kinesis as kinesis
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as event_sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from .alarms import alarm

NAMESPACE = "dsqlcdc"
"""Of the metrics that the functions print."""


class LambdaConsumer(Construct):
    """Delivers what comes out of `stream` as the config says.

    `code`: the package that `make lambda-zip` builds. `config`: the config's text (a function's environment holds 4 KB), or the SSM parameter
    that holds it. `lake`: the bucket of dead letters and pieces, and of the S3 sink if there is one, with its `prefix`. Give `role` what else
    its sinks need: `secret.grant_read(consumer.role)`. `max_record_age`: when a batch that cannot be delivered is given up to `on_failure`, a
    bucket that is made unless given; keep it below the stream's retention. `sweep_every`: how often oversized rows are finished or given up.
    `vpc` and what follows it are for sinks that are reached only there.

    Raises ValueError where Lambda would refuse the trigger's settings, as CDK does.
    """

    function: lambda_.Function
    sweeper: lambda_.Function
    role: iam.Role
    """Of both functions."""
    on_failure: s3.IBucket
    """`dsqlcdc dead replay CONFIG --from-lambda-destination s3://…/aws/lambda/` delivers what is there."""
    trigger: event_sources.KinesisEventSource

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        stream: kinesis.IStream,
        code: lambda_.Code,
        config: str | ssm.IStringParameter,
        lake: s3.IBucket,
        prefix: str = "cdc/",
        environment: Mapping[str, str] | None = None,
        starting_position: lambda_.StartingPosition = lambda_.StartingPosition.TRIM_HORIZON,
        batch_size: int = 1000,
        max_batching_window: Duration | None = None,
        parallelization_factor: int = 1,
        max_record_age: Duration | None = None,
        on_failure: s3.IBucket | None = None,
        sweep_every: Duration | None = None,
        timeout: Duration | None = None,
        memory_size: int = 1024,
        runtime: lambda_.Runtime = lambda_.Runtime.PYTHON_3_13,
        architecture: lambda_.Architecture = lambda_.Architecture.X86_64,
        vpc: ec2.IVpc | None = None,
        vpc_subnets: ec2.SubnetSelection | None = None,
        security_groups: Sequence[ec2.ISecurityGroup] | None = None,
    ) -> None:
        super().__init__(scope, id)
        log = logs.LogGroup(self, "Log", retention=logs.RetentionDays.THREE_MONTHS, removal_policy=RemovalPolicy.DESTROY)
        self.role = self._role(log, config, lake, prefix, vpc is not None)
        given = f"ssm:{config.parameter_name}" if not isinstance(config, str) else config

        def function(id: str, handler: str, timeout: Duration) -> lambda_.Function:
            return lambda_.Function(
                self,
                id,
                handler=f"dsqlcdc.hosts.aws_lambda.{handler}",
                code=code,
                runtime=runtime,
                architecture=architecture,
                role=self.role,
                timeout=timeout,
                memory_size=memory_size,
                environment={"DSQLCDC_CONFIG": given, "DSQLCDC_METRICS": NAMESPACE, **(environment or {})},
                log_group=log,
                vpc=vpc,
                vpc_subnets=vpc_subnets,
                security_groups=security_groups,
            )

        self.function = function("Function", "handler", timeout or Duration.minutes(2))
        self.sweeper = function("Sweeper", "sweep", Duration.minutes(5))
        events.Rule(
            self,
            "Schedule",
            schedule=events.Schedule.rate(sweep_every or Duration.minutes(5)),
            targets=[targets.LambdaFunction(self.sweeper)],
        )
        self.on_failure = on_failure or s3.Bucket(
            self,
            "OnFailure",
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            removal_policy=RemovalPolicy.RETAIN,
        )
        self.trigger = event_sources.KinesisEventSource(
            stream,
            starting_position=starting_position,
            batch_size=batch_size,
            max_batching_window=max_batching_window or Duration.seconds(5),
            parallelization_factor=parallelization_factor,
            report_batch_item_failures=True,  # without it what an answer names as owed is lost
            bisect_batch_on_error=True,
            retry_attempts=-1,  # until the record is too old: an outage of the sink is waited for
            max_record_age=max_record_age or Duration.days(6),
            on_failure=event_sources.S3OnFailureDestination(self.on_failure),  # queues and topics get no payload
            metrics_config=lambda_.MetricsConfig(metrics=[lambda_.MetricType.EVENT_COUNT]),
        )
        self.function.add_event_source(self.trigger)

    def metric(self, name: str, *, pipeline: str, sink: str, statistic: str = "Sum", period: Duration | None = None) -> cloudwatch.Metric:
        """A metric that the functions print of one sink: dsqlcdc_delivered, dsqlcdc_dead, dsqlcdc_age … (docs/reference.md, Lambda)."""
        about = {"pipeline": pipeline, "sink": sink}
        return cloudwatch.Metric(
            namespace=NAMESPACE, metric_name=name, dimensions_map=about, statistic=statistic, period=period or Duration.minutes(5)
        )

    def add_alarms(self, topic: sns.ITopic, *, pipeline: str, sinks: Sequence[str]) -> Sequence[cloudwatch.Alarm]:
        """The alarms on the functions and the trigger, and on each of the pipeline's `sinks`, all named as the config does."""
        function = {"FunctionName": self.function.function_name}
        trigger = {"EventSourceMappingUUID": self.trigger.event_source_mapping_id}
        age = _lambda("IteratorAge", function, "Maximum", minutes=1)
        slow = "The function is five minutes behind the stream"
        fails = "Invocations fail for a quarter of an hour"
        given_up = "Lambda gave up a batch, whose payload is in the on-failure bucket"
        dropped = "Lambda dropped records that it could not even write to the on-failure bucket"
        delivered = _lambda("OnFailureDestinationDeliveredEventCount", trigger)
        made = [
            alarm(self, "Behind", topic, age, slow, "lambda-iterator-age", above=300_000, periods=5),
            alarm(self, "Errors", topic, _lambda("Errors", function), fails, "lambda-iterator-age", periods=3),
            alarm(self, "GivenUp", topic, delivered, given_up, "lambda-on-failure", resolves=False),
            alarm(self, "Dropped", topic, _lambda("DroppedEventCount", trigger), dropped, "gap", resolves=False),
        ]
        for sink in sinks:
            scope = Construct(self, f"Sink-{sink}")
            stopped = self.metric("dsqlcdc_stopped", pipeline=pipeline, sink=sink, statistic="Maximum", period=Duration.minutes(1))
            letters, gaps = (self.metric(name, pipeline=pipeline, sink=sink) for name in ("dsqlcdc_letters", "dsqlcdc_gaps"))
            digests = self.metric("dsqlcdc_digest_failed", pipeline=pipeline, sink=sink, statistic="Minimum", period=Duration.minutes(10))
            refused = "A sink refused changes, which are dead letters now"
            unproved = "For half an hour the sweeper could not write a digest of the lake that was due"
            torn = "An oversized row was given up, its pieces did not come"
            made += [
                alarm(scope, "DeadLetters", topic, letters, refused, "dead-letters", resolves=False),
                alarm(scope, "Stopped", topic, stopped, "A sink cannot go on", "sink-stopped", periods=3),
                alarm(scope, "Gaps", topic, gaps, torn, "gap", resolves=False),
                alarm(scope, "Digests", topic, digests, unproved, "digest-missing", periods=3),
            ]
        return made

    def _role(self, log: logs.LogGroup, config: str | ssm.IStringParameter, lake: s3.IBucket, prefix: str, in_vpc: bool) -> iam.Role:
        network = iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AWSLambdaVPCAccessExecutionRole")
        role = iam.Role(
            self, "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"), managed_policies=[network] if in_vpc else None
        )
        log.grant_write(role)
        if not isinstance(config, str):
            config.grant_read(role)
        for place in (f"{prefix}*", "dead-letters/*", "fragments/*"):
            lake.grant_read(role, place)
            lake.grant_put(role, place)
        lake.grant_delete(role, "fragments/*")
        return role


def _lambda(name: str, about: Mapping[str, str], statistic: str = "Sum", minutes: int = 5) -> cloudwatch.Metric:
    period = Duration.minutes(minutes)
    return cloudwatch.Metric(namespace="AWS/Lambda", metric_name=name, dimensions_map=dict(about), statistic=statistic, period=period)
