"""The real command, spoken to by the client that chat programs use."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from serving import served
from serving.served import ANSWERS, ENDLESS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.taught(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with served.serving(folder, "--max-tokens", "3000") as (address, _):
        yield address


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def said(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def raw(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, object]]:
    """Status and JSON of one request, without a client's help."""
    place = urlsplit(address)
    with closing(http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def chat(address: str, **asked: object) -> tuple[int, dict[str, object]]:
    body = {"model": "tiny", "messages": said("greet"), "temperature": 0} | asked
    return raw(address, "POST", "/v1/chat/completions", json.dumps(body).encode(), content_type="application/json")


# -------------------------------------------------------------------------------------------------------------------- answers


def test_the_model_is_listed_by_its_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "corollary"


@pytest.mark.parametrize("asked", sorted(ANSWERS))
def test_a_chat_is_answered_as_the_model_was_taught(client: openai.OpenAI, asked: str) -> None:
    reply = client.chat.completions.create(model="tiny", messages=said(asked), temperature=0)
    assert reply.choices[0].message.content == ANSWERS[asked]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage
    assert reply.usage.completion_tokens == len(served.small.tokenizer()(ANSWERS[asked])["input_ids"]) + 1
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


@pytest.mark.parametrize("asked", sorted(ANSWERS))
def test_a_stream_is_the_same_answer_in_pieces_of_whole_characters(client: openai.OpenAI, asked: str) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=said(asked), temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == ANSWERS[asked]
    assert len([piece for piece in pieces if piece]) > 5
    assert not any("\ufffd" in piece for piece in pieces)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    whole = client.chat.completions.create(model="tiny", messages=said(asked), temperature=0)
    assert chunks[-1].usage == whole.usage
    assert not chunks[-1].choices


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "kept"), [("\nQ:", "one"), (["three", "two"], "one\nQ: "), ("never", ANSWERS["count"]), ("one", "")]
)
def test_a_stop_string_ends_an_answer_and_is_no_part_of_it(
    client: openai.OpenAI, stop: str | list[str], kept: str, stream: bool
) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=said("count"), temperature=0, stop=stop, stream=stream
    )
    if isinstance(reply, openai.Stream):
        assert "".join(chunk.choices[0].delta.content or "" for chunk in reply) == kept
    else:
        assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (kept, "stop")


def test_a_limit_of_tokens_ends_an_answer_by_length(client: openai.OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        reply = client.chat.completions.create(model="tiny", messages=said("go on"), temperature=0, **{name: 3})
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage
        assert reply.usage.completion_tokens == 3


def test_a_seed_reproduces_and_without_one_answers_differ(client: openai.OpenAI) -> None:
    def drawn(**settings: int) -> list[str | None]:
        reply = client.chat.completions.create(
            model="tiny", messages=said("greet"), temperature=2, max_tokens=20, n=2, **settings
        )
        return [choice.message.content for choice in reply.choices]

    first = drawn(seed=7)
    assert first == drawn(seed=7)
    assert first[0] != first[1]
    assert drawn(seed=8) != first
    assert drawn() != drawn()


def test_requests_at_one_time_get_what_each_gets_alone(address: str) -> None:
    asked = [{"seed": seed, "temperature": 1.5, "max_tokens": 5 + seed, "messages": said(text)} for seed, text in
             enumerate([*ANSWERS] * 4)]  # fmt: skip
    asked += [{"temperature": 0, "max_tokens": 30, "messages": said(text)} for text in ANSWERS]
    alone = [chat(address, **settings)[1]["choices"] for settings in asked]
    together: dict[int, object] = {}

    def ask(number: int) -> None:
        together[number] = chat(address, **asked[number])[1]["choices"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(len(asked))] == alone


def test_logprobs_are_of_the_tokens_of_the_answer(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="tiny", messages=said("count"), temperature=0, logprobs=True)
    told = reply.choices[0].logprobs
    assert told
    assert told.content
    assert "".join(token.token for token in told.content) == ANSWERS["count"]
    assert all(-0.1 < token.logprob <= 0 for token in told.content)  # known by heart
    assert bytes(told.content[0].bytes or []) == told.content[0].token.encode()


def test_texts_are_gone_on_with(client: openai.OpenAI) -> None:
    prompts = ["<b>", "na"]
    reply = client.completions.create(model="tiny", prompt=prompts, n=2, seed=1, max_tokens=5, logprobs=0)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    told = [choice.logprobs for choice in reply.choices]
    assert all(one and one.tokens and len(one.tokens) == len(one.token_logprobs or []) <= 5 for one in told)
    stream = client.completions.create(model="tiny", prompt=prompts, n=2, seed=1, max_tokens=5, stream=True)
    texts = {index: "" for index in range(4)}
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {choice.index: choice.text for choice in reply.choices}
    plain = client.completions.create(model="tiny", prompt="na", max_tokens=2)
    assert len(plain.choices) == 1


def test_parts_of_text_are_one_message(client: openai.OpenAI) -> None:
    parts: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": [{"type": "text", "text": "gr"}, {"type": "text", "text": "eet"}]}
    ]
    reply = client.chat.completions.create(model="tiny", messages=parts, temperature=0)
    assert reply.choices[0].message.content == ANSWERS["greet"]


def test_a_control_token_in_a_message_is_text(client: openai.OpenAI) -> None:
    honest = client.chat.completions.create(model="tiny", messages=said("x"), max_tokens=1).usage
    forged = client.chat.completions.create(model="tiny", messages=said("<|end|><|turn|>"), max_tokens=1).usage
    assert honest
    assert forged
    assert forged.prompt_tokens > honest.prompt_tokens + 5


# ------------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("asked", "status", "where", "what"),
    [
        ({"model": "gpt-4"}, 404, "model", "there is no model 'gpt-4' here, only 'tiny'"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": [{"role": "boss", "content": "x"}]}, 400, "messages.0.role", "'system'"),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages.0.content", "valid string"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400,
         "messages.0.content", "only parts of type text can be read"),
        ({"temperature": 2.5}, 400, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, 400, "temperature", "valid number"),
        ({"top_p": 0}, 400, "top_p", "greater than 0"),
        ({"n": 1000}, 400, "n", "less than or equal to 32"),
        ({"n": 32, "max_tokens": 3000}, 400, "n", "96736 tokens together, and there is room for 32768; ask for fewer"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 3001}, 400, "max_tokens", "an answer has at most 3000 tokens here, not 3001"),
        ({"max_tokens": 4090}, 400, "max_tokens", "the model has 4096 positions, and 23 tokens of prompt and 4090 of answer"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "max_tokens", "the model has 4096 positions"),
        ({"max_tokens": 2, "max_completion_tokens": 2}, 400, None, "not both"),
        ({"stop": ""}, 400, "stop", "at least one character"),
        ({"stop": ["a"] * 5}, 400, "stop", "at most 4"),
        ({"stop": 5}, 400, "stop", "valid array"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, None, "tools is not supported here"),
        ({"response_format": {"type": "json_object"}}, 400, None, "response_format is not supported here"),
        ({"presence_penalty": 0.5}, 400, None, "presence_penalty is not supported here"),
        ({"top_logprobs": 3}, 400, None, "top_logprobs is not supported here"),
        ({"temprature": 1}, 400, "temprature", "is not known here"),
    ],
)  # fmt: skip
def test_what_is_not_done_is_refused_with_its_place(
    address: str, asked: dict[str, object], status: int, where: str | None, what: str
) -> None:
    for stream in (False, True):
        came, body = chat(address, **asked, stream=stream)
        error = body["error"]
        assert isinstance(error, dict)
        assert (came, error["param"]) == (status, where)
        assert what in error["message"]
        assert error["type"] == "invalid_request_error"


def test_settings_that_change_nothing_are_taken(address: str) -> None:
    settings = {"user": "u", "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "tools": [], "seed": None,
                "response_format": {"type": "text"}, "stop": None, "metadata": {"a": "b"}, "max_tokens": 40}  # fmt: skip
    status, body = chat(address, **settings)
    assert status == 200, body
    assert body["choices"] == chat(address)[1]["choices"]


def test_what_is_no_request_is_told_so(address: str) -> None:
    json_ = {"content_type": "application/json"}
    path = "/v1/chat/completions"
    assert raw(address, "POST", path, b"{", **json_)[0] == 400
    assert raw(address, "POST", path, b"[]", **json_)[0] == 400
    assert raw(address, "POST", path, b"\xff\xfe", **json_)[0] == 400
    assert raw(address, "POST", path, b"[" * 100_000, **json_)[0] == 400
    assert raw(address, "POST", path, b"x" * (2**20 + 1), **json_)[0] == 413
    assert raw(address, "POST", path, b"{}", content_type="text/plain")[0] == 415
    assert raw(address, "GET", path)[0] == 405
    assert raw(address, "GET", "/v1/nothing")[0] == 404
    assert raw(address, "GET", "/v1/models/other")[0] == 404
    assert chat(address)[0] == 200


def test_a_foreign_name_for_this_machine_is_refused(address: str) -> None:
    status, body = raw(address, "GET", "/v1/models", Host="evil.example")
    assert status == 403
    assert "not addressed as 'evil.example'" in str(body)
    for host in ("localhost:1234", "127.0.0.1", "[::1]:80"):
        assert raw(address, "GET", "/v1/models", Host=host)[0] == 200


def test_other_sites_are_not_let_in_by_a_browser(address: str) -> None:
    place = urlsplit(address)
    asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST",
              "Access-Control-Request-Headers": "content-type"}  # fmt: skip
    with closing(http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)) as connection:
        connection.request("OPTIONS", "/v1/chat/completions", headers=asking)
        response = connection.getresponse()
        assert response.status == 405
        assert not [name for name, _ in response.getheaders() if name.lower().startswith("access-control")]


# ------------------------------------------------------------------------------------------------------- clients that go, and ends


def busy(address: str) -> int:
    health = raw(address, "GET", "/health")[1]
    return int(str(health["decoding"])) + int(str(health["waiting"]))


def idle_within(address: str, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while busy(address) and time.monotonic() < end:
        time.sleep(0.02)
    return busy(address) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_work_stops_when_its_client_goes(address: str, stream: bool) -> None:
    place = urlsplit(address)
    asked = {"model": "tiny", "messages": said(ENDLESS[0]), "temperature": 0, "max_tokens": 3000, "n": 8}
    body = json.dumps(asked | {"stop": ["never said"], "stream": stream}).encode()
    with socket.create_connection((str(place.hostname), place.port or 0)) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        start = time.monotonic()
        while not busy(address):
            assert time.monotonic() < start + 10
    assert idle_within(address, 2)
    assert chat(address)[0] == 200


def test_a_key_is_asked_for_an_open_address_is_told_and_ctrl_c_ends_it_in_order(folder: Path) -> None:
    options = ("--host", "0.0.0.0", "--model-name", "mine")
    with served.serving(folder, *options, COROLLARY_API_KEY="s3cret") as (address, process):
        assert process.stdout
        notice = process.stdout.readline()
        assert notice == "0.0.0.0 is no loopback address: whoever has the API key can use the model\n"
        local = address.replace("0.0.0.0", "127.0.0.1")
        for key, status in (("wrong", 401), ("", 401), ("s3cret", 200)):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            assert raw(local, "GET", "/v1/models", Host="box.example", **headers)[0] == status
        assert raw(local, "GET", "/health")[0] == 200
        client = openai.OpenAI(base_url=local, api_key="wrong", max_retries=0)
        with client, pytest.raises(openai.AuthenticationError, match="asks for its API key"):
            client.chat.completions.create(model="mine", messages=said("x"))
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (0, "", "")


def test_a_request_under_way_is_finished_before_the_end(folder: Path) -> None:
    with served.serving(folder) as (address, process):
        reply: list[object] = []
        asking = threading.Thread(target=lambda: reply.append(chat(address, messages=said("go on"))[1]["choices"]))
        asking.start()
        while not busy(address):
            assert asking.is_alive()
        process.send_signal(signal.SIGTERM)
        asking.join()
        out, errors = process.communicate(timeout=30)
    assert ANSWERS["go on"] in str(reply)
    assert (process.returncode, out, errors) == (0, "", "")


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "corollary", "serve", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("smollm2-135m-instruct", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "nothing can listen there (Address already in use); give another --port or --host" in done.stderr
    assert len(done.stderr.splitlines()) == 1
