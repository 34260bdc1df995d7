"""What a sink is opened with: connections, certificates, the database, mapping files."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from dsqlcdc.aws import Aws
from dsqlcdc.contract import Context, Misconfigured
from dsqlcdc_opensearch.database import Database
from dsqlcdc_opensearch.http import HttpTransport, Transport
from dsqlcdc_opensearch.late import Rows
from dsqlcdc_opensearch.options import Options
from dsqlcdc_opensearch.sign import SigV4


class _MappingFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    properties: dict[str, dict[str, Any]]


def connection(options: Options, context: Context, tls: ssl.SSLContext, where: str) -> Transport:
    """To the cluster's nodes, with what proves who asks."""
    signer = None
    if options.sign is not None:
        service = options.sign.service or ("aoss" if options.profile == "serverless" else "es")
        signer = SigV4(service, Aws(options.sign.region or context.region, context.profile), where)
    basic = None if options.basic is None else (options.basic.user, options.basic.password.get_secret_value())
    return HttpTransport(
        options.url,
        tls=tls,
        basic=basic,
        signer=signer,
        gzip=options.gzip,
        connections=options.bulk.concurrency + 4,
        timeout=options.timeout,
        connect_timeout=options.connect_timeout,
    )


def database(options: Options, context: Context, where: str) -> Rows | None:
    """Whom late upserts are verified with, if anybody. Raises Misconfigured where its package is missing."""
    verify = options.verify
    if verify is None:
        return None
    try:
        Database.check()
    except ImportError as error:
        why = "late_upsert: verify needs the connector of Aurora DSQL"
        raise Misconfigured("a package is missing", where=where, why=why, run="pip install 'dsqlcdc[dsql]'", code="E475") from error
    return Database(verify.endpoint, verify.user, region=context.region, profile=context.profile, where=where)


def trust(options: Options, context: Context, where: str) -> ssl.SSLContext:
    """Raises Misconfigured where a certificate cannot be read."""
    directory, tls = Path(context.directory), options.tls
    files = [tls.ca]
    try:
        trust = ssl.create_default_context(cafile=None if tls.ca is None else directory / tls.ca)
        if tls.certificate is not None:
            files = [tls.certificate, tls.key]
            key = None if tls.key is None else directory / tls.key
            trust.load_cert_chain(directory / tls.certificate, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        what, run = "a certificate of OpenSearch cannot be used", "dsqlcdc config lint CONFIG, once the file is right"
        named = [directory / file for file in files if file is not None]
        faulty = [file for file in named if not file.is_file()] or named
        why = f"{', '.join(map(str, faulty))}: {error}"
        raise Misconfigured(what, where=where, why=why, run=run, code="E471") from error
    return trust


def mapping_files(options: Options, context: Context, where: str) -> Mapping[Path, Mapping[str, Any]]:
    """The fields that each mapping file gives. Raises Misconfigured where one cannot be used."""
    directory = Path(context.directory)
    try:
        return {path: _fields(path, (directory / path).read_bytes()) for path in options.mappings.values()}
    except (OSError, ValueError) as error:
        what, run = "a mapping file of OpenSearch cannot be used", "dsqlcdc config show CONFIG"
        raise Misconfigured(what, where=where, why=str(error), run=run, code="E472") from error


def _fields(path: Path, text: bytes) -> Mapping[str, Any]:
    """The fields of a mapping file. Raises ValueError."""
    try:
        fields = msgspec.json.decode(text, type=_MappingFile).properties
    except msgspec.MsgspecError as error:
        raise ValueError(f'{path}: a JSON object with "properties" is expected, an object a field: {error}') from None
    if "__cdc" in fields:
        raise ValueError(f"{path}: the field __cdc is the sink's own")
    return fields
