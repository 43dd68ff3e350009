"""A judge server for this machine only, on which a client can be tried, timed and tested.

It speaks the part of the OpenAI protocol that :class:`~reelrl.rewards.judges.OpenAIJudge` does,
around any function from request to reply.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

PNG = "data:image/png;base64,"
MAX_REQUEST = 256 << 20


def frames_of(request: Mapping[str, Any]) -> Tensor:
    """(n, H, W, 3) float32 frames in [0, 1] that a chat request shows, in order.

    Raises:
        ValueError: for pictures that are no PNG.
    """
    from PIL import Image

    parts = request["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    if not all(url.startswith(PNG) for url in urls):
        raise ValueError("expected PNG pictures in the request")
    files = [io.BytesIO(base64.b64decode(url[len(PNG) :])) for url in urls]
    pictures = [np.array(Image.open(file, formats=["PNG"]).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(pictures)).float() / 255


def yes_reply(p: float) -> dict[str, Any]:
    """A reply that says yes with probability ``p`` in (0, 1) and no otherwise."""
    top = [{"token": w, "logprob": math.log(q)} for w, q in (("yes", p), ("no", 1 - p))]
    first = {"token": "yes", "logprob": math.log(p), "top_logprobs": top}
    return {
        "choices": [{"index": 0, "message": {"content": "yes"}, "logprobs": {"content": [first]}}]
    }


def text_reply(text: str) -> dict[str, Any]:
    """A reply in words."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        models = {"data": [{"id": name} for name in self.server.models]}
        self._send(models if self.path == "/v1/models" else {}, 200)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if self.path != "/v1/chat/completions" or length > MAX_REQUEST:
            return self._send({"error": "expected POST /v1/chat/completions"}, 404)
        try:
            reply = self.server.reply(json.loads(self.rfile.read(length)))
        except Exception as error:
            return self._send({"error": f"{type(error).__name__}: {error}"}, 500)
        self._send(reply, 200)

    def _send(self, reply: Mapping[str, Any], status: int) -> None:
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, reply: Callable[[dict[str, Any]], Mapping[str, Any]], models: Sequence[str]
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply, self.models = reply, models


class LoopbackServer:
    """A server on a free port of 127.0.0.1, up inside a ``with`` block.

    Args:
        reply: gives the reply to a chat request; called from several threads. An error that it
            raises becomes HTTP 500.
        models: names listed under ``/v1/models``.

    Attributes:
        url: base address for a client.
    """

    def __init__(
        self,
        reply: Callable[[dict[str, Any]], Mapping[str, Any]],
        models: Sequence[str] = ("judge",),
    ) -> None:
        self._server = _Server(reply, models)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> LoopbackServer:
        # Polled often, so that leaving the block does not take half a second.
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
