"""A server that speaks the OpenAI chat protocol, and misbehaves as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = "A person in a blue coat rides a bicycle from left to right. The camera is still."


@dataclass
class Behaviour:
    """status, text and finish of one answer; `how` for those that are not HTTP as it should be."""

    status: int = 200
    text: str = GOOD
    finish: str = "stop"
    headers: dict[str, str] = field(default_factory=dict)
    how: str = ""
    """"" | break (closes in the middle) | garbage (not JSON) | silent (no byte)"""
    delay: float = 0.0
    error: str = "told to fail"
    refusal: str | None = None


Plan = Callable[[int, dict[str, Any]], Behaviour]


class Server:
    """Counts what it is asked; `plan(n, body)` says how to answer the n-th request (from 0)."""

    def __init__(self, plan: Plan, models: tuple[str, ...] = ("judge-7b",)) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.times: list[float] = []
        self.in_flight = 0
        self.most_in_flight = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self.reply(200, {"data": [{"id": name} for name in models]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    number = len(server.bodies)
                    server.bodies.append(body)
                    server.keys.append(self.headers.get("authorization", ""))
                    server.times.append(time.monotonic())
                    server.in_flight += 1
                    server.most_in_flight = max(server.most_in_flight, server.in_flight)
                try:
                    self.behave(plan(number, body))
                finally:
                    with lock:
                        server.in_flight -= 1

            def behave(self, b: Behaviour) -> None:
                time.sleep(b.delay)
                server.statuses[b.status] += 1
                if b.how == "silent":
                    return
                message = {"role": "assistant", "content": b.text, "refusal": b.refusal}
                good = {
                    "choices": [{"index": 0, "message": message, "finish_reason": b.finish}],
                    "usage": {"prompt_tokens": 900, "completion_tokens": len(b.text.split())},
                }
                document = good if b.status == 200 else {"error": {"message": b.error}}
                if b.how == "garbage":
                    self.reply(200, None, b"<html>Bad gateway</html>")
                elif b.how == "break":
                    self.send_response(200)
                    self.send_header("content-length", "5000")
                    self.end_headers()
                    self.wfile.write(b'{"choices": [{"mess')
                    self.close_connection = True
                else:
                    self.reply(b.status, document, headers=b.headers)

            def reply(
                self,
                status: int,
                document: Any,
                raw: bytes | None = None,
                headers: dict[str, str] | None = None,
            ) -> None:
                data = json.dumps(document).encode() if raw is None else raw
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Threading(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that hangs up is what some tests are about

        self.http = Threading(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@contextmanager
def serve(plan: Plan | None = None, models: tuple[str, ...] = ("judge-7b",)):
    server = Server(plan or (lambda n, body: Behaviour()), models)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
