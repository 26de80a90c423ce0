"""Responses as JSON, and errors among them."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response; numpy's arrays become lists."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


def problem(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error: {"message", "type"}."""
    return json_response({"message": message, "type": kind}, status, headers)
