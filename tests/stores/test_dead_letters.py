"""Dead letters as files: layout, durability, what the system refuses, what cannot be read."""

from __future__ import annotations

import base64
import errno
import gzip
import json
import os
from pathlib import Path

import msgspec
import pytest

from dsqlcdc.core.ports import DeadLetter
from dsqlcdc.errors import Misconfigured, Unavailable
from dsqlcdc.stores import letters
from dsqlcdc.stores.files import FileDeadLetters

LETTER = DeadLetter(
    pipeline="orders",
    sink="",
    stream="orders@1",
    shard="shardId-000000000001",
    sequence="4967",
    arrived=1_763_673_874.25,
    code="unreadable",
    detail="x",
    raw=b"\xff\x00{",
    event={"cluster": "c", "key": {"id": 7}, "version": 1_775_074_947_790_874_837, "transaction": "t", "op": "u"},
    images={"after": b"{}"},
    attempts=2,
    at=1_763_673_900.0,
    id="id",
)


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


async def test_names_are_the_published_ones(tmp_path: Path) -> None:
    store = FileDeadLetters(tmp_path)
    await store.put(LETTER)
    await store.put(msgspec.structs.replace(LETTER, sink="lake", code="no key/…", images={}))
    await store.put(msgspec.structs.replace(LETTER, sink="lake", code="no key/…"))
    assert [str(path.relative_to(tmp_path)) for path in files(tmp_path)] == [
        "dt=2025-11-20/shard=shardId-000000000001/4967-unreadable.json.gz",
        "sink=lake/dt=2025-11-20/shard=shardId-000000000001/4967-no%20key%2F%E2%80%A6.json.gz",
        "sink=lake/dt=2026-04-01/row/id-no%20key%2F%E2%80%A6.json.gz",
    ]


async def test_a_letter_is_the_published_json(tmp_path: Path) -> None:
    await FileDeadLetters(tmp_path, "cafe").put(LETTER)
    (path,) = files(tmp_path)
    body = json.loads(gzip.decompress(path.read_bytes()))
    assert body.pop("env")["config_sha256"] == "cafe"
    assert base64.b64decode(body.pop("raw_b64")) == LETTER.raw
    assert body == {
        "v": 1,
        "id": "id",
        "sink": "",
        "pipeline": "orders",
        "error": {
            "class": "record",
            "code": "unreadable",
            "type": "before_routing",
            "reason": "x",
            "attempts": 2,
            "first_at": 1_763_673_900.0,
            "last_at": 1_763_673_900.0,
        },
        "event": {"cluster": "c", "pk": {"id": 7}, "ts_ns": 1_775_074_947_790_874_837, "tx": "t", "op": "u"},
        "source": {"stream": "orders@1", "shard": "shardId-000000000001", "seq": "4967", "arrival": 1_763_673_874.25},
        "images_b64": {"after": "e30="},
    }


def test_the_same_letter_has_the_same_bytes() -> None:
    first, second = (letters.encode(LETTER, version="1", config_sha256="") for _ in range(2))
    assert first == second
    assert first[4:8] == b"\0\0\0\0"  # gzip's time


def test_a_reason_is_cut_between_characters() -> None:
    letter = letters.decode(letters.encode(msgspec.structs.replace(LETTER, detail="é" * 5000 + "\ud800"), version="1", config_sha256=""))
    assert letter.detail == "é" * 2048


def test_an_event_of_any_values_can_be_written() -> None:
    event = {"key": {"a": float("nan"), "b": 10**5000, "c": b"\xff", "d": ("\ud800", None, True, object), "e": 2**70}}
    body = letters.decode(letters.encode(msgspec.structs.replace(LETTER, event=event), version="1", config_sha256=""))
    assert body.event["key"]["e"] == 2**70
    assert body.event["key"]["a"] == "nan"


def test_names_differ_where_records_differ() -> None:
    words = ["a", "a-b", "b", "", "%2D", "-", "x" * 400, "x" * 401, "é" * 300, "é" * 301, "..", "/"]
    every = [msgspec.structs.replace(LETTER, sequence=s, code=c) for s in words for c in words if s and c]
    names = {letters.name_of(letter) for letter in every}
    assert len(names) == len(every)
    assert max(len(part) for name in names for part in name.split("/")) <= 255
    row = msgspec.structs.replace(LETTER, sink="s", id="ab", images={"after": b"{}"}, event={"version": 10**18})
    assert letters.name_of(row) == letters.name_of(msgspec.structs.replace(row, shard="another", sequence="9", arrived=1e9 + 86_400))
    assert letters.name_of(row).startswith("sink=s/dt=2001-09-09/row/ab-")
    assert len({letters.name_of(msgspec.structs.replace(row, **{field: "x"})) for field in ("id", "code", "sink", "detail")}) == 4
    for empty in ("sequence", "code"):
        with pytest.raises(ValueError, match="needs a sequence and a code"):
            letters.name_of(msgspec.structs.replace(LETTER, **{empty: ""}))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names what is flushed by Linux's /proc")
async def test_a_letter_is_durable_before_put_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is flushed before it has its name, then the directory, and every directory that was made."""
    events: list[str] = []
    fsync, link = os.fsync, os.link

    def recording_fsync(handle: int) -> None:
        events.append("sync " + os.readlink(f"/proc/self/fd/{handle}").removeprefix(str(tmp_path)))
        fsync(handle)

    def recording_link(source: Path, target: Path) -> None:
        events.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "link", recording_link)
    store = FileDeadLetters(tmp_path / "d")
    assert await store.put(LETTER)
    shard = "/d/dt=2025-11-20/shard=shardId-000000000001"
    assert events[:3] == ["sync ", "sync /d", "sync /d/dt=2025-11-20"]
    assert events[3].startswith(f"sync {shard}/.")
    assert events[4:] == ["link", f"sync {shard}"]
    events.clear()
    assert not await store.put(LETTER)
    assert events == [f"sync {shard}"]


@pytest.mark.parametrize("step", ["fsync", "link", "mkdir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EPERM])
async def test_what_the_system_refuses_is_unavailable(step: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    store = FileDeadLetters(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, step, refuse)
        with pytest.raises(Unavailable, match=rf"E211.*{os.strerror(code)}"):
            await store.put(LETTER)
    assert not [entry async for entry in store.letters()]
    assert not files(tmp_path)
    assert await store.put(LETTER)


async def test_a_rival_that_was_quicker_keeps_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await FileDeadLetters(tmp_path).put(LETTER)
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert not await FileDeadLetters(tmp_path).put(msgspec.structs.replace(LETTER, raw=b"other"))
    monkeypatch.undo()
    assert [letter async for _, letter in FileDeadLetters(tmp_path).letters()] == [LETTER]
    assert len(files(tmp_path)) == 1


async def test_letters_that_cannot_be_read_are_named_after_the_others(tmp_path: Path) -> None:
    store = FileDeadLetters(tmp_path)
    for sequence in ("1", "2", "3", "4", "5", "6"):
        await store.put(msgspec.structs.replace(LETTER, sequence=sequence))
    directory = tmp_path / "dt=2025-11-20" / "shard=shardId-000000000001"
    good = (directory / "1-unreadable.json.gz").read_bytes()
    (directory / "2-unreadable.json.gz").write_bytes(good[:-20])
    (directory / "3-unreadable.json.gz").write_bytes(b"")
    (directory / "4-unreadable.json.gz").write_bytes(gzip.compress(b'{"v": 1}'))
    (directory / "5-unreadable.json.gz").write_bytes(gzip.compress(b"[]"))
    (directory / ".half.tmp").write_bytes(b"what a crash left")
    found = store.letters()
    assert [(await anext(found))[1].sequence for _ in range(2)] == ["1", "6"]
    with pytest.raises(Misconfigured, match=r"E207 4 dead letters cannot be read.*2-unreadable") as caught:
        await anext(found)
    assert "4-unreadable" in str(caught.value)


async def test_a_newer_letter_is_refused_with_a_plain_word(tmp_path: Path) -> None:
    store = FileDeadLetters(tmp_path)
    await store.put(LETTER)
    (path,) = files(tmp_path)
    body = json.loads(gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(json.dumps({**body, "v": 2}).encode()))
    with pytest.raises(Misconfigured, match=r"E202 1 dead letter cannot be read.*its format is 2, this dsqlcdc knows 1: use a newer"):
        [entry async for entry in store.letters()]


async def test_one_letter_is_found_by_its_name(tmp_path: Path) -> None:
    store = FileDeadLetters(tmp_path / "d")
    assert [entry async for entry in store.letters()] == []
    await store.put(LETTER)
    (entry,) = [entry async for entry in store.letters()]
    assert await store.letter(entry[0]) == LETTER
    for name in ("dt=2025-11-20/none.json.gz", "../d/" + entry[0], "dt=2025-11-20"):
        with pytest.raises(KeyError):
            await store.letter(name)
    await store.close()


async def test_a_directory_that_cannot_be_used_is_found_at_the_start(tmp_path: Path) -> None:
    await FileDeadLetters(tmp_path / "new" / "letters").prepare()
    assert (tmp_path / "new" / "letters").is_dir()
    (tmp_path / "plain").write_text("a file")
    with pytest.raises(Misconfigured, match=r"E208 .*dead_letters\.path"):
        await FileDeadLetters(tmp_path / "plain").prepare()
