"""`dsqlcdc audit`: the lake as evidence, and what it tells."""

from __future__ import annotations

from dsqlcdc.cli.lake import register
from dsqlcdc.cli.shape import group

app = group("The lake of an s3 sink: what was committed, the history of a row, SQL to read it by.")
register(app)
