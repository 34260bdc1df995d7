"""`dsqlcdc audit verify` by the real command over real objects: a lake that nobody touched is whole, and every tampering is found."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dsqlcdc.contract import Change, Context, Op, Progress, Resume, Table, Unavailable
from dsqlcdc_s3 import Options, S3Sink
from dsqlcdc_s3.digest import body_of, message
from dsqlcdc_s3.encode import void
from dsqlcdc_s3.opening import in_aws

from .command import Done
from .world import BUCKET, STREAM, World, lake

Objects = dict[str, bytes]


def pem(path: Path) -> Path:
    """A new Ed25519 key, as `openssl genpkey -algorithm ed25519` writes it."""
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(*form))
    return path


class Evidence:
    """A world's lake, and the command. `codes` of what was found, in order; every tampering begins from the same objects."""

    def __init__(self, world: World) -> None:
        self.world, self.s3 = world, world.server.client("s3")
        self.objects: Objects = dict(world.objects())

    def verify(self, *more: str) -> Done:
        return self.world.run("audit", "verify", str(self.world.config), "--json", *more)

    def keys(self, folder: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(f"cdc/{folder}/"))

    def json(self, key: str) -> Any:
        return json.loads(self.objects[key].partition(b"\n")[0])

    def put(self, changed: Mapping[str, bytes | None]) -> None:
        for key, body in changed.items():
            if body is None:
                self.s3.delete_object(Bucket=BUCKET, Key=key)
            else:
                self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)

    def tampered(self, changed: Mapping[str, bytes | None], *more: str) -> list[tuple[str, str]]:
        """(code, where) of what is found wrong when these objects are changed (None: deleted); they are put back."""
        self.put(changed)
        done = self.verify(*more)
        self.put({key: self.objects.get(key) for key in changed})
        found = [(one["code"], one["where"]) for one in done.json["findings"] if one["kind"] in ("altered", "missing")]
        assert done.code == (1 if found else 0), done
        return found


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@pytest.fixture
def evidence(world: World) -> Evidence:
    """Four runs and their digests: one over a split and a merge, one that was killed, one with nothing to read, one that is the last."""
    pem(world.directory / "audit.pem")
    world.configure(sinks={"lake": lake(age="200ms", records=150, digest={"key": "audit.pem"})})
    world.commit(60, oversize=1)
    world.server.split(STREAM, 1)
    world.commit(60)
    world.server.merge(STREAM)
    world.commit(60)
    world.once().expect(0)
    world.commit(60)
    killed = world.daemon()
    killed.until(lambda: world.settled() > 0, "it delivers")
    killed.kill()
    world.once().expect(0)
    world.once().expect(0)
    world.commit(30)
    world.once().expect(0)
    world.exact()
    return Evidence(world)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lake_is_whole_and_every_tampering_is_found(evidence: Evidence) -> None:
    whole = evidence.verify("--deep")
    report = whole.expect(0).json
    assert (report["verdict"], report["findings"]) == ("whole", [])
    assert report["rows"] == len(evidence.world.lines())
    assert report["digests"] == report["signed"] == 4
    assert report["read"] == sum(report["settled"].values()) + report["open"] + report["left"] >= evidence.world.sent
    assert any("DSQL and Kinesis" in sentence for sentence in report["unproved"])
    data = [key for key in evidence.keys("data") if evidence.objects[key] != void()]
    manifests, digests = evidence.keys("manifests"), evidence.keys("digests")
    part, manifest = data[len(data) // 2], manifests[1]

    def at(key: str) -> bytes:
        return evidence.objects[key]

    # a flipped byte; a deleted object; an object behind which something was put
    assert evidence.tampered({part: flipped(at(part), 200)}) == [("bytes", part)]
    assert evidence.tampered({part: None}) == [("object", part)]
    assert evidence.tampered({part: at(part) + b"\0"}) == [("bytes", part)]
    # an object that nobody wrote
    assert evidence.tampered({part.replace("hour=", "hour=0"): at(part)}) == [("foreign", part.replace("hour=", "hour=0"))]
    # a replaced object with a manifest that fits it
    assert ("chain", manifests[2]) in evidence.tampered(_replaced(evidence, manifest))
    # a removed manifest, and a chain in another order
    assert ("manifest", manifest) in evidence.tampered({manifest: None})
    order = {manifest: at(manifests[2]), manifests[2]: at(manifest)}
    assert {("order", manifest), ("order", manifests[2])} <= set(evidence.tampered(order))
    # a digest that another key signed, one without a signature, one that is gone though its period was empty
    key = serialization.load_pem_private_key(pem(evidence.world.directory / "other.pem").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    line = at(digests[-1]).partition(b"\n")[0]
    assert evidence.tampered({digests[-1]: body_of(line, key.sign(message(line)))}) == [("signature", digests[-1])]
    assert ("unsigned", digests[-1]) in evidence.tampered({digests[-1]: body_of(line, b"")})
    empty = next(one for one in digests if evidence.json(one)["first"] == evidence.json(one)["n"])
    assert ("digest", empty) in evidence.tampered({empty: None})
    # the end of everything, told by the state; and without it, by nobody
    seal = evidence.json(digests[-2])["n"]
    behind = {one: None for one in manifests + digests if int(Path(one).stem) > seal}
    behind |= {one: None for one in data if int(Path(one).name[:12]) > seal}
    assert any(code == "truncated" for code, _ in evidence.tampered(behind))
    state = evidence.world.directory / "state.db"
    state.rename(state.with_suffix(".away"))
    assert evidence.tampered(behind) == []
    assert any("lose its end" in sentence for sentence in evidence.verify().json["unproved"])
    # and nothing of all that is left
    assert evidence.verify().expect(0).json["verdict"] == "whole"


def _replaced(evidence: Evidence, manifest: str) -> Objects:
    """A row less, in an object and in its manifest, hashes and all."""
    told = evidence.json(manifest)
    entry = max(told["parts"], key=lambda one: one["rows"])
    lines = gzip.decompress(evidence.objects[entry["key"]]).splitlines(keepends=True)[:-1]
    text = b"".join(lines)
    body = gzip.compress(text, mtime=0)
    entry |= {"rows": len(lines), "bytes": len(body), "uncompressed_bytes": len(text)}
    entry |= {"content_sha256": hashlib.sha256(text).hexdigest(), "object_sha256": hashlib.sha256(body).hexdigest()}
    entry["max_version"] = json.loads(lines[-1])["version"]
    return {entry["key"]: body, manifest: json.dumps(told, separators=(",", ":")).encode() + b"\n"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_a_person_sees_and_does(evidence: Evidence) -> None:
    """The words, a public key of one's own, a range, and going on where it was stopped."""
    world, directory = evidence.world, evidence.world.directory
    subprocess.run(["openssl", "pkey", "-in", directory / "audit.pem", "-pubout", "-out", directory / "audit.pub"], check=True)
    pem(directory / "wrong.pem")
    subprocess.run(["openssl", "pkey", "-in", directory / "wrong.pem", "-pubout", "-out", directory / "wrong.pub"], check=True)
    done = world.run("audit", "verify", str(world.config), "--public-key", str(directory / "audit.pub")).expect(0)
    assert "s3://lake/cdc/: whole" in done.out
    assert "4 of 4 digests signed" in done.out
    wrong = evidence.verify("--public-key", str(directory / "wrong.pub")).expect(1)
    assert {one["code"] for one in wrong.json["findings"]} == {"signature", "unsigned"}
    rotated = evidence.verify("--public-key", str(directory / "wrong.pub"), "--public-key", str(directory / "audit.pub"))
    assert rotated.expect(0).json["signed"] == 4
    seals = [json.loads(body.partition(b"\n")[0]) for key, body in sorted(evidence.objects.items()) if "/digests/" in key]
    some = evidence.verify("--from", seals[1]["sealed_at"], "--to", seals[2]["sealed_at"]).expect(0).json
    assert (some["first"], some["last"]) == (seals[1]["n"] + 1, seals[2]["n"])
    noted = directory / "noted"
    whole = evidence.verify("--resume", str(noted)).expect(0).json
    assert not noted.exists(), "the verdict is out"
    noted.write_text("of somebody else")
    assert "E387" in evidence.verify("--resume", str(noted)).expect(1).err
    noted.write_text('{"place":"s3://lake/cdc/","first":1,"deep":false,"next":9,"counts":{},"findings":[]}')  # as 0.1.0 once noted it
    again = evidence.verify("--resume", str(noted)).expect(0).json
    assert (again["objects"], again["skipped"]) == (whole["objects"], 0), "nothing was noted there that counts"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_with_versions_a_hidden_and_an_overwritten_object_are_found_and_what_is_left_of_them(world: World) -> None:
    s3 = world.server.client("s3")
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    world.commit(40)
    world.once().expect(0)
    evidence = Evidence(world)
    assert evidence.verify("--deep").expect(0).json["verdict"] == "whole"
    one, two = evidence.keys("data")[:2]
    s3.delete_object(Bucket=BUCKET, Key=one)
    s3.put_object(Bucket=BUCKET, Key=two, Body=evidence.objects[two])
    found = evidence.verify().expect(1).json["findings"]
    assert [(finding["code"], finding["where"]) for finding in found] == [("hidden", one), ("versions", two)]
    assert "is still there" in found[0]["what"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_declared_gap_is_no_alteration(world: World) -> None:
    world.configure(source={"on_trimmed": "continue"})
    world.commit(40)
    world.once().expect(0)
    world.run("checkpoint", "reset", str(world.config), "--sink", "lake", "--to", "latest", "--yes").expect(0)
    world.commit(10)
    world.run("run", str(world.config), "--once")
    done = Evidence(world).verify().expect(3)
    assert done.json["verdict"] == "whole with declared gaps"
    assert {one["kind"] for one in done.json["findings"]} <= {"gap", "note"}
    assert any(one["code"] == "reset" for one in done.json["findings"])


# ── what only a writer can leave behind ──────────────────────────────────────────────────────────────────────────────────────────────


class Stubborn:
    """A store that does not take one part until it is told to."""

    def __init__(self, objects: Any) -> None:
        self._objects, self.refuses = objects, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    async def put(self, key: str, body: bytes, **more: Any) -> Any:
        if self.refuses and self.refuses in key:
            raise Unavailable("cannot put", where=key, why="no answer")
        return await self._objects.put(key, body, **more)


def written(world: World, write: Callable[[S3Sink, Stubborn, Callable[[str, int], None]], Any], lineage: Mapping[str, Any]) -> None:
    """A lake by the real writer over the embedded S3; `write(sink, store, read)` says what it does, `read(shard, to)` what is read by then."""
    options = Options(bucket=BUCKET, prefix="cdc/", endpoint_url=world.server.endpoint, region="us-east-1")
    made = Context("acceptance", "lake")
    at: dict[str, int] = {}

    def progress() -> list[Progress]:
        return [
            Progress(shard, "trim_horizon", str(to), to, {"delivered": to}, 0, frontier=str(to), arrived=1.0, first="1")
            for shard, to in at.items()
        ]

    async def run() -> None:
        async with in_aws(options, made) as objects:
            store = Stubborn(objects)

            @asynccontextmanager
            async def opened() -> AsyncIterator[Any]:
                yield store

            async with S3Sink(options, made, objects=opened, ticking=False) as sink:
                await sink.resume(Resume("acceptance", "lake", b"", 0.0, progress, "s@1", lambda: lineage))
                await write(sink, store, at.__setitem__)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.environ.items():
            patch.setenv(name, value)
        asyncio.run(run())


def change(number: int) -> Change:
    table = Table("c1", "public", "orders", ("id",))
    hasher = hashlib.blake2b(msgspec.json.encode(["c1", "public", "orders"]), digest_size=16)
    version = 1_800_000_000 * 10**9 + number
    hasher.update(b'{"id":%d}' % number + version.to_bytes(8, "big"))
    key = msgspec.Raw(b'{"id":%d}' % number)
    return Change(hasher.digest(), Op.INSERT, table, key, version, "t", key, None, b"", "s1", str(number), 1_800_000_000.0)


@pytest.mark.timeout(180)
def test_a_void_part_that_is_filled_later_is_found(world: World) -> None:
    async def write(sink: S3Sink, store: Stubborn, read: Callable[[str, int], None]) -> None:
        store.refuses = "000000000001-0000"
        with pytest.raises(Unavailable):
            await sink.write([change(1)])
        store.refuses = ""
        assert await sink.write([change(1), change(2)]) == []
        read("s1", 2)
        await sink.seal(closing=True)

    written(world, write, {"s1": ()})
    evidence = Evidence(world)
    report = evidence.verify("--deep").expect(0).json
    assert (report["void"], report["rows"]) == (1, 2)
    first, second = evidence.keys("data")
    assert evidence.objects[first] == void()
    assert evidence.tampered({first: evidence.objects[second]}) == [("filled", first)]
    assert evidence.tampered({second: void()}) == [("emptied", second)]


@pytest.mark.timeout(180)
def test_a_shard_that_nobody_read_is_found(world: World) -> None:
    async def write(sink: S3Sink, store: Stubborn, read: Callable[[str, int], None]) -> None:
        assert await sink.write([change(1)]) == []
        read("s1", 1)
        await sink.seal()
        assert await sink.write([change(2)]) == []
        read("s1", 2)
        await sink.seal(closing=True)

    written(world, write, {"s1": (), "s2": ()})
    found = Evidence(world).verify().expect(1).json["findings"]
    assert [(one["kind"], one["code"], one["where"]) for one in found] == [("missing", "unread", "s2")]


# ── keys, buckets, locks, Lambda ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_digests_signed_by_kms_in_a_bucket_of_their_own_and_a_lake_that_is_held(world: World) -> None:
    s3, kms = world.server.client("s3"), world.server.client("kms")
    s3.create_bucket(Bucket="held", ObjectLockEnabledForBucket=True)
    s3.create_bucket(Bucket="digests", ObjectLockEnabledForBucket=True)
    key = kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"]["Arn"]
    role = "arn:aws:iam::123456789012:role/orders-cdc-digests"
    digest = {"key": key, "bucket": "digests", "role": role}
    sink = {**lake(digest=digest, object_lock={"mode": "GOVERNANCE", "days": 30}), "bucket": "held"}
    world.configure(sinks={"lake": sink})
    world.commit(40)
    world.once().expect(0)
    names = [one["Key"] for one in s3.list_objects_v2(Bucket="digests")["Contents"]]
    assert len(names) == 1
    assert not s3.list_objects_v2(Bucket="held", Prefix="cdc/digests/").get("Contents")
    verify = ("audit", "verify", str(world.config), "--json")
    report = world.run(*verify).expect(0).json
    assert (report["verdict"], report["signed"], report["digests"]) == ("whole", 1, 1)
    (world.directory / "audit.pub").write_bytes(kms.get_public_key(KeyId=key)["PublicKey"])
    world.run(*verify, "--public-key", str(world.directory / "audit.pub")).expect(0)
    one = next(one["Key"] for one in s3.list_objects_v2(Bucket="held", Prefix="cdc/data/")["Contents"])
    s3.put_object_retention(Bucket="held", Key=one, BypassGovernanceRetention=True, Retention={})
    assert [(found["code"], found["where"]) for found in world.run(*verify).expect(1).json["findings"]] == [("retention", one)]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_writers_digest_is_written_by_the_command_and_secrets_are_in_no_log(world: World) -> None:
    secret = pem(world.directory / "audit.pem").read_text().splitlines()[1]
    world.configure(sinks={"lake": lake(digest={"key": "audit.pem"})})
    world.commit(40)
    done = world.once("--log", "json").expect(0)
    assert secret not in done.out + done.err
    evidence = Evidence(world)
    (digest,) = evidence.keys("digests")
    evidence.put({digest: None})
    assert evidence.verify().expect(1).json["findings"][0]["code"] == "digest"
    written = world.run("audit", "digest", str(world.config), "--json").expect(0).json
    assert written == {"digests": [digest]}
    assert evidence.verify().expect(0).json["signed"] == 1
    assert world.run("audit", "digest", str(world.config), "--json").expect(0).json == {"digests": []}
