"""Files of the package index that this Python's pip is set to: wheels by pip itself, source archives by their link.

pip has no way to fetch a source archive alone: it runs the archive's build to learn its dependencies, which takes long, needs
compilers or fails. So the index's page is read here, by pip's own settings: `index-url`, `extra-index-url`, `find-links`,
`no-index`, `cert`, `trusted-host`, and the proxies of the environment. Pages are JSON or HTML.

Sources: https://peps.python.org/pep-0503/, https://peps.python.org/pep-0691/.
"""

from __future__ import annotations

import ast
import base64
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib.error import HTTPError
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import Request, url2pathname, urlopen

from corollary.errors import CorollaryError

DOWNLOAD_SECONDS = 1800  # a download that takes longer is given up
DEFAULT_INDEX = "https://pypi.org/simple"  # pip's own

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
_SETTING = re.compile(r"(?P<section>global|download|:env:)\.(?P<name>[a-z-]+)=(?P<value>.*)")
_UNREACHABLE = re.compile(
    r"connection (refused|reset|aborted)|failed to (establish a new connection|resolve [^ ']+)|name or service not known|"
    r"timed out|network is unreachable|cannot connect to proxy|max retries exceeded|certificate verify failed|"
    r"not a trusted or secure host|\b(429|50[0-4]) (client|server) error",
    re.IGNORECASE,
)


def download(wanted: str, filename: str, folder: Path, family: type[CorollaryError]) -> Path:
    """The file called `filename` of the release `wanted`, put into `folder`; not checked.

    Args:
        wanted: `package==version`.
        filename: of a wheel or a source archive.
        folder: to write to; made where it is not there.
        family: the class of the error to raise.

    Raises:
        CorollaryError: of the given family: no pip, no index, no such file in it.
    """
    if not importlib.util.find_spec("pip"):
        what = f"{wanted}: this Python has no pip to fetch it with"
        raise family(what, hint="run python -m ensurepip", code=family.code[:-2] + "11")
    refusal = (_by_pip if filename.endswith(".whl") else _by_link)(wanted, filename, folder)
    if refusal:
        hint = f"check the network and pip config list, or put {filename} into a folder and set PIP_FIND_LINKS to it"
        raise family(f"{wanted}: {refusal}", hint=hint, code=family.code[:-2] + "12")
    return folder / filename


def _by_pip(wanted: str, filename: str, folder: Path) -> str:
    """Why pip could not download it; empty where it did."""
    quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    what = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(folder), wanted]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *quiet, *what],
            env={"PIP_RETRIES": "2"} | os.environ,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=DOWNLOAD_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"not downloaded within {DOWNLOAD_SECONDS} s"
    if done.returncode == 0 and (folder / filename).is_file():
        return ""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if unreachable := [match[0] for line in lines if (match := _UNREACHABLE.search(line))]:
        return f"the package index cannot be reached ({unreachable[-1]})"
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return f"pip could not download it ({(errors or lines or ['it said nothing'])[-1][:300]})"


def _by_link(wanted: str, filename: str, folder: Path) -> str:
    """Why none of pip's places gave the file; empty where one did."""
    settings = _settings()
    refusals = []
    for place in _places(wanted.partition("==")[0], settings):
        try:
            link = _link(place, filename, settings)
            if link is None:
                continue
            folder.mkdir(parents=True, exist_ok=True)
            with _opened(link, settings) as source, (folder / filename).open("wb") as sink:
                shutil.copyfileobj(source, sink, length=1 << 20)
            return ""
        except HTTPError as error:
            if error.code != 404:
                refusals.append(f"{error.code} {error.reason}")
        except (OSError, HTTPException) as error:
            refusals.append(str(error.args[0] if error.args else error)[:300])
    if refusals:
        return f"the package index cannot be reached ({refusals[-1]})"
    return f"no place that pip is set to has {filename}, so it could not download it"


def _settings() -> Mapping[str, str]:
    """pip's settings, the environment's before the files'."""
    command = [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL).stdout
    found = [match for line in listed.splitlines() if (match := _SETTING.fullmatch(line))]
    found.sort(key=lambda match: ("global", "download", ":env:").index(match["section"]))
    return {match["name"]: str(ast.literal_eval(match["value"])) for match in found}


def _places(package: str, settings: Mapping[str, str]) -> Iterator[str]:
    """Where a package's files are looked for, in pip's order: folders or pages of links, then the package's page in each index."""
    yield from settings.get("find-links", "").split()
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return
    name = re.sub(r"[-_.]+", "-", package).lower()
    for index in (settings.get("index-url", DEFAULT_INDEX), *settings.get("extra-index-url", "").split()):
        yield f"{index.rstrip('/')}/{name}/"


def _link(place: str, filename: str, settings: Mapping[str, str]) -> str | None:
    """The address of the file in a folder or on a page; None where it is not there."""
    local = _local(place)
    if local is not None and (local / filename).is_file():
        return (local / filename).absolute().as_uri()
    if local is not None and not (local / "index.html").is_file():
        return None
    page = place if local is None else (local / "index.html").absolute().as_uri()
    with _opened(page, settings) as response:
        body, kind, base = response.read(), response.headers.get_content_type(), response.url
    if kind.endswith("json"):
        links = [str(file["url"]) for file in json.loads(body)["files"]]
    else:
        links = _Links.of(body.decode("utf-8", errors="replace"))
    named = (link for link in links if unquote(urlsplit(link).path.rpartition("/")[2]) == filename)
    link = next(named, None)
    return _with_login(urljoin(base, link).partition("#")[0], place) if link is not None else None


def _with_login(url: str, place: str) -> str:
    """An address with the name and password of `place`, where it is on the same host."""
    login, _, host = urlsplit(place).netloc.rpartition("@")
    parts = urlsplit(url)
    return parts._replace(netloc=f"{login}@{host}").geturl() if login and parts.netloc == host else url


def _local(place: str) -> Path | None:
    """The folder that a place is, where it is one."""
    if place.startswith("file:"):
        return Path(url2pathname(urlsplit(place).path))
    return None if "://" in place else Path(place).expanduser()


class _Links(HTMLParser):
    """The targets of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @classmethod
    def of(cls, page: str) -> list[str]:
        parser = cls()
        parser.feed(page)
        return parser.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _opened(url: str, settings: Mapping[str, str]) -> HTTPResponse:
    """What is behind an address; a name and password in it go into the header where they belong.

    Raises:
        OSError, HTTPException: it cannot be reached.
    """
    parts = urlsplit(url)
    request = Request(
        parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        headers={"Accept": _ACCEPT, "User-Agent": "corollary"},
    )
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        header = f"Basic {base64.b64encode(login.encode()).decode()}"
        request.add_unredirected_header("Authorization", header)  # to no other host
    seconds = float(settings.get("timeout", settings.get("default-timeout", "15")))
    return cast(HTTPResponse, urlopen(request, timeout=seconds, context=_trust(parts, settings)))


def _trust(parts: SplitResult, settings: Mapping[str, str]) -> ssl.SSLContext | None:
    """Whose certificates are believed; None where the address needs none. What is fetched is held to a pinned sha256 besides."""
    if parts.scheme != "https":
        return None
    if {parts.hostname, parts.netloc.rpartition("@")[2]} & set(settings.get("trusted-host", "").split()):
        return ssl._create_unverified_context()
    return ssl.create_default_context(cafile=settings.get("cert"))
