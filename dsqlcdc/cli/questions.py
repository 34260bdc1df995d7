"""The questions of `dsqlcdc init`: one for each thing that no flag said; an answer that cannot be is asked for again, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from dsqlcdc.cli.answers import Answers, Known, findings, flag
from dsqlcdc.cli.output import answer, printable, say
from dsqlcdc.config.draft import HOSTS, SINKS, Host, compose
from dsqlcdc.config.findings import UNSET
from dsqlcdc.errors import ConfigError

__all__ = ["ask"]

_TABLES = "Tables and their key columns, such as public.orders=order_id,item_id public.users=id (Enter: later)"


def ask(answers: Answers, found: Known, path: str) -> Answers:
    """The answers, completed by whoever sits at the terminal. Raises Abort on Ctrl-C and at the end of the input."""
    asking = _Asking(answers, found, Path(path))
    if not answers.stream:
        _list("Kinesis streams", found.streams)
        asking("stream", "Kinesis data stream that DSQL writes to, name or ARN", _only(found.streams) or "orders-cdc")
    if not answers.region:
        asking("region", "AWS Region", asking.answers.draft(found, samples=True).region or "us-east-1")
    if not answers.sinks:
        asking("sinks", f"Sinks, several with blanks between ({', '.join(SINKS)})", "s3", _words)
    if answers.host is None:
        for host, what in HOSTS.items():
            say(f"  {host:9}  {what}")
        asking("host", "Where does it run", "daemon", _host)
    kinds = asking.answers.named_sinks().values()
    if "s3" in kinds and not answers.bucket:
        asking("bucket", "S3 bucket")
    if "webhook" in kinds and not answers.webhook_url:
        asking("webhook_url", "URL of the webhook's receiver")
    if "opensearch" in kinds and not answers.opensearch_url:
        asking("opensearch_url", "URL of the OpenSearch cluster")
    if not answers.tables:
        needed = "opensearch" in kinds
        asking("tables", _TABLES.replace(" (Enter: later)", "") if needed else _TABLES, None if needed else "", _words)
    if asking.answers.host != "daemon" and not answers.store_bucket and not asking.answers.bucket:
        asking("store_bucket", "S3 bucket for dead letters and pieces of oversized rows")
    if not answers.cluster:
        _list("DSQL clusters", found.clusters)
        asking("cluster", "Identifier of the DSQL cluster, for `dsqlcdc stream` and the doctor (Enter: none)", _only(found.clusters))
    return asking.answers


class _Asking:
    """Puts one question after another. Owner of what was answered so far."""

    def __init__(self, answers: Answers, found: Known, path: Path) -> None:
        self.answers, self._found, self._path = answers, found, path

    def __call__(self, name: str, question: str, default: str | None = None, read: Callable[[str], Any] = str.strip) -> None:
        """Ask until the answer can be. `default`: what Enter means; None: there is none."""
        while True:
            text = answer(question, default)
            try:
                tried = replace(self.answers, **{name: read(text)})
                problem = self._problem(tried, name)
            except ConfigError as error:
                say(f"  {printable(f'{error.what}: {error.why}')}")
                continue
            if not problem:
                self.answers = tried
                return
            say(f"  {printable(problem)}")

    def _problem(self, tried: Answers, name: str) -> str:
        """What is wrong with the answer to this question; what others have still to say is not."""
        draft = tried.draft(self._found, samples=True)
        option = "--" + name.replace("_", "-").removesuffix("s") if name in ("tables", "sinks") else "--" + name.replace("_", "-")
        for finding in findings(compose(draft, str(self._path)), self._path, whole=draft.host != "lambda"):
            if flag(finding.key, draft.sinks) == option and finding.code != UNSET:
                return f"{finding.what}: {finding.why}"
        return ""


def _list(what: str, names: Sequence[str]) -> None:
    if names:
        say(f"{what}: {', '.join(map(printable, names))}")


def _only(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ""


def _words(text: str) -> tuple[str, ...]:
    """Words with blanks between them; a comma behind one belongs to nobody."""
    return tuple(word.strip(",") for word in text.split() if word.strip(","))


def _host(text: str) -> Host:
    if text.strip() not in HOSTS:
        raise ConfigError(f"{text.strip()!r} is not a choice", why=f"choices: {', '.join(HOSTS)}", run="dsqlcdc init --help", code="E094")
    return cast("Host", text.strip())
