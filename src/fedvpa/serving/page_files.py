"""The files of the page, and what a browser is told about them: it takes nothing from another host."""

from __future__ import annotations

from importlib.resources import files
from pathlib import PurePath

PAGE = "/page/"
"""Where they are served."""

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}

FILES = {
    place.name: (place.read_bytes(), f"{KINDS[PurePath(place.name).suffix]}; charset=utf-8")
    for place in files("fedvpa.serving").joinpath("page").iterdir()
}
"""Name → content and type."""

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
