"""Drops what dsqlcdc's webhooks say has changed from a cache: HOOK_SECRET=whsec_… python invalidator.py 8000

A change may come twice, late, or after a newer one, and a reader may put an old row back between the change and the message. So the cache
keeps, for each row, the newest `sequence` that it was told of, also for rows it does not hold, and takes a row only if it is not older.
"""

import base64
import hmac
import json
import os
import sys
import threading
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ["HOOK_SECRET"].removeprefix("whsec_"))
REMEMBERED = 1_000_000
"""Rows of which the newest sequence is known; of older ones any value is refused until they are read anew."""


class Cache:
    """Rows by subject, `public.orders/{"id":1}`. `sequence`: 20 digits, the row's commit time; compared as text."""

    def __init__(self) -> None:
        self._rows: dict[str, str] = {}
        self._newest: OrderedDict[str, str] = OrderedDict()
        self._floor = ""
        self._lock = threading.Lock()

    def invalidate(self, subject: str, sequence: str) -> bool:
        """Forget a row that changed at `sequence`. False where that is no news: the same again, or older. Nothing is then lost."""
        with self._lock:
            if sequence <= self._newest.get(subject, ""):
                return False
            self._newest[subject] = sequence
            self._newest.move_to_end(subject)
            if len(self._newest) > REMEMBERED:
                self._floor = max(self._floor, self._newest.popitem(last=False)[1])
            self._rows.pop(subject, None)
            return True

    def put(self, subject: str, row: str, sequence: str) -> bool:
        """Keep a row that was read from the database. `sequence`: when the reading began, by the database's clock (the nanoseconds of its
        now()), or by a clock that is never ahead of it. False where a newer change is known: the reader was overtaken, the row stays out."""
        with self._lock:
            if sequence <= self._newest.get(subject, self._floor):
                return False
            self._rows[subject] = row
            return True

    def get(self, subject: str) -> str | None:
        """The row, or None: then read it from the database and `put` it."""
        with self._lock:
            return self._rows.get(subject)


CACHE = Cache()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        sent = self.headers["webhook-timestamp"]
        text = f"{self.headers['webhook-id']}.{sent}.".encode() + body
        mine = "v1," + base64.b64encode(hmac.digest(KEY, text, "sha256")).decode()
        signed = any(hmac.compare_digest(mine, each) for each in self.headers["webhook-signature"].split())
        if fine := signed and abs(time.time() - int(sent)) < 300:
            told = json.loads(body)
            for event in told if isinstance(told, list) else [told]:
                news = CACHE.invalidate(event["subject"], event["sequence"])
                print(json.dumps({"subject": event["subject"], "sequence": event["sequence"], "news": news}), flush=True)
        self.send_response(204 if fine else 401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver)
    print(f"listening on {server.server_port}", file=sys.stderr, flush=True)
    server.serve_forever()
