"""The sink `type: opensearch`: a replica in OpenSearch that is right after every delete, restart and late record."""

from dsqlcdc_opensearch.options import Options
from dsqlcdc_opensearch.sink import OpenSearchSink

__all__ = ["OpenSearchSink", "Options"]
