"""IAM policies of the service role: the documents, and what a document means. Pure."""

from __future__ import annotations

from dsqlcdc.streams.policies.documents import SERVICE, WRITE_ACTIONS, key_arn, trust_policy, write_policy
from dsqlcdc.streams.policies.grants import Grant, grants
from dsqlcdc.streams.policies.trust import TrustFault, trust_faults, trusted_clusters, trusted_regions, trusted_sources

__all__ = [
    "SERVICE",
    "WRITE_ACTIONS",
    "Grant",
    "TrustFault",
    "grants",
    "key_arn",
    "trust_faults",
    "trust_policy",
    "trusted_clusters",
    "trusted_regions",
    "trusted_sources",
    "write_policy",
]
