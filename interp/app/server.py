"""The server: one page on 127.0.0.1, which answers no other name, writes nothing and loads nothing from anywhere else.

>>> with serve("runs", port=0) as server:                                               # doctest: +SKIP
...     print(server.url)
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from dash import Dash
from dash.exceptions import DependencyException, PreventUpdate
from flask import Flask, Response, abort, request
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from interp.app import callbacks, pages
from interp.app.data import Library
from interp.errors import StoreError, UserError
from interp.store import Store

HOST = "127.0.0.1"
_NAMES = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?\Z")
_OWN = re.compile(r"/(_dash-[^/]+(/.*)?|_favicon\.ico|assets/[\w.-]+)\Z")
_PAGES = re.compile(r"/(?:run/([0-9a-f]{12})|compare/([0-9a-f]{12})/([0-9a-f]{12}))?\Z")


class PortError(UserError, OSError):
    """A port that cannot be listened on."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    url: str
    wsgi: BaseWSGIServer


class _Quiet(WSGIRequestHandler):
    """No line for every request, and no version in the answers."""

    server_version, sys_version = "interp", ""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        return


def build(library: Library, name: str) -> Dash:
    """The app.

    Args:
        library: what is shown.
        name: of the store, in the head of the page.
    """
    app = Dash(
        "interp",
        assets_folder=str(Path(__file__).parent / "assets"),
        title="interp",
        update_title="",
        serve_locally=True,
        use_pages=False,
        enable_mcp=False,
        add_log_handler=False,
        on_error=_gone,
        suppress_callback_exceptions=True,  # pages are made when they are opened
    )
    app.layout = lambda: pages.frame(name)
    callbacks.register(app, library)
    _guard(app, library)
    return app


def _gone(error: Exception) -> None:
    """A run that was removed while it was looked at: the page stays as it is, and says so where it follows the run."""
    if not isinstance(error, StoreError):
        raise error
    raise PreventUpdate from error


def _guard(app: Dash, library: Library) -> None:
    """Refuse foreign names of this machine, and pages that there are not; forbid the browser to load from elsewhere."""
    flask: Flask = app.server
    hashes = " ".join(f"'{digest}'" if not digest.startswith("'") else digest for digest in app.csp_hashes())
    policy = (
        f"default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    @flask.before_request
    def _refuse() -> None:
        # a page of another site that resolves its own name to this machine would send that name here
        if not _NAMES.match(request.headers.get("Host", "")):
            abort(403)
        origin = request.headers.get("Origin")
        if origin is not None and origin != request.host_url.rstrip("/"):
            abort(403)
        if _OWN.match(request.path):
            return
        page = _PAGES.match(request.path)
        if page is None or any(run_id not in library for run_id in page.groups() if run_id):
            abort(404)

    @flask.errorhandler(DependencyException)
    def _unknown(error: DependencyException) -> Response:
        return Response("Not Found", 404)  # a script that is none of the page's

    @flask.after_request
    def _dress(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response


@contextmanager
def serve(store: str | os.PathLike[str] | Store | Library, *, port: int = 8050) -> Iterator[Server]:
    """Serve a store from a thread until the block ends.

    Args:
        store: a store, or where it is.
        port: 0 takes a free one.

    Raises:
        PortError: another program listens there.
    """
    library = store if isinstance(store, Library) else Library(store if isinstance(store, Store) else Store(store))
    app = build(library, library.store.address)
    try:
        listening = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise PortError(
            f"port {port} of {HOST} cannot be listened on ({error}); choose another one, or 0 for any free one"
        ) from None
    with listening:
        wsgi = make_server(HOST, port, app.server, threaded=True, request_handler=_Quiet, fd=listening.fileno())
    thread = Thread(target=wsgi.serve_forever, daemon=True)
    thread.start()
    try:
        yield Server(f"http://{HOST}:{wsgi.port}/", wsgi)
    finally:
        wsgi.shutdown()
        thread.join()
        wsgi.server_close()
