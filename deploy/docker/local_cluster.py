"""`make`: a cluster and a bucket in the embedded AWS, unless they are there; prints the cluster. `commit`: transactions to it."""

from __future__ import annotations

import json
import os
import sys
import urllib.request

import boto3

BUCKET = "lake"


def make() -> str:
    dsql = boto3.client("dsql")
    clusters = dsql.list_clusters()["clusters"]
    found = clusters[0] if clusters else dsql.create_cluster(deletionProtectionEnabled=False)
    dsql.get_waiter("cluster_active").wait(identifier=found["identifier"])
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    return str(found["identifier"])


def commit(transactions: int = 50) -> str:
    (cluster,) = boto3.client("dsql").list_clusters()["clusters"]
    body = json.dumps({"cluster": cluster["identifier"], "transactions": transactions}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{os.environ['AWS_ENDPOINT_URL']}/_dsqlcdc/commit", body, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    print({"make": make, "commit": commit}[sys.argv[1]]())
