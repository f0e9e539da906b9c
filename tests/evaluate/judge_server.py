"""A server that speaks the OpenAI protocol and judges by brightness, so the right answer is known."""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

from realdpo.train.evaluate import judge as j


class Server:
    """Scores each video by the mean brightness of its frames, so the right answer is known."""

    def __init__(self, troubles=()):
        self.requests, self.troubles = [], list(troubles)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append((self.path, dict(self.headers), body))
                trouble = server.troubles.pop(0) if server.troubles else None
                if trouble == "drop":
                    self.connection.close()
                    return
                if isinstance(trouble, int):
                    self.send_error(trouble)
                    return
                text = trouble if trouble is not None else server.answer(body)
                reply = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, body):
        content = body["messages"][0]["content"]
        aspects = [a for a in j.ASPECTS if f"\n{a}:" in content[0]["text"]]
        scores, letter = {}, None
        for part in content[1:]:
            if part["type"] == "text":
                found = re.match(r"Video ([A-Z]):", part["text"])
                letter = found[1] if found else None
            elif letter:
                data = base64.b64decode(part["image_url"]["url"].split(",")[1])
                picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
                scores.setdefault(letter, []).append(float(picture.mean()))
        table = {
            letter: {a: [round(np.mean(v) / 25.5, 2)] * 5 for a in aspects}
            for letter, v in scores.items()
        }
        return "Here you are:\n```json\n" + json.dumps(table) + "\n```"
