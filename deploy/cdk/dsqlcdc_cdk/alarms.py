"""Alarms that tell a topic, each with its page of the runbook."""

from __future__ import annotations

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_sns as sns
from constructs import Construct

RUNBOOK = "docs/runbook/"
"""Where the pages are, in dsqlcdc's repository."""


def alarm(
    scope: Construct,
    id: str,
    topic: sns.ITopic,
    metric: cloudwatch.IMetric,
    about: str,
    page: str,
    *,
    above: float = 0,
    below: float | None = None,
    periods: int = 1,
    silence: bool = False,
    resolves: bool = True,
) -> cloudwatch.Alarm:
    """An alarm on a metric that is `above` a threshold, or `below` one, for so many periods.

    `page`: the runbook's page. `silence`: no data are a breach too. `resolves`: its end is told as well.
    """
    operator = cloudwatch.ComparisonOperator
    made = cloudwatch.Alarm(
        scope,
        id,
        alarm_description=f"{about}. {RUNBOOK}{page}.md",
        metric=metric,
        evaluation_periods=periods,
        threshold=above if below is None else below,
        comparison_operator=operator.GREATER_THAN_THRESHOLD if below is None else operator.LESS_THAN_THRESHOLD,
        treat_missing_data=cloudwatch.TreatMissingData.BREACHING if silence else cloudwatch.TreatMissingData.NOT_BREACHING,
    )
    made.add_alarm_action(actions.SnsAction(topic))
    if resolves:
        made.add_ok_action(actions.SnsAction(topic))
    return made
