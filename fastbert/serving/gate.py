"""What a request passes before anything of it is parsed: the key, and the size of its body."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastbert.serving.metrics import Metrics
from fastbert.serving.responses import problem
from fastbert.serving.settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_IS_JSON = (b"content-type", b"application/json")  # all bodies are: a client need not say it
_CLOSE = {"connection": "close"}  # what remains of the body is not read
_OPEN = ("/", "/health", "/ping", "/metrics")  # paths that ask for no key: the page asks for it itself


class Gate:
    """An ASGI middleware.

    Args:
        app: what stands behind it.
        settings: the key and the limit.
        metrics: counts responses by path and status.
    """

    def __init__(self, app: Any, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self._key = None if settings.api_key is None else settings.api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")
                self.metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        headers = dict(scope["headers"])
        if not self._may_pass(scope["path"], headers):
            refused = problem(401, "Unauthorized", "the request lacks the right key: Authorization: Bearer KEY", _CLOSE)
            await refused(scope, receive, counted)
            return
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            await problem(400, "Validation", "content-length is not a number", _CLOSE)(scope, receive, counted)
            return
        if int(length) > self.settings.payload_limit:
            await self._too_large(scope, receive, counted)
            return
        body, whole = bytearray(), False
        while not whole and scope["method"] not in ("GET", "HEAD"):
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > self.settings.payload_limit:
                await self._too_large(scope, receive, counted)
                return
            whole = not message.get("more_body", False)
        if b"origin" not in headers:  # a page elsewhere that sends another type has the browser ask first
            scope = {**scope, "headers": [*(pair for pair in scope["headers"] if pair[0] != b"content-type"), _IS_JSON]}
        given = iter([{"type": "http.request", "body": bytes(body), "more_body": False}])

        async def replay() -> MutableMapping[str, Any]:
            return next(given, None) or await receive()

        await self.app(scope, replay, counted)

    def _may_pass(self, path: str, headers: dict[bytes, bytes]) -> bool:
        if self._key is None or path in _OPEN:
            return True
        given = headers.get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        return hmac.compare_digest(key.strip(), self._key) and scheme.lower() == b"bearer"

    async def _too_large(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self.settings.payload_limit
        told = f"the body has more than {limit} bytes, which is the limit (payload_limit)"
        await problem(413, "Validation", told, _CLOSE)(scope, receive, send)
