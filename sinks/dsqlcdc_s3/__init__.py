"""The sink `type: s3`: a lake or an audit trail of JSON Lines, every change once. Its own memory is a chain of manifests."""

from dsqlcdc_s3.options import Options, Roll
from dsqlcdc_s3.sink import S3Sink

__all__ = ["Options", "Roll", "S3Sink"]
