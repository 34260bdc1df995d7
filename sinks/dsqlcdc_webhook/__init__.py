"""The sink `type: webhook`: one signed CloudEvent a change, at least once, of one row never two in flight."""

from dsqlcdc_webhook.options import Options
from dsqlcdc_webhook.sink import WebhookSink

__all__ = ["Options", "WebhookSink"]
