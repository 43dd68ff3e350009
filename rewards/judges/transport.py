"""One JSON request over HTTP that ends in time, follows nowhere and reads no more than allowed."""

from __future__ import annotations

import http.client
import ipaddress
import json
import math
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from threading import Timer
from typing import Any
from urllib.parse import urlsplit


class TransportError(Exception):
    """No usable reply: refused, cut off, late, redirected or too large."""


class RequestTooLarge(Exception):
    """A request of more bytes than are allowed; it was not sent, and asking again cannot help."""


@dataclass(frozen=True)
class Reply:
    """A server's reply.

    Attributes:
        status: HTTP status.
        body: at most as many bytes as were allowed.
        retry_after: seconds it asks to be left alone; None if it does not.
    """

    status: int
    body: bytes
    retry_after: float | None = None

    def json(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            ValueError: for anything else; ``NaN`` and ``Infinity`` are no JSON.
        """
        try:
            value = json.loads(self.body, parse_constant=_refuse)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError("the reply is no JSON") from error
        if not isinstance(value, dict):
            raise ValueError(f"the reply is no JSON object but {type(value).__name__}")
        return value

    def message(self, secret: str = "", limit: int = 200) -> str:
        """The error that the body states, on one line of at most ``limit`` characters.

        Args:
            secret: blanked out; servers quote the key they refuse.
            limit: characters.
        """
        text = _error_text(self.body)
        if secret:
            text = text.replace(secret, "***")
        text = text.lstrip()[: 8 * limit]  # a megabyte of it takes as long as a forward pass
        printable = "".join(c if c.isprintable() else " " for c in text)
        return " ".join(printable.split())[:limit]


def _error_text(body: bytes) -> str:
    """The message in a JSON error as OpenAI, vLLM or FastAPI write it, else all of the body."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace")
    for key in ("error", "message", "detail"):
        while isinstance(value, dict) and key in value:
            value = value[key]
    # Not written as JSON again, which could nest too deeply where reading did not.
    return value if isinstance(value, str) else body.decode(errors="replace")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_address(url: str) -> tuple[bool, str, int | None, str]:
    """Whether it is https, host, port and path of ``http(s)://host[:port]/path``.

    Raises:
        ValueError: for any other address; parts that may be secret are not quoted.
    """
    try:
        parts = urlsplit(url)
        odd = parts.username or parts.password or parts.query or parts.fragment
        if parts.scheme in ("http", "https") and parts.hostname and not odd:
            return parts.scheme == "https", parts.hostname, parts.port, parts.path.rstrip("/")
    except ValueError:  # its text too quotes the address
        pass
    shown = re.sub(r"^(\w+://)?.*@", r"\1***@", url, flags=re.DOTALL)
    shown = re.sub(r"[?#].*", "***", shown, flags=re.DOTALL)
    raise ValueError(f"expected http(s)://host[:port]/path, got {shown!r}")


class Transport:
    """Requests below one base address.

    No redirects, no proxies, no cookies, nothing but JSON.

    Args:
        base_url: such as ``http://127.0.0.1:8000/v1``.
        headers: sent with every request.
        allow_remote: permit a host other than this machine.
        max_request: bytes of a request.
        max_reply: bytes of a reply.

    Raises:
        ValueError: for an address that is not http(s), holds a user or a query, is another
            machine's without ``allow_remote``, or would take a key there without https.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        *,
        allow_remote: bool = False,
        max_request: int = 64 << 20,
        max_reply: int = 1 << 20,
    ) -> None:
        self.secure, self.host, self.port, self.path = read_address(base_url)
        here = is_loopback(self.host)
        if not allow_remote and not here:
            raise ValueError(
                f"{self.host!r} is another machine: clips and captions would leave this one; "
                "pass allow_remote=True if they may"
            )
        if "Authorization" in (headers or {}) and not self.secure and not here:
            raise ValueError(
                f"the key would go to {self.host!r} in clear text: expected https, got http"
            )
        self.headers = {"Accept": "application/json", **(headers or {})}
        self.max_request, self.max_reply = max_request, max_reply

    def request(
        self, method: str, path: str, payload: Mapping[str, Any] | None, seconds: float
    ) -> Reply:
        """Send and read one request within ``seconds`` altogether.

        Raises:
            RequestTooLarge: if the payload has more bytes than are allowed.
            TransportError: if no complete reply of the allowed size came in time, or a redirect.
        """
        body = None if payload is None else json.dumps(payload).encode()
        if body is not None and len(body) > self.max_request:
            raise RequestTooLarge(f"request of {len(body)} bytes, allowed {self.max_request}")
        if seconds <= 0:
            raise TransportError("no time left")
        connection = self._connection(seconds)
        late = _Guard(connection, seconds)
        try:
            connection.connect()
            late.start()
            headers = {**self.headers, "Content-Type": "application/json", "Connection": "close"}
            connection.request(method, self.path + path, body, headers)
            reply = self._read(connection.getresponse())
        except (OSError, http.client.HTTPException, TransportError) as error:
            if late.fired or isinstance(error, TimeoutError):
                raise TransportError("no answer in time") from error
            if isinstance(error, TransportError):
                raise
            raise TransportError(f"{type(error).__name__}: connection failed") from error
        except ValueError as error:
            # Its text quotes the header that http.client refuses, and with it the key.
            raise TransportError(f"{type(error).__name__}: request refused") from None
        finally:
            late.stop()
            connection.close()
        if late.fired:
            raise TransportError("no answer in time")
        return reply

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        if self.secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                self.host, self.port, timeout=seconds, context=context
            )
        return http.client.HTTPConnection(self.host, self.port, timeout=seconds)

    def _read(self, response: http.client.HTTPResponse) -> Reply:
        if 300 <= response.status < 400:
            raise TransportError(f"HTTP {response.status}: redirects are not followed")
        body = response.read(self.max_reply + 1)
        if len(body) > self.max_reply:
            raise TransportError(f"reply larger than {self.max_reply} bytes")
        if response.length:
            raise TransportError("reply cut off")
        return Reply(response.status, body, _retry_after(response.headers.get("Retry-After")))


class _Guard:
    """Cuts a connection when its time is up.

    A socket's own time limit starts anew with every byte, so a server that sends one now and then
    would hold a request for ever.
    """

    def __init__(self, connection: http.client.HTTPConnection, seconds: float) -> None:
        self.fired = False
        self.connection = connection
        self.socket: socket.socket | None = None
        self.timer = Timer(seconds, self._cut)
        self.timer.daemon = True

    def start(self) -> None:
        # Kept here: http.client forgets its socket once the reply says that it will close.
        self.socket = self.connection.sock
        self.timer.start()

    def stop(self) -> None:
        self.timer.cancel()

    def _cut(self) -> None:
        self.fired = True
        if self.socket is not None:
            try:
                self.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # closed by itself in this very moment


def _retry_after(value: str | None) -> float | None:
    """Seconds from a number or a date; None for neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
