"""Alerts on changes to a watched table: a Lambda function behind a function URL, called by dsqlcdc's webhook sink.

The signature is checked (Standard Webhooks), so nobody else can raise an alert. A change comes at least once with the same id: SNS gets it as the
message's attribute, whoever must not act twice looks there. What is no alert is answered all the same, or it would come again.
On this machine: ALERT_SECRET=whsec_… python alert.py 8001 prints the alerts.
"""

import base64
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ["ALERT_SECRET"].removeprefix("whsec_"))
WATCHED = set(os.environ.get("WATCHED", "public.orders").split(","))
TOPIC = os.environ.get("ALERT_TOPIC", "")


def handler(event: dict, context: object = None) -> dict:
    """The function: an event of a function URL (payload format 2.0)."""
    headers = {name.lower(): value for name, value in event["headers"].items()}
    body = base64.b64decode(event["body"]) if event.get("isBase64Encoded") else event["body"].encode()
    if not signed(headers, body):
        return {"statusCode": 401}
    change = json.loads(body)
    data = change["data"]
    if f"{data['schema']}.{data['table']}" in WATCHED:
        late = " (late)" if data.get("late") else ""
        publish(change["id"], f"{data['op']} of {change['subject']} in transaction {data['transaction']} at {change['time']}{late}", data)
    return {"statusCode": 204}


def signed(headers: dict, body: bytes) -> bool:
    """Was this sent with our secret, within five minutes?"""
    sent = headers.get("webhook-timestamp", "0")
    text = f"{headers.get('webhook-id', '')}.{sent}.".encode() + body
    mine = "v1," + base64.b64encode(hmac.digest(KEY, text, "sha256")).decode()
    known = any(hmac.compare_digest(mine, each) for each in headers.get("webhook-signature", "").split())
    return known and abs(time.time() - int(sent)) < 300


def publish(id: str, subject: str, data: dict) -> None:
    """To SNS; without a topic to stdout."""
    if not TOPIC:
        print(json.dumps({"id": id, "alert": subject, "row": data["row"]}), flush=True)
        return
    import boto3

    attributes = {"change": {"DataType": "String", "StringValue": id}}
    boto3.client("sns").publish(TopicArn=TOPIC, Subject=subject[:100], Message=json.dumps(data), MessageAttributes=attributes)


class Local(BaseHTTPRequestHandler):
    """What the function URL is in AWS, on this machine."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        answer = handler({"headers": dict(self.headers.items()), "body": body})
        self.send_response(answer["statusCode"])
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Local)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
