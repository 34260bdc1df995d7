"""`dsqlcdc audit verify` by the real command over real objects: a lake that nobody touched is whole, and every tampering is found."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dsqlcdc_s3.digest import body_of, message
from dsqlcdc_s3.encode import void

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
    noted = directory / "noted.json"
    whole = evidence.verify("--resume", str(noted)).expect(0).json
    assert not noted.exists()
    noted.write_text(
        json.dumps({"place": "s3://lake/cdc/", "first": 1, "deep": False, "next": seals[1]["n"], "counts": {}, "findings": []})
    )
    rest = evidence.verify("--resume", str(noted)).expect(0).json
    assert 0 < rest["objects"] < whole["objects"]


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
