"""The embedded AWS: one process, one port on loopback, for development, the demo and tests.

Kinesis, the DSQL control plane and its metrics are models of this project, true to what a reader can notice; S3, DynamoDB, IAM, STS, KMS and
the rest of CloudWatch are moto's.
Needs the extra `local`.

    async with Local() as aws:
        pipe = aws.pipe("orders-cdc", shards=4)          # a Kinesis stream, a cluster, an ACTIVE CDC stream
        await aws.commit(Commit(transactions=1000, duplicates=0.05, disorder=50))
        aws.generator().changes                          # the truth: every committed change

or `python -m dsqlcdc.local --port 4580`, which prints "ready http://127.0.0.1:4580", and any AWS client with AWS_ENDPOINT_URL. Any
credentials do. Creations take a short time, as on AWS: wait for ACTIVE.

Control over HTTP, JSON in and out; a mistake is answered with 400 and {"error": …}:

    POST /_dsqlcdc/commit            Commit (generator.py): transactions, explicit, declare, tables, duplicates, disorder, deviations,
                                     oversize, oversize_bytes, evolve, repeat. Gives {"cluster", "transactions", "first", "end", "sent"}
    GET  /_dsqlcdc/truth/changes     JSON Lines, one Committed a line; ?cluster= &from= &limit= page by `first` and `end` of a commit
    GET  /_dsqlcdc/truth/state       JSON Lines, the newest change of every row that exists; ?cluster= &table=schema.table
    POST /_dsqlcdc/pipe              {"stream", "shards", "max_record_kib"}: stream, cluster and ACTIVE CDC stream at once
    POST /_dsqlcdc/fault             Fault (faults.py): {"kind": error|reset|cut|lost|slow|hang, "service", "operation", "contains",
                                     "times", "skip", "code", "status", "seconds"}. E.g. SlowDown: {"kind": "error", "service": "s3",
                                     "operation": "PutObject", "code": "SlowDown", "status": 503, "times": 3}; a write that takes place
                                     but whose answer is lost: {"kind": "lost", "service": "s3", "operation": "PutObject"}
    GET  /_dsqlcdc/faults            {"hits", "waiting"};    POST /_dsqlcdc/faults/clear: faults and denials
    POST /_dsqlcdc/throttle          {"reads": bool, "writes": bool} switch the shard limits; {"refuse_reads": n, "shard": id};
                                     {"stream", "demand": shards}: with fewer than that, a part of the writes is refused;
                                     {"latest_lag": seconds} for which AT_LATEST still lists a closed shard
    POST /_dsqlcdc/clock             {"seconds"}: push the clock: iterators and tokens expire, retention trims, statuses go on
    POST /_dsqlcdc/iterators/expire  every shard iterator given so far is expired
    POST /_dsqlcdc/trim              {"stream", "shard", "until": sequence number (with it) | "before": time}; neither: everything held
    POST /_dsqlcdc/empty-reads       {"stream", "shard", "times"}: GetRecords gives empty pages though records are there
    POST /_dsqlcdc/record            {"stream", "data": base64, "shard", "partition_key", "copies"}: a foreign producer's record
    POST /_dsqlcdc/bucket            {"name", "gone": bool}: the bucket vanishes with its objects, and comes back
    POST /_dsqlcdc/cdc               CdcState (orders.py): {"cluster", "status": IDLE|INACTIVE|ACTIVE, "stream", "impair": code or "",
                                     "fail": code, "late": seconds}. Gives {"status", "reason", "waiting", "lag"}
    POST /_dsqlcdc/cause             {"cluster", "stream", "reason"}: the real cause of a statusReason (causes.py), and what shows it
    POST /_dsqlcdc/rules             Rules (orders.py): {"retry", "lag_limit", "stuck", "delay", "role_delay", "role_refusals"}
    POST /_dsqlcdc/deny              Deny (rights.py): {"action": "dsql:CreateStream", "resource", "times", "explicit"}: callers lack a
                                     right; {"action": "iam:PassRole"} refuses CreateStream
    POST /_dsqlcdc/reset             forget everything
    GET  /_dsqlcdc/health            {"now", "streams", "clusters"}
"""

from __future__ import annotations

from importlib.util import find_spec

from dsqlcdc.errors import ConfigError

if any(find_spec(name) is None for name in ("moto", "flask", "flask_cors")):
    raise ConfigError("the embedded AWS needs moto and flask", why="the extra `local` is not installed", run="pip install 'dsqlcdc[local]'")

from dsqlcdc.local.clock import Clock
from dsqlcdc.local.database import Statement
from dsqlcdc.local.faults import Fault
from dsqlcdc.local.generator import Commit, Committed, Generator, Summary
from dsqlcdc.local.region import Pipe
from dsqlcdc.local.rights import Deny
from dsqlcdc.local.server import Local, serve

__all__ = ["Clock", "Commit", "Committed", "Deny", "Fault", "Generator", "Local", "Pipe", "Statement", "Summary", "serve"]
