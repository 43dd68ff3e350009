"""A real HTTP server on loopback that judges by brightness, and misbehaves on demand."""

from __future__ import annotations

import base64
import io
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from reelrl.rewards.judges import OpenAIJudge
from reelrl.rewards.judges.pool import Backoff


def pictures(body):
    """All frames of a chat request as arrays in [0, 1]."""
    parts = body["messages"][1]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    raw = [base64.b64decode(url.removeprefix("data:image/png;base64,")) for url in urls]
    return [np.asarray(Image.open(io.BytesIO(data))) / 255 for data in raw]


def brightness(body):
    return float(np.mean(pictures(body)))


def yes_reply(p, mass=1.0):
    """A reply whose P(yes) is ``p`` after renormalising."""
    words = [(" Yes", p * mass), ("no", (1 - p) * mass), ("maybe", 1 - mass)]
    top = [{"token": w, "logprob": math.log(q)} for w, q in words if q > 0]
    return {
        "model": "tiny",
        "system_fingerprint": "build-7",
        "usage": {"prompt_tokens": 11, "completion_tokens": 1},
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Yes"},
                "logprobs": {"content": [{"token": "Yes", "logprob": 0.0, "top_logprobs": top}]},
            }
        ],
    }


def text_reply(text):
    return {"model": "tiny", "choices": [{"index": 0, "message": {"content": text}}]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    counted = 0

    def log_message(self, *args):
        pass

    def leave(self):
        """Count this question as answered, once."""
        with self.server.lock:
            self.server.now -= self.counted
            self.counted = 0

    def send(self, body, status=200, headers=()):
        # Before the answer is written: its reader may ask the next question at once.
        self.leave()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.server.paths.append(self.path)
        if self.path == "/v1/models":
            self.send({"data": [{"id": name} for name in self.server.models]})
        else:
            self.send({"error": "no such page"}, 404)

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.requests)
            server.requests.append(body)
            server.headers.append(dict(self.headers))
            server.now += 1
            self.counted = 1
            server.peak = max(server.peak, server.now)
        try:
            server.behaviour(self, body, number)
        except OSError:
            pass  # the client has gone
        finally:
            self.leave()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behaviour):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = behaviour
        self.models = ["tiny"]
        self.requests, self.headers, self.paths = [], [], []
        self.now = self.peak = 0
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        pass


def judge_by_brightness(handler, body, number):
    handler.send(yes_reply(min(max(brightness(body), 0.01), 0.99)))


@pytest.fixture
def serve():
    """``serve(behaviour)``: a running server; ``behaviour(handler, body, number)`` replies."""
    servers = []

    def start(behaviour=judge_by_brightness):
        server = Server(behaviour)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def make_judge():
    """An ``openai_judge`` for a server, with waits short enough for a test."""

    def make(server, **settings):
        defaults = {"timeout": 5.0, "deadline": 20.0, "num_frames": 2}
        judge = OpenAIJudge("tiny", base_url=server.url, **{**defaults, **settings})
        judge.backoff = Backoff(0, base=0.01, cap=0.02)
        return judge

    return make


@pytest.fixture
def grey():
    """``grey(0.2, 0.8)``: one clip of 4 frames of 8x8 pixels per brightness."""
    return lambda *levels: torch.stack([torch.full((4, 8, 8, 3), level) for level in levels])


@pytest.fixture
def replies():
    return {"yes": yes_reply, "text": text_reply, "brightness": brightness, "pictures": pictures}
