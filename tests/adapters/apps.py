"""The site's one page in each framework: as few lines as each needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import flask
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.adapters.kit import Adapter, Site, at_once
from websessions import asgi, wsgi
from websessions.asgi import Receive, Scope, Send
from websessions.flask import WebSessions
from websessions.starlette import get_session
from websessions.wsgi import ENVIRON_KEY

METHODS = ["GET", "HEAD", "POST", "OPTIONS"]


class BareASGI(Adapter):
    name = "asgi"
    asynchronous = True

    def app(self, site: Site, store: Any, options: dict[str, Any]) -> Any:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            plan = site.plan
            await plan.carry_out(scope["session"])
            if plan.unset:
                scope["session"] = None
            headers = [(k.encode(), v.encode()) for k, v in plan.headers.items()]
            status = plan.status
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"ok"})

        return asgi.SessionMiddleware(app, store, **options)


class InStarlette(Adapter):
    name = "starlette"
    asynchronous = True

    def app(self, site: Site, store: Any, options: dict[str, Any]) -> Any:
        async def page(request: Request) -> Response:
            plan = site.plan
            await plan.carry_out(get_session(request))
            if plan.unset:
                request.scope["session"] = None
            return Response("ok", plan.status, plan.headers)

        return Starlette(
            routes=[Route("/{path:path}", page, methods=METHODS)],
            middleware=[Middleware(asgi.SessionMiddleware, store=store, **options)],
        )


class InFastAPI(Adapter):
    name = "fastapi"
    asynchronous = True

    def app(self, site: Site, store: Any, options: dict[str, Any]) -> Any:
        app = FastAPI()
        app.add_middleware(asgi.SessionMiddleware, store=store, **options)

        @app.api_route("/{path:path}", methods=METHODS)
        async def page(request: Request) -> Response:
            plan = site.plan
            await plan.carry_out(get_session(request))
            if plan.unset:
                request.scope["session"] = None
            return Response("ok", plan.status, plan.headers)

        return app


class BareWSGI(Adapter):
    name = "wsgi"
    asynchronous = False

    def app(self, site: Site, store: Any, options: dict[str, Any]) -> Any:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            plan = site.plan
            at_once(plan.carry_out(environ[ENVIRON_KEY]))
            if plan.unset:
                environ[ENVIRON_KEY] = None
            start_response(f"{plan.status} Fine", list(plan.headers.items()))
            return [b"ok"]

        return wsgi.SessionMiddleware(app, store, **options)


class StreamingWSGI(Adapter):
    """The same work, done while the first part of the body is made."""

    name = "wsgi-generator"
    asynchronous = False

    def app(self, site: Site, store: Any, options: dict[str, Any]) -> Any:
        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            plan = site.plan
            at_once(plan.carry_out(environ[ENVIRON_KEY]))
            if plan.unset:
                environ[ENVIRON_KEY] = None
            start_response(f"{plan.status} Fine", list(plan.headers.items()))
            yield b"ok"

        return wsgi.SessionMiddleware(app, store, **options)


class InFlask(Adapter):
    name = "flask"
    asynchronous = False

    def app(self, site: Site, store: Any, options: dict[str, Any]) -> Any:
        app = Flask("shop", static_folder=None)
        app.testing = True  # exceptions reach the test
        WebSessions(app, store=store, **options)

        @app.route("/", defaults={"path": ""}, methods=METHODS)
        @app.route("/<path:path>", methods=METHODS)
        def page(path: str) -> flask.Response:
            plan = site.plan
            # The session itself, not Flask's name for the one of the present request.
            at_once(plan.carry_out(flask.session._get_current_object()))  # type: ignore[attr-defined]
            if plan.unset:
                flask.request.environ[ENVIRON_KEY] = None
            return flask.Response("ok", plan.status, plan.headers)

        return app


ADAPTERS: tuple[Adapter, ...] = (
    BareASGI(),
    InStarlette(),
    InFastAPI(),
    BareWSGI(),
    StreamingWSGI(),
    InFlask(),
)
