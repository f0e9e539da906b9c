"""Caption 1,000 clips against a local server, kill -9 in the middle, run again, count requests.

    python benchmarks/captions.py VIDEO [--clips 1000] [--in-flight 16] [--delay 0.2]

The clips are sixteen stretches of one real video under a thousand ids. The server speaks the OpenAI protocol on
this machine, counts what it is asked about, and takes `--delay` seconds for every answer.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from realdpo import ids, tables
from realdpo.media import decode, encode, probe
from realdpo.workspace import Workspace

ANSWER = "A person in a dark coat crosses the street from left to right. The camera is still."


class Server(ThreadingHTTPServer):
    """Counts requests by the picture that is shown first, which tells the clips apart."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.asked: Counter[str] = Counter()
        self.answered = 0
        self.now = self.most = 0
        self.guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the killed client hangs up


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.guard:
            # Every clip's title is its number, and the prompt passes it on.
            self.server.asked[body["messages"][0]["content"][0]["text"].split('"')[1]] += 1
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        time.sleep(self.server.delay)
        message = {"role": "assistant", "content": ANSWER}
        document = {
            "choices": [{"message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1200, "completion_tokens": 20},
        }
        data = json.dumps(document).encode()
        with self.server.guard:
            self.server.now -= 1
            self.server.answered += 1
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def workspace(root: Path, video: Path, count: int) -> Workspace:
    """`count` clips of half a second, 128x72, of sixteen stretches of one video."""
    ws = Workspace(root)
    facts = probe.probe_video(video)
    source_id = ids.file_hash(video)
    pictures = [frame.rgb for frame in decode.decode_frames(video, size=(128, 72))]
    length = max(1, round(facts.fps / 2))
    ws.clip_files.mkdir(parents=True)
    made: dict[int, bytes] = {}
    rows = []
    for number in range(count):
        at = number % 16 * (len(pictures) - length) // 16
        if at not in made:
            made[at] = encode.encode_video(
                pictures[at : at + length], facts.fps, encode.EncodeSettings()
            )
        start, end = Fraction(at) / facts.fps, Fraction(at + length) / facts.fps
        clip_id = ids.content_id(source=source_id, number=number)
        ws.clip_file(clip_id).write_bytes(made[at])
        rows.append(
            {
                "clip_id": clip_id,
                "source_id": source_id,
                "status": "ok",
                "keep": True,
                "start": str(start),
                "end": str(end),
                "start_s": float(start),
                "end_s": float(end),
                "path": f"clips/{clip_id}.mp4",
                "frames": length,
                "fps": str(facts.fps),
                "title": f"clip {number}",
            }
        )
    source = {"source_id": source_id, "path": str(video), "status": "ok"}
    tables.write_table(ws.sources, tables.from_rows(tables.SOURCES, [source]), tables.SOURCES)
    tables.write_table(ws.clips, tables.from_rows(tables.CLIPS, rows), tables.CLIPS)
    return ws


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("video", type=Path)
    options.add_argument("--clips", type=int, default=1000)
    options.add_argument("--in-flight", type=int, default=16)
    options.add_argument("--delay", type=float, default=0.2)
    given = options.parse_args()
    server = Server(given.delay)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        ws = workspace(Path(folder), given.video, given.clips)
        command = [
            sys.executable,
            "-m",
            "realdpo",
            "curate",
            "caption",
            "-w",
            folder,
            "--json",
            "--captioner",
            f"openai:http://127.0.0.1:{server.server_port}/v1",
            "--model",
            "local",
            "--set",
            "frames=4",
            "--set",
            f"concurrency={given.in_flight}",
        ]
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while server.answered < given.clips // 2 and child.poll() is None:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        first = time.monotonic() - began
        time.sleep(given.delay + 0.5)
        asked, answered = server.asked.total(), server.answered
        kept = len(list(ws.step("caption").rglob("*.json")))
        began = time.monotonic()
        summary = json.loads(subprocess.check_output(command))
        second = time.monotonic() - began
        twice = sum(n > 1 for n in server.asked.values())
        third = json.loads(subprocess.check_output(command))
    server.shutdown()
    print(f"killed -9 after {first:.1f} s: {asked} asked, {answered} answered, {kept} on disk")
    print(
        f"run again, {second:.1f} s: {summary['already_there']} were there, "
        f"{summary['asked']} asked; {summary['asked'] / second:.1f} clips/s"
    )
    print(f"asked twice: {twice} (in flight at the kill: at most {given.in_flight})")
    print(f"clips {summary['clips']}: {summary['status']}; most in flight {server.most}")
    print(f"a third run asked {third['asked']}; requests in all {server.asked.total()}")


if __name__ == "__main__":
    main()
