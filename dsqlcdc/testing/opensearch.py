"""A model of OpenSearch's HTTP interface, in process: indexes, aliases with filters, bulk, mget, points in time, blocks, limits.

    engine = FakeOpenSearch(clock)
    reply = engine.handle("POST", "/_bulk", body)          # without sockets
    async with serving(engine) as url: …                    # over HTTP, on loopback

Its fidelity is held to a real node by the tests that run against both.
"""

from __future__ import annotations

import fnmatch
import itertools
import ssl
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

import msgspec
from aiohttp import web

from dsqlcdc.testing.search_index import Document, Index, Refused
from dsqlcdc.testing.search_query import page
from dsqlcdc.testing.search_script import run

_encode = msgspec.json.encode


class Reply(msgspec.Struct, frozen=True):
    """An answer: status, body, further headers."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}


def said(status: int, type: str, reason: str) -> Reply:
    """An answer that is an error of the engine."""
    cause = {"type": type, "reason": reason}
    return Reply(status, _encode({"error": {"root_cause": [cause], **cause}, "status": status}))


Before = Callable[[str, str, bytes], Reply | None]
After = Callable[[str, str, Reply], Reply]


class FakeOpenSearch:
    """A node. `clock` is in seconds. `before` may answer a request instead of the engine, `after` may change an answer, `refuse` an item
    (given the action, the index and the id). `max_content_length`: a larger body is a 413. `external_versions`: False for an engine that
    refuses them, which no OpenSearch does."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        gc_deletes: float = 60.0,
        max_content_length: int = 100 * 1024 * 1024,
        external_versions: bool = True,
    ) -> None:
        self.clock, self.gc_deletes, self.max_content_length = clock, gc_deletes, max_content_length
        self.external_versions = external_versions
        self.indexes: dict[str, Index] = {}
        self.aliases: dict[str, dict[str, dict[str, Any]]] = {}
        self.before: Before = lambda method, path, body: None
        self.after: After = lambda method, path, reply: reply
        self.refuse: Callable[[str, str, str], Refused | None] = lambda action, index, id: None
        self.requests: list[tuple[str, str, bytes]] = []
        self._pits: dict[str, tuple[str, list[Document]]] = {}
        self._pit = itertools.count()

    # ── as a test sees it ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def rows(self, name: str) -> dict[str, dict[str, Any]]:
        """The documents that an alias or index shows, by id, as of now."""
        index, alias = self._resolve(name)
        index.refresh()
        _, hits = page(index.visible.values(), {"size": 10_000}, alias)
        return {hit["_id"]: hit["_source"] for hit in hits}

    def restart(self) -> None:
        for index in self.indexes.values():
            index.restart()

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def handle(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Answer a request. `target` is the path with its query."""
        path, _, query = target.partition("?")
        params = dict(parse_qsl(query, keep_blank_values=True))
        self.requests.append((method, path, body))
        reply = self.before(method, path, body)
        if reply is None:
            reply = self._answer(method, path, params, body, headers or {})
        return self.after(method, path, reply)

    def _answer(self, method: str, path: str, params: Mapping[str, str], body: bytes, headers: Mapping[str, str]) -> Reply:
        if len(body) > self.max_content_length:
            return Reply(413)
        try:
            status, data = self.route(method, [unquote(part) for part in path.strip("/").split("/")], params, body, headers)
        except Refused as error:
            return said(error.status, error.type, error.reason)
        except msgspec.MsgspecError as error:
            return said(400, "parse_exception", str(error))
        if "filter_path" in params and status < 300:
            data = _filtered(data, [path.split(".") for path in params["filter_path"].split(",")])
        return Reply(status, b"" if method == "HEAD" else _encode(data))

    def route(self, method: str, parts: list[str], params: Mapping[str, str], body: bytes, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Status and data of an answer. Raises Refused."""
        given: Any = msgspec.json.decode(body) if body and parts[-1] != "_bulk" else {}
        match method, parts:
            case "GET", [""]:
                return 200, {"version": {"distribution": "opensearch", "number": "2.19.6"}}
            case "POST" | "PUT", [*index, "_bulk"]:
                return self._bulk(index[0] if index else None, params, body)
            case "POST" | "GET", ["_mget"]:
                return 200, {"docs": [self._got(doc["_index"], doc["_id"], params) for doc in given["docs"]]}
            case "POST", [name, "_update", id]:
                return self._update(name, id, {**params, **given})
            case "POST", ["_aliases"]:
                return self._change_aliases(given["actions"])
            case "GET", ["_alias", name]:
                return self._alias(name)
            case _, [name, "_doc", id]:
                return self._document(method, name, id, params, body)
            case "POST", [*index, "_refresh" | "_flush"]:
                for one in self._several(index[0] if index else "*"):
                    one.refresh()
                return 200, {"_shards": {"failed": 0}}
            case "POST", [name, "_search", "point_in_time"]:
                return self._open_pit(name)
            case "DELETE", ["_search", "point_in_time"]:
                ids: list[str] = given["pit_id"]
                return 200, {"pits": [{"pit_id": id, "successful": self._pits.pop(id, None) is not None} for id in ids]}
            case "GET" | "POST", [*index, "_search" | "_count"]:
                return self._search(index[0] if index else None, given, parts[-1] == "_count")
            case _, [name, "_mapping"]:
                return self._mapping(method, name, given)
            case "PUT", [name, "_block", "write"]:
                for one in self._several(name):
                    one.settings["index.blocks.write"] = True
                return 200, {"acknowledged": True, "shards_acknowledged": True}
            case "PUT", [name, "_settings"]:
                for one in self._several(name):
                    one.settings.update(_flat(given))
                    one.gc_deletes = _seconds(one.settings.get("index.gc_deletes"), one.gc_deletes)
                return 200, {"acknowledged": True}
            case _, [name] if name and not name.startswith("_"):
                return self._whole(method, name, given)
            case _:
                raise Refused(405, "", f"Incorrect HTTP method for uri [/{'/'.join(parts)}] and method [{method}]")

    # ── indexes and aliases ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _whole(self, method: str, name: str, given: Mapping[str, Any]) -> tuple[int, Any]:
        if method == "PUT":
            self.create(name, given)
            return 200, {"acknowledged": True, "shards_acknowledged": True, "index": name}
        found = self._several(name)
        if method == "DELETE":
            for index in found:
                del self.indexes[index.name]
                for alias in self.aliases.values():
                    alias.pop(index.name, None)
            return 200, {"acknowledged": True}
        return 200, {index.name: {"mappings": index.mappings, "settings": index.settings} for index in found}

    def create(self, name: str, given: Mapping[str, Any]) -> Index:
        """Make an index, with its mapping and its aliases in one step. Raises Refused."""
        if name in self.indexes:
            raise Refused(400, "resource_already_exists_exception", f"index [{name}/uuid] already exists")
        if self.aliases.get(name):
            raise Refused(400, "invalid_index_name_exception", f"Invalid index name [{name}], already exists as alias")
        if name != name.lower() or name[:1] in "-_+" or any(c in ' "*\\<|,>/?#:' for c in name) or len(name.encode()) > 255:
            raise Refused(400, "invalid_index_name_exception", f"Invalid index name [{name}]")
        settings = _flat(given.get("settings", {}))
        index = Index(name, self.clock, gc_deletes=_seconds(settings.get("index.gc_deletes"), self.gc_deletes), created_at=self.clock())
        index.settings, index.field_limit = settings, int(settings.get("index.mapping.total_fields.limit", 1000))
        index.put_mapping(given.get("mappings", {}))
        for alias, about in given.get("aliases", {}).items():
            if alias in self.indexes or alias == name:
                raise Refused(
                    400, "invalid_alias_name_exception", f"Invalid alias name [{alias}], an index exists with the same name as the alias"
                )
            self.aliases.setdefault(alias, {})[name] = dict(about)
        self.indexes[name] = index
        return index

    def _change_aliases(self, actions: list[dict[str, Any]]) -> tuple[int, Any]:
        changed = {alias: dict(members) for alias, members in self.aliases.items()}
        for action in actions:
            ((kind, about),) = action.items()
            self._one(about["index"])
            if kind == "add":
                changed.setdefault(about["alias"], {})[about["index"]] = {k: v for k, v in about.items() if k not in ("index", "alias")}
            elif changed.get(about["alias"], {}).pop(about["index"], None) is None:
                raise Refused(404, "aliases_not_found_exception", f"aliases [{about['alias']}] missing")
        self.aliases = changed
        return 200, {"acknowledged": True}

    def _alias(self, name: str) -> tuple[int, Any]:
        members = self.aliases.get(name)
        if not members:
            return 404, {"error": f"alias [{name}] missing", "status": 404}
        return 200, {index: {"aliases": {name: about}} for index, about in members.items()}

    def _mapping(self, method: str, name: str, given: Mapping[str, Any]) -> tuple[int, Any]:
        if method == "GET":
            return 200, {index.name: {"mappings": index.mappings} for index in self._several(name)}
        for index in self._several(name):
            index.put_mapping(given)
        return 200, {"acknowledged": True}

    def _several(self, name: str) -> list[Index]:
        if "*" in name:
            return [index for index in self.indexes.values() if fnmatch.fnmatchcase(index.name, name)]
        return [self._one(name)]

    def _one(self, name: str) -> Index:
        return self._resolve(name)[0]

    def _resolve(self, name: str) -> tuple[Index, Mapping[str, Any] | None]:
        """An index by its name or alias, and the alias's filter. Raises Refused."""
        members = self.aliases.get(name)
        if members:
            if len(members) > 1:
                raise Refused(400, "illegal_argument_exception", f"alias [{name}] has more than one index associated with it")
            ((index, about),) = members.items()
            return self.indexes[index], about.get("filter")
        if name not in self.indexes:
            raise Refused(404, "index_not_found_exception", f"no such index [{name}]")
        return self.indexes[name], None

    # ── documents ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _document(self, method: str, name: str, id: str, params: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        if method in ("GET", "HEAD"):
            got = self._got(name, id, params)
            return (200 if got["found"] else 404), got
        return self._act("index" if method in ("PUT", "POST") else "delete", name, id, params, body)

    def _act(self, action: str, name: str, id: str, about: Mapping[str, Any], source: bytes) -> tuple[int, Any]:
        """One write: its status and what is said of it. Raises Refused."""
        kind = str(about.get("version_type", "internal"))
        version = int(about["version"]) if "version" in about else None
        if kind != "internal" and not self.external_versions:
            raise Refused(400, "illegal_argument_exception", f"version type [{kind}] is not supported")
        if action == "update":
            return self._update(name, id, {**about, **msgspec.json.decode(source)})
        if name not in self.indexes and not self.aliases.get(name):
            if str(about.get("require_alias", "false")) == "true" and action == "index":
                why = f"no such index [{name}] and [require_alias] request flag is [true] and [{name}] is not an alias"
                raise Refused(404, "index_not_found_exception", why)
            if action == "delete" and not kind.startswith("external"):
                raise Refused(404, "index_not_found_exception", f"no such index [{name}]")
            self.create(name, {})  # an index that is written to is made, with a dynamic mapping
        elif action == "index" and str(about.get("require_alias", "false")) == "true" and not self.aliases.get(name):
            why = f"no such index [{name}] and [require_alias] request flag is [true] and [{name}] is not an alias"
            raise Refused(404, "index_not_found_exception", why)
        index = self._one(name)
        if (refused := self.refuse(action, index.name, id)) is not None:
            raise refused
        _check_blocks(index)
        if action == "index":
            known = id in index.documents
            document = index.index(id, source, version, kind)
            status, result, number = (200, "updated", document.version) if known else (201, "created", document.version)
        else:
            found, number = index.delete(id, version, kind)
            status, result = (200, "deleted") if found else (404, "not_found")
        told = {"_index": index.name, "_id": id, "_version": number, "result": result, "_seq_no": index.seq_no, "_primary_term": 1}
        return status, told

    def _update(self, name: str, id: str, given: Mapping[str, Any]) -> tuple[int, Any]:
        """An update by a script. Raises Refused."""
        if str(given.get("require_alias", "false")) == "true" and not self.aliases.get(name):
            why = f"no such index [{name}] and [require_alias] request flag is [true] and [{name}] is not an alias"
            raise Refused(404, "index_not_found_exception", why)
        if name not in self.indexes and not self.aliases.get(name):
            self.create(name, {})
        index = self._one(name)
        if (refused := self.refuse("update", index.name, id)) is not None:
            raise refused
        _check_blocks(index)
        known = index.documents.get(id)
        if known is None and "upsert" not in given:
            raise Refused(404, "document_missing_exception", f"[{id}]: document missing")
        ctx: dict[str, Any] = {"op": "index" if known else "create", "_source": known.row() if known else dict(given["upsert"])}
        script = given["script"]
        run(script["source"], ctx, script.get("params", {}))
        told: dict[str, Any] = {"_index": index.name, "_id": id, "_seq_no": index.seq_no, "_primary_term": 1}
        shown = given.get("_source")
        if shown and ctx["op"] != "delete":
            told["get"] = {"found": True, "_source": _filtered(ctx["_source"], [path.split(".") for path in shown]) or {}}
        if ctx["op"] == "none":
            return 200, {**told, "_version": known.version if known else -1, "result": "noop"}
        if ctx["op"] == "delete":
            _, number = index.delete(id, None, "internal")
            return 200, {**told, "_version": number, "result": "deleted"}
        document = index.index(id, _encode(ctx["_source"]), None, "internal")
        return (200 if known else 201), {**told, "_version": document.version, "result": "updated" if known else "created"}

    def _got(self, name: str, id: str, params: Mapping[str, str]) -> dict[str, Any]:
        """Read in real time: what was written last, whatever searches see, and whatever an alias hides."""
        index = self._one(name)
        document = index.documents.get(id)
        got: dict[str, Any] = {"_index": index.name, "_id": id, "found": document is not None}
        if document is not None:
            got |= {"_version": document.version, "_seq_no": document.seq_no, "_primary_term": 1}
            if (shown := params.get("_source", "true")) != "false":
                row = document.row()
                got["_source"] = row if shown == "true" else _filtered(row, [path.split(".") for path in shown.split(",")]) or {}
        return got

    def _bulk(self, default: str | None, params: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        if not body.endswith(b"\n"):
            raise Refused(400, "illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
        lines = iter(body.split(b"\n")[:-1])
        todo: list[tuple[str, dict[str, Any], bytes]] = []
        for line in lines:
            ((action, about),) = cast(dict[str, dict[str, Any]], msgspec.json.decode(line)).items()
            if action not in ("index", "update", "delete"):
                raise Refused(
                    400,
                    "illegal_argument_exception",
                    f"Malformed action/metadata line, expected one of [index, update, delete] but found [{action}]",
                )
            version = about.get("version", 1)
            if not isinstance(version, int) or not 0 <= version < 2**63:
                raise Refused(400, "action_request_validation_exception", f"Validation Failed: 1: illegal version value [{version}];")
            todo.append((action, about, b"" if action == "delete" else next(lines, b"")))
        items: list[dict[str, Any]] = []
        for action, about, source in todo:
            name, id = str(about.get("_index", default)), str(about.get("_id", ""))
            try:
                status, told = self._act(action, name, id, {**params, **about}, source)
                items.append({action: {**told, "status": status}})
            except Refused as error:
                items.append({action: {"_index": name, "_id": id, "status": error.status, "error": error.error}})
        return 200, {"took": 1, "errors": any("error" in item for one in items for item in one.values()), "items": items}

    # ── searches ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _open_pit(self, name: str) -> tuple[int, Any]:
        index = self._one(name)
        id = f"pit-{next(self._pit)}"
        self._pits[id] = (index.name, list(index.seen().values()))
        return 200, {"pit_id": id, "creation_time": int(self.clock() * 1000)}

    def _search(self, name: str | None, given: Mapping[str, Any], count: bool) -> tuple[int, Any]:
        alias: Mapping[str, Any] | None = None
        if name is None:
            if (pit := given.get("pit", {}).get("id")) not in self._pits:
                raise Refused(404, "search_context_missing_exception", f"No search context found for id [{pit}]")
            index, documents = self._pits[pit]
        else:
            one, alias = self._resolve(name)
            index, documents = one.name, list(one.seen().values())
        total, hits = page(documents, given, alias)
        if count:
            return 200, {"count": total}
        shown = [{"_index": index, **hit} for hit in hits]
        return 200, {"hits": {"total": {"value": total, "relation": "eq"}, "hits": shown}, "timed_out": False}


def _check_blocks(index: Index) -> None:
    if str(index.settings.get("index.blocks.read_only_allow_delete")).lower() == "true":
        why = f"index [{index.name}] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark];"
        raise Refused(429, "cluster_block_exception", why)
    if str(index.settings.get("index.blocks.write")).lower() == "true":
        raise Refused(403, "cluster_block_exception", f"index [{index.name}] blocked by: [FORBIDDEN/8/index write (api)];")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their whole names; null takes one back."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        whole = f"{prefix}{name}"
        if isinstance(value, dict):
            flat |= _flat(cast(dict[str, Any], value), f"{whole}.")
        else:
            flat[whole if whole.startswith("index.") else f"index.{whole}"] = value
    return flat


def _seconds(text: Any, default: float) -> float:
    """`500ms`, `1s`, `2m`, `1h` in seconds."""
    if not isinstance(text, str):
        return default
    for unit, length in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)):
        if text.endswith(unit):
            return float(text[: -len(unit)]) * length
    return float(text)


def _filtered(data: Any, paths: list[list[str]]) -> Any:
    """What filter_path leaves of an answer."""
    if isinstance(data, list):
        kept = [_filtered(one, paths) for one in data]  # pyright: ignore[reportUnknownVariableType]
        return [one for one in kept if one not in ({}, None)]
    if not isinstance(data, dict):
        return None
    found: dict[str, Any] = {}
    for name, value in cast(dict[str, Any], data).items():
        deeper = [path[1:] for path in paths if path and fnmatch.fnmatchcase(name, path[0])]
        if any(not path for path in deeper):
            found[name] = value
        elif deeper and (kept := _filtered(value, deeper)) not in ({}, [], None):
            found[name] = kept
    return found


@asynccontextmanager
async def serving(engine: FakeOpenSearch, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str, None]:
    """The engine over HTTP, or HTTPS, on loopback; the URL."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = zlib.decompress(body, 31)
        reply = engine.handle(request.method, request.raw_path, body, request.headers)
        return web.Response(status=reply.status, body=reply.body, content_type="application/json", headers=dict(reply.headers))

    app = web.Application(client_max_size=1024 * 1024 * 1024)
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
