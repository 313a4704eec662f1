"""What comes in a request's body or address, and how documents go out."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from agents.console.web.access.refusals import RefusedError
from agents.console.web.guard import peer_of

MAX_BODY_BYTES: Final = 65_536
BODY_SECONDS: Final = 5.0
"""Within which a body must have come."""

_PACKED_FROM_BYTES: Final = 4_096
_MAX_TIME_MS: Final = 2**53

T = TypeVar("T")


async def read_body(request: web.Request, kind: type[T]) -> T:
    """The JSON of a request; raises RefusedError."""
    if request.content_type != "application/json":
        raise RefusedError("content_type", "the body is not of type application/json")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise RefusedError("took_too_long", "the body of the request did not come in time") from None
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise RefusedError("bad_request", str(error), where="the body of the request") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RefusedError("bad_request", "this is not JSON", where="the body of the request") from None


def time_parameter(request: web.Request, name: str) -> int | None:
    """A time in milliseconds; raises RefusedError."""
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 17 and int(text) < _MAX_TIME_MS):
        raise RefusedError("bad_request", f"{text[:40]!r} is no time in milliseconds", where=f"the parameter {name}")
    return int(text)


def number_parameter(request: web.Request, name: str, default: int, most: int) -> int:
    """A whole number from 1 to `most`; raises RefusedError."""
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise RefusedError(
            "bad_request", f"{text[:40]!r} is no number from 1 to {most:,}", where=f"the parameter {name}"
        )
    return int(text)


def answer(request: web.Request, document: Any) -> web.Response:
    """A document as JSON; 304 if the browser has the same, packed for those who come by a network."""
    body = msgspec.json.encode(document)
    etag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache, private", "Vary": "Accept-Encoding, Cookie, Authorization"}
    if etag in [part.strip() for part in request.headers.get("If-None-Match", "").split(",")]:
        return web.Response(status=304, headers=headers)
    peer = peer_of(request)
    is_near = peer is not None and peer.is_loopback and "X-Forwarded-For" not in request.headers
    if len(body) >= _PACKED_FROM_BYTES and not is_near and "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body, compresslevel=1, mtime=0)
    return web.Response(body=body, headers=headers, content_type="application/json")
