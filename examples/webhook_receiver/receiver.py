"""Keeps the newest version of every row that dsqlcdc's webhooks tell of: HOOK_SECRET=whsec_… python receiver.py rows.db 8000"""

import base64
import hmac
import json
import os
import sqlite3
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ["HOOK_SECRET"].removeprefix("whsec_"))
TABLE = "create table if not exists rows (subject text primary key, sequence text not null, row text)"
NEWER = "on conflict do update set sequence = excluded.sequence, row = excluded.row where excluded.sequence > sequence"


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        sent = self.headers["webhook-timestamp"]
        text = f"{self.headers['webhook-id']}.{sent}.".encode() + body
        mine = "v1," + base64.b64encode(hmac.digest(KEY, text, "sha256")).decode()
        signed = any(hmac.compare_digest(mine, each) for each in self.headers["webhook-signature"].split())
        if fine := signed and abs(time.time() - int(sent)) < 300:
            event = json.loads(body)
            # Stored before it is answered. A repetition or an older version changes nothing; a delete leaves its version behind.
            with sqlite3.connect(sys.argv[1], timeout=10) as rows:
                rows.execute(TABLE)
                rows.execute(
                    f"insert into rows values (?, ?, ?) {NEWER}", (event["subject"], event["sequence"], json.dumps(event["data"]["row"]))
                )
            rows.close()
        self.send_response(204 if fine else 401)
        self.end_headers()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Receiver)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
