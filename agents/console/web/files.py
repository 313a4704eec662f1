"""The pages and what they load: files of the package, read once and kept in memory."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from aiohttp import web

from agents.console.web.access.refusals import RefusedError
from pipeline.errors import FaultlineError

_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
    ".json": "application/json",
}
_PACKED: Final = (".html", ".css", ".js", ".svg", ".json")
_START: Final = "plant"
_ONLY: Final = "index"


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file, as it is and packed by gzip."""

    content_type: str
    body: bytes
    packed: bytes | None
    etag: str


class PageFiles:
    """All files by their path in the folder of pages; no other path leads anywhere."""

    def __init__(self, folder: Traversable | None = None) -> None:
        """Read all files of a folder, else those that are shipped; raises FaultlineError if there is no page."""
        root = folder or resources.files("agents.console") / "pages"
        self._files = dict(_read(root)) if root.is_dir() else {}
        if not any(name.endswith(".html") for name in self._files):
            raise FaultlineError("this installation of Faultline has no pages for the console; install it again")

    async def static(self, request: web.Request) -> web.Response:
        """A file by its path."""
        return self._answer(request, request.match_info["path"])

    async def page(self, request: web.Request) -> web.Response:
        """The page of an address: named by its first word, or one that shows all."""
        name = request.match_info.get("page") or _START
        for path in (f"{name}.html", f"{_ONLY}.html"):
            if path in self._files:
                return self._answer(request, path)
        raise RefusedError("not_found", "there is no such page")

    def _answer(self, request: web.Request, path: str) -> web.Response:
        file = self._files.get(path)
        if file is None:
            raise RefusedError("not_found", "there is no such file")
        headers = {"ETag": file.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if file.etag in [part.strip() for part in request.headers.get("If-None-Match", "").split(",")]:
            return web.Response(status=304, headers=headers)
        body = file.body
        if file.packed is not None and "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = file.packed
        charset = "utf-8" if file.content_type.startswith("text/") else None
        return web.Response(body=body, headers=headers, content_type=file.content_type, charset=charset)


def _read(folder: Traversable, prefix: str = "") -> list[tuple[str, PageFile]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _read(entry, f"{prefix}{entry.name}/")
            continue
        suffix = "." + entry.name.rpartition(".")[2]
        if (content_type := _TYPES.get(suffix)) is None:
            continue
        body = entry.read_bytes()
        packed = gzip.compress(body, mtime=0) if suffix in _PACKED else None
        etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        found.append((prefix + entry.name, PageFile(content_type, body, packed, etag)))
    return found
