"""The page that people open: files from this package, with what a browser must keep them to."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

__all__ = ["PAGE", "PageFiles", "page", "wants_page"]

PAGE = Path(str(files("emamba_service") / "page"))
_HEADERS = {
    # Nothing from elsewhere, nothing inline, and no other site's frame around it.
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Kept, but asked for again: a page and a service of different versions may not fit.
    "cache-control": "no-cache",
}


class PageFiles(StaticFiles):
    """The page's files below `/page`."""

    def __init__(self) -> None:
        super().__init__(directory=PAGE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        await super().__call__(scope, receive, send)

    @property
    def path(self) -> str:
        """The route in metrics, whichever file is asked for."""
        return "/page/{file}"

    def file_response(
        self, full_path: Any, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """A file, or 304 where the browser has it."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(_HEADERS)
        return response


def wants_page(request: Request) -> bool:
    """Whether whoever asks for `/` is a browser: programs get JSON."""
    return "text/html" in request.headers.get("accept", "")


def page() -> Response:
    """The page."""
    return FileResponse(PAGE / "index.html", headers=_HEADERS | {"vary": "accept"})
