"""An app with both constructs: `cdk deploy -c cluster=…` in this folder, with dist/lambda.zip built by `make lambda-zip`."""

from __future__ import annotations

import os
from pathlib import Path

from aws_cdk import App, Stack
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_ssm as ssm
from constructs import Construct
from dsqlcdc_cdk import CdcStream, LambdaConsumer

PACKAGE = Path(__file__).parents[2] / "dist" / "lambda.zip"


class Orders(Stack):
    """The CDC stream of a cluster, and a consumer that keeps a lake of it."""

    def __init__(self, scope: Construct, id: str, *, cluster: str, code: lambda_.Code) -> None:
        super().__init__(scope, id)
        stream = CdcStream(self, "Stream", cluster=cluster, code=code, stream_name="orders-cdc")
        lake = s3.Bucket(self, "Lake", block_public_access=s3.BlockPublicAccess.BLOCK_ALL, enforce_ssl=True)
        config = ssm.StringParameter.from_secure_string_parameter_attributes(self, "Config", parameter_name="/dsqlcdc/orders-cdc")
        consumer = LambdaConsumer(self, "Consumer", stream=stream.stream, code=code, config=config, lake=lake)
        topic = sns.Topic(self, "Alarms", enforce_ssl=True)
        stream.add_alarms(topic)
        consumer.add_alarms(topic, pipeline="orders-cdc", sinks=["lake"])


if __name__ == "__main__":
    app = App()
    package = Path(os.environ.get("DSQLCDC_PACKAGE", PACKAGE))
    Orders(app, "orders", cluster=str(app.node.get_context("cluster")), code=lambda_.Code.from_asset(str(package)))
    app.synth()
