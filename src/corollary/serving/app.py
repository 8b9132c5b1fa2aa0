"""The HTTP application: who may ask, what is asked, and the reply, whole or as it comes."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from corollary.serving.decoding import Failure, Job, Piece
from corollary.serving.replies import Reply, event
from corollary.serving.requests import APIError, ChatAsked, TextAsked, asked
from corollary.serving.service import Service

MAX_BODY = 2**20  # bytes


def application(service: Service, *, api_key: str, hosts: frozenset[str]) -> Starlette:
    """The application.

    Args:
        service: what is served.
        api_key: that clients must send; empty: none.
        hosts: names that the server may be addressed by; empty: any. A web page whose own name was made to point at this machine
            addresses it by that name, and is refused.
    """
    app = Starlette(
        routes=[
            Route("/health", _health),
            Route("/v1/models", _models),
            Route("/v1/models/{name:path}", _model),
            Route("/v1/chat/completions", _chat, methods=["POST"]),
            Route("/v1/completions", _text, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, api_key=api_key, hosts=hosts)],
        exception_handlers={APIError: _refusal, HTTPException: _refusal, Exception: _fault},
    )
    app.state.service = service
    return app


class Guard:
    """Refuses who addresses the server by a foreign name, and who lacks the key.

    Args:
        app: behind it.
        api_key: empty: none is asked for.
        hosts: empty: any.
    """

    def __init__(self, app: ASGIApp, api_key: str, hosts: frozenset[str]) -> None:
        self.app, self.api_key, self.hosts = app, api_key.encode(), hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refused(scope) if scope["type"] == "http" else None
        if refused:
            await JSONResponse(refused.body(), refused.status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refused(self, scope: Scope) -> APIError | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts and _name(host) not in self.hosts:
            return APIError(403, f"this server is not addressed as {host!r}", code="host_not_allowed")
        kind, _, key = headers.get("authorization", "").partition(" ")
        if not self.api_key or scope["path"] == "/health":
            return None
        if kind.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), self.api_key):
            return None
        return APIError(401, "this server asks for its API key, as a bearer token", code="invalid_api_key")


def _name(host: str) -> str:
    """A Host header without its port.

    >>> _name("localhost:8000"), _name("[::1]:8000"), _name("evil.example")
    ('localhost', '::1', 'evil.example')
    """
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].lower()


# ---------------------------------------------------------------------------------------------------------------- what is asked


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"} | _service(request).decoder.busy())


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_entry(_service(request))]})


async def _model(request: Request) -> Response:
    service, name = _service(request), request.path_params["name"]
    if name != service.name:
        raise APIError(404, f"there is no model {name!r} here, only {service.name!r}", code="model_not_found")
    return JSONResponse(_entry(service))


def _entry(service: Service) -> dict[str, str | int]:
    return {"id": service.name, "object": "model", "created": service.started, "owned_by": "corollary"}


def _service(request: Request) -> Service:
    return request.app.state.service


async def _chat(request: Request) -> Response:
    what = asked(ChatAsked, await _body(request))
    return await _reply(request, what, Reply.to(what, _service(request).model.token_text, _id("chatcmpl"), _now()))


async def _text(request: Request) -> Response:
    what = asked(TextAsked, await _body(request))
    return await _reply(request, what, Reply.to(what, _service(request).model.token_text, _id("cmpl"), _now()))


def _id(kind: str) -> str:
    return f"{kind}-{uuid4().hex}"


def _now() -> int:
    return int(time.time())


async def _body(request: Request) -> bytes:
    """The request's body.

    Raises:
        APIError: it is too large, or no JSON by its own account: a browser sends other types across sites without asking first.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise APIError(415, "the body is JSON, sent as application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise APIError(413, f"a request has at most {MAX_BODY:,} bytes", code="request_too_large")
    return bytes(body)


# -------------------------------------------------------------------------------------------------------------------- the reply


@dataclass(slots=True)
class _Told:
    """What the decoder's thread tells, brought into the event loop."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    queue: asyncio.Queue[tuple[int, Piece | Failure]] = field(default_factory=asyncio.Queue)

    def __call__(self, first: int, said: Piece | Failure) -> None:
        if not self.loop.is_closed():
            choice = first if isinstance(said, Failure) else first + said.index
            self.loop.call_soon_threadsafe(self.queue.put_nowait, (choice, said))

    async def pieces(self, choices: int) -> AsyncIterator[tuple[int, Piece]]:
        """(choice, what it gains), until every choice is whole.

        Raises:
            APIError: the model failed.
        """
        while choices:
            choice, said = await self.queue.get()
            if isinstance(said, Failure):
                raise APIError(500, f"the model failed: {said.error}")
            choices -= said.finished is not None
            yield choice, said


async def _reply(request: Request, what: ChatAsked | TextAsked, reply: Reply) -> Response:
    service, told = _service(request), _Told()
    prompts = service.prompts(what)
    jobs = service.jobs(what, prompts, told)
    if not service.decoder.submit(jobs):
        raise APIError(429, "too many requests wait already; try again later", code="busy")
    tokens = sum(map(len, prompts))
    if what.stream:
        events = _events(what, reply, jobs, told, tokens)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    return await _whole(request, reply, jobs, told, tokens)


async def _whole(request: Request, reply: Reply, jobs: Sequence[Job], told: _Told, tokens: int) -> Response:
    """The reply in one; nothing, and no more work, where the client has gone."""
    choices: list[list[Piece]] = [[] for job in jobs for _ in range(job.n)]

    async def gather() -> None:
        async for choice, piece in told.pieces(len(choices)):
            choices[choice].append(piece)

    work, gone = asyncio.ensure_future(gather()), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        work.result()
        return JSONResponse(reply.whole(choices, tokens))
    finally:
        _cancel(jobs)
        work.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    """Until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(
    what: ChatAsked | TextAsked, reply: Reply, jobs: Sequence[Job], told: _Told, tokens: int
) -> AsyncIterator[bytes]:
    """The reply as it comes. Where the client goes, this is closed, and the work with it."""
    counts = [0 for job in jobs for _ in range(job.n)]
    try:
        for chunk in filter(None, map(reply.opening, range(len(counts)))):
            yield event(chunk)
        async for choice, piece in told.pieces(len(counts)):
            counts[choice] = piece.count
            for chunk in reply.chunks(choice, piece):
                yield event(chunk)
        if what.stream_options.include_usage:
            yield event(reply.counted(tokens, counts))
        yield event("[DONE]")
    except APIError as error:  # the status is sent already
        yield event(error.body())
    finally:
        _cancel(jobs)


def _cancel(jobs: Sequence[Job]) -> None:
    """Nobody waits any more; an answer that is whole is not touched by it."""
    for job in jobs:
        job.cancelled = True


async def _refusal(request: Request, error: Exception) -> Response:
    refused = error if isinstance(error, APIError) else None
    if isinstance(error, HTTPException):
        messages = {404: f"there is nothing at {request.url.path}", 405: f"{request.url.path} has no {request.method}"}
        refused = APIError(error.status_code, messages.get(error.status_code, error.detail))
    assert refused
    return JSONResponse(refused.body(), refused.status)


async def _fault(request: Request, error: Exception) -> Response:
    return JSONResponse(APIError(500, "the server failed; its log says how").body(), 500)
