"""Proving that a lake is whole and unaltered as received: `dsqlcdc audit`."""

from dsqlcdc_s3.audit.command import Audit

__all__ = ["Audit"]
