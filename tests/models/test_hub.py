from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from corollary.models import hub


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A hub on this machine that answers with the first status in the list."""
    answers = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(answers[0])
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield answers
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


@pytest.mark.parametrize(
    ("answer", "refused"), [(200, False), (302, False), (401, False), (404, False), (429, True), (503, True)]
)
def test_a_hub_that_answers_is_asked_and_one_that_is_overloaded_is_not(
    status: list[int], answer: int, refused: bool
) -> None:
    status[0] = answer
    assert bool(hub.refusal()) == refused
    if refused:
        assert hub.refusal().endswith(f"answers with status {answer}")


def test_a_hub_that_answers_changes_nothing(status: list[int], caplog: pytest.LogCaptureFixture) -> None:
    with hub.reached("org/model") as unreachable:
        assert (unreachable, constants.HF_HUB_OFFLINE) == ("", False)
    assert caplog.records == []


def test_without_the_hub_only_what_was_fetched_before_is_used_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with caplog.at_level(logging.WARNING), hub.reached("org/model") as unreachable:
        assert "does not answer" in unreachable
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    assert [r.getMessage() for r in caplog.records] == [
        f"org/model: {unreachable}; using what was fetched before, if anything"
    ]


def test_the_user_s_own_offline_switch_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.refusal() == "HF_HUB_OFFLINE is set"
