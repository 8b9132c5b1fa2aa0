"""The server: a model loaded, a socket bound, requests answered until Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from types import FrameType

from corollary.engines.sampler import EmbeddedSampler
from corollary.errors import ConfigError
from corollary.models.load import LoadedModel, load_model
from corollary.models.names import exported, title
from corollary.models.settings import ModelConfig
from corollary.run.memory import keep_large_blocks
from corollary.serving.decoding import ROOM, Decoder
from corollary.serving.service import Service

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
GRACE_SECONDS = 5  # that requests under way are given once the server is told to stop


def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = "",
    api_key: str = "",
    max_tokens: int = 1024,
    cache_tokens: int = ROOM,
    seed: int = 0,
    announce: Callable[[str], None],
) -> None:
    """Serve a model until the process is told to stop.

    Args:
        model: a name as for `load_model`, or a run's folder.
        host: to bind; anything but this machine's loopback lets others in.
        port: 0 takes a free one.
        name: that clients know the model by; the model's own when empty.
        api_key: that clients must send; empty: none.
        max_tokens: of one answer.
        cache_tokens: of prompts and answers that are decoded at one time.
        seed: of requests that give none.
        announce: is told where it listens.

    Raises:
        ConfigError: the extra `serve` is missing, or nothing can listen there.
        ModelError: the model cannot be loaded.
    """
    try:
        import uvicorn

        from corollary.serving.app import application
    except ImportError as error:
        what = f"serving needs the package {error.name}"
        raise ConfigError(what, hint="pip install 'corollary[serve]'") from error
    here = is_loopback(host)
    with _bound(host, port) as listening:
        loaded = _loaded(model)
        sampler = EmbeddedSampler(loaded.model, decode=loaded.decode, eos_token_ids=loaded.eos_token_ids)
        decoder = Decoder(sampler, room=cache_tokens)
        service = Service(model=loaded, decoder=decoder, name=name or title(model), max_tokens=max_tokens, seed=seed)
        app = application(service, api_key=api_key, hosts=LOOPBACK | {host} if here else frozenset())
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS)
        )
        listening.listen()
        with _ending(server.handle_exit):
            announce(f"{service.name} at {_address(listening)}; Ctrl-C ends it")
            if not here:
                who = "whoever has the API key" if api_key else "whoever reaches this machine"
                announce(f"{host} is no loopback address: {who} can use the model")
            server.run(sockets=[listening])
        decoder.close()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`.

    >>> is_loopback("localhost"), is_loopback("127.0.0.2"), is_loopback("0.0.0.0"), is_loopback("box.example")
    (True, True, False, False)
    """
    try:
        return host in LOOPBACK or ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _loaded(model: str) -> LoadedModel:
    keep_large_blocks()
    settings = ModelConfig()
    loaded = load_model(exported(model), dtype=settings.resolved_dtype())
    loaded.place(settings.torch_device())
    return loaded


def _bound(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet: whoever comes too early is told so.

    Raises:
        ConfigError: the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except (OSError, OverflowError) as error:
        what = f"nothing can listen there ({error.strerror if isinstance(error, OSError) else error})"
        raise ConfigError(what, where=f"{host}:{port}", hint="give another --port or --host") from error
    return made


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


@contextmanager
def _ending(end: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `end`, and nothing else, inside the block."""
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
