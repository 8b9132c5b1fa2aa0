"""The built book: every page runs, reads offline in a browser, and hangs together with the code."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from book.page import blocks, pages, sections
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from corollary.declare import entries
from corollary.theory.theorems import theorems

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = pages(DOCS / "theory")
CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
WITHOUT_NETWORK = """
import socket, sys

def refuse(*_):
    raise OSError("the book is built without a network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from sphinx.cmd.build import main

sys.exit(main(sys.argv[1:]))
"""
every_page = pytest.mark.parametrize("page", PAGES, ids=[p.stem for p in PAGES])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book, built once whichever worker asks first: a warning is an error, and so is a connection."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    built = shared / "book"
    with (shared / "book.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (built / "done").exists():
            command = [sys.executable, "-c", WITHOUT_NETWORK, "-q", "-E", "-W", "--keep-going", "-b", "html"]
            done = subprocess.run([*command, str(DOCS), str(built)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            (built / "done").touch()
    return built


@every_page
def test_a_page_is_built_with_its_formulas_as_mathml(site: Path, page: Path) -> None:
    html = (site / "theory" / f"{page.stem}.html").read_text()
    formulas = [b for b in blocks(page.read_text()) if b.kind == "formula"]
    assert html.count('display="block"') >= len(formulas)
    assert "merror" not in html


class Loaded(HTMLParser):
    """What a page makes the browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
        self.found += [value or "" for name, value in attrs if name == names.get(tag)]


def test_no_page_of_the_site_fetches_anything_from_elsewhere(site: Path) -> None:
    files = sorted(site.rglob("*.html"))
    assert len(files) > len(PAGES)
    for file in files:
        loaded = Loaded()
        loaded.feed(file.read_text())
        assert not [address for address in loaded.found if re.match(r"(https?:)?//", address)], file


@every_page
def test_no_error_planted_in_a_formula_goes_unnoticed(page: Path) -> None:
    """A few for each page, about a hundred in all; `python scripts/book.py mutate` plants every one."""
    command = [sys.executable, str(ROOT / "scripts" / "book.py"), "mutate", str(page), "--sample", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# Code and pages hang together.


SECTIONS = {f"{page.name}#{anchor}": text for page in PAGES for anchor, text in sections(page).items()}


def test_every_theorem_names_a_section_of_the_book() -> None:
    missing = {t.label: t.section for t in theorems() if t.section not in SECTIONS}
    assert not missing


def theory_line(doc: str) -> str:
    """The section that a docstring names."""
    found = re.search(r"^\s*Theory: docs/theory/(\S+)", doc, flags=re.MULTILINE)
    return found[1].rstrip(".") if found else ""


def test_every_public_formula_names_a_section_of_the_book() -> None:
    named = {f"{e.family} {e.name}": theory_line(e.function.__doc__ or "") for e in entries()}
    assert not {name: section for name, section in named.items() if section not in SECTIONS}


def test_every_section_with_a_formula_is_named_by_code() -> None:
    sources = "".join(p.read_text() for p in sorted((ROOT / "src").rglob("*.py")))
    named = {t.section for t in theorems()} | set(
        re.findall(r"^ *Theory: docs/theory/(\S+)$", sources, flags=re.MULTILINE)
    )
    asked = {name for name, text in SECTIONS.items() if "```{formula}" in text}
    assert asked
    assert not sorted(asked - named)


def test_every_theorem_stands_on_a_page() -> None:
    shown = {
        name for page in PAGES for b in blocks(page.read_text()) if b.kind == "theorem" for name in b.argument.split()
    }
    missing = [t.label for t in theorems() if not {t.label, t.name, t.label.partition(".")[0]} & shown]
    assert not missing


# In a browser.


@pytest.fixture(scope="module")
def driver() -> Iterator[webdriver.Chrome]:
    if not (CHROMIUM.exists() and DRIVER.exists()):
        pytest.skip(f"no {CHROMIUM} and {DRIVER} here; scripts/browser.sh installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield found
    found.quit()


@every_page
def test_a_page_opens_without_error_or_request_and_shows_its_formulas(
    driver: webdriver.Chrome, site: Path, page: Path
) -> None:
    import json

    driver.get_log("performance")
    driver.get((site / "theory" / f"{page.stem}.html").as_uri())
    title = next(line for line in page.read_text().splitlines() if line.startswith("# "))[2:]
    assert driver.execute_script("return document.querySelector('h1').firstChild.textContent") == title
    hidden = driver.execute_script(
        "return [...document.querySelectorAll('article math')].filter(m => !m.closest('details:not([open])'))"
        ".filter(m => { const box = m.getBoundingClientRect(); return box.width < 2 || box.height < 2 || !m.textContent.trim(); }).length"
    )
    formulas = sum(b.kind in ("formula", "m") for b in blocks(page.read_text()))
    shown = driver.execute_script("return document.querySelectorAll('article math').length")
    assert (hidden, shown >= formulas) == (0, True)
    text = driver.execute_script("return document.querySelector('article').innerText")
    assert not re.search(r"\{(m|value|formula|theorem|plot)\}|\\frac|\\begin|Traceback", text)
    assert driver.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert not [url for url in asked if not url.startswith(("file:", "data:", "about:"))]


def test_make_docs_is_the_command_of_the_readme() -> None:
    assert shutil.which("make")
    assert "make docs" in (ROOT / "README.md").read_text()
