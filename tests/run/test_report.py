"""report.html as a file: what it holds, what it leaves out, and that no run can change what it is."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest

from corollary.cli import app
from corollary.errors import StorageError
from corollary.run import report_data
from corollary.run.report import SCRIPTS, write_report
from run.report_fixture import PAYLOADS, fake_run

PAGE = files("corollary.run") / "report_page"


class _Skeleton(HTMLParser):
    """The elements and attributes of a page, and the text of its data block."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[object] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(attrs)))
        self._inside = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")
        self._inside = ""

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data


def _written(folder: Path) -> tuple[_Skeleton, Mapping[str, object]]:
    """The skeleton and the data of a run's report."""
    page = _Skeleton(write_report(folder).read_text("utf-8"))
    return page, json.loads(page.texts["data"])


def _append(path: Path, *lines: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("plain") / "run", steps=12, prompts=3, answers=4, problems=20)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fake_run(tmp_path / "run", steps=6, prompts=2, answers=3, problems=8)


def test_the_page_holds_what_the_run_recorded(plain: Path) -> None:
    _, data = _written(plain)
    lines = [json.loads(line) for line in (plain / "rollouts.jsonl").read_text().splitlines()]
    assert [group["prompt_id"] for group in data["rollouts"]["groups"]] == [line["prompt_id"] for line in lines]
    answer, shown = lines[5]["answers"][2], data["rollouts"]["groups"][5]["answers"][2]
    assert shown["tokens"] == answer["tokens"]
    assert shown["logprobs"] == pytest.approx(answer["logprobs"], abs=5e-4)
    assert (shown["reward"], shown["rewards"]) == (answer["reward"], answer["rewards"])
    assert data["metrics"]["columns"]["kl"][7] == pytest.approx(
        json.loads((plain / "metrics.jsonl").read_text().splitlines()[7])["kl"], rel=1e-5
    )
    assert data["evaluation"]["difference"]["greedy/strict"]["estimate"] == pytest.approx(0.4)
    assert data["timing"]["steps"] == list(range(12))
    assert data["facts"] == {
        "model": "smollm2-135m-instruct",
        "data": "arithmetic word problems, held out",
        "algorithm": "grpo",
        "seed": "0",
    }
    assert (data["steps_planned"], data["full_mark"]) == (32, 1.1)


def test_elements_and_attributes_are_those_of_a_benign_page_whatever_the_run_holds(plain: Path, tmp_path: Path) -> None:
    hostile = fake_run(tmp_path / "run", steps=50, prompts=5, answers=4, problems=60, payloads=PAYLOADS)
    benign_page, _ = _written(plain)
    hostile_page, data = _written(hostile)
    assert hostile_page.tags == benign_page.tags
    assert len(benign_page.tags) > 50
    answers = [answer for group in data["rollouts"]["groups"] for answer in group["answers"]]
    assert len(answers) == 1000
    written = json.dumps(data, ensure_ascii=False)
    missing = [text for text in PAYLOADS if json.dumps(_whole(text), ensure_ascii=False)[1:-1] not in written]
    assert len(set(PAYLOADS)) == 200
    assert not missing


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def test_the_data_block_cannot_be_left_and_hides_nothing_from_a_reader_of_the_source(tmp_path: Path) -> None:
    page = write_report(fake_run(tmp_path / "run", steps=40, payloads=PAYLOADS)).read_text("utf-8")
    block = page.split('id="data">', 1)[1].split("</script>", 1)[0]
    assert "\\u003c/script" in block
    assert not re.search("[<>&\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]", block)


def test_the_policy_allows_this_script_and_this_style_and_nothing_else(plain: Path) -> None:
    page, _ = _written(plain)
    policy = next(
        dict(tag[1])["content"]
        for tag in page.tags
        if isinstance(tag, tuple) and dict(tag[1]).get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for directive, element in (("script-src", "script"), ("style-src", "style")):
        digest = base64.b64encode(hashlib.sha256(page.texts[element].encode()).digest()).decode()
        assert rules[directive] == f"'sha256-{digest}'"
    assert rules["require-trusted-types-for"] == "'script'"


FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|createContextualFragment|srcdoc|eval\(|Function\(|"
    r"import\(|XMLHttpRequest|fetch\(|WebSocket|EventSource|sendBeacon|location|window\.open|\.href|\.src|cssText|"
    r"cookie|localStorage|sessionStorage|indexedDB|postMessage|Worker|</script|<!--"
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_has_no_way_to_make_markup_of_a_string_or_to_reach_a_network(name: str) -> None:
    text = (PAGE / name).read_text("utf-8")
    assert FORBIDDEN.findall(text) == []
    assert name == "dom.js" or "createElement" not in text


def test_only_one_line_of_the_script_sets_an_attribute_that_data_could_name() -> None:
    lines = [line for name in SCRIPTS for line in (PAGE / name).read_text("utf-8").splitlines()]
    named = [line for line in lines if "setAttribute(" in line and not re.search(r'setAttribute\("[a-z-]+",', line)]
    assert len(named) == 1
    allowed = re.search(r"const ATTRIBUTES.*?;\n", (PAGE / "dom.js").read_text("utf-8"), re.DOTALL)
    assert allowed
    words = set(re.findall(r"[\w-]+", allowed[0]))
    assert {"class", "id", "aria-label"} & words
    assert not words & {"href", "src", "style", "srcdoc", "action", "xlink", "formaction"}


def test_no_two_scripts_name_a_thing_alike() -> None:
    """They are one script in the page, where the later of two functions takes the place of the earlier without a word."""
    text = "\n".join((PAGE / name).read_text("utf-8") for name in SCRIPTS)
    names = re.findall(r"^(?:function|const|let) (\w+)", text, re.MULTILINE)
    assert len(names) > 50
    assert sorted(names) == sorted(set(names))


def test_every_script_is_in_the_page_and_the_style_reaches_nowhere() -> None:
    assert {entry.name for entry in PAGE.iterdir()} == {*SCRIPTS, "page.html", "style.css"}
    style = (PAGE / "style.css").read_text("utf-8")
    assert not re.search(r"url\(|@import|</style", style)


@pytest.mark.parametrize(
    "missing", ["config.yaml", "metrics.jsonl", "timing.jsonl", "rollouts.jsonl", "evaluation.json"]
)
def test_a_run_that_lacks_a_file_has_a_page_without_it(run: Path, missing: str) -> None:
    (run / missing).unlink()
    _, data = _written(run)
    assert missing not in [file["name"] for file in data["files"]]
    assert data["name"] == "run"


def test_a_run_that_has_done_nothing_yet_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    page, data = _written(tmp_path / "new")
    assert data["name"] == "new"
    assert data["files"] == []
    assert ("h1", (("id", "name"),)) in page.tags


def test_a_last_line_that_is_still_being_written_is_left_out_and_no_fault(run: Path) -> None:
    for name in ("metrics.jsonl", "timing.jsonl", "rollouts.jsonl", "evaluations/step-000006.jsonl"):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole[:-20])
    _, data = _written(run)
    assert data["metrics"]["steps"] == data["timing"]["steps"] == [0, 1, 2, 3, 4]
    assert data["rollouts"]["groups_total"] == 11
    assert sum(row is not None for row in data["heldout"]["after"]) == 7
    assert [data[part]["unreadable"] for part in ("metrics", "timing", "rollouts", "heldout")] == [0, 0, 0, 0]


def test_a_last_line_without_its_newline_counts_where_it_is_whole(run: Path) -> None:
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes().rstrip(b"\n"))
    assert _written(run)[1]["metrics"]["steps"] == [0, 1, 2, 3, 4, 5]


BROKEN = (
    "[1, 2]",
    "null",
    "not json",
    '{"step": null}',
    '{"step": true}',
    '{"step": "3"}',
    '{"step": 1e3}',
    '{"no step": 1}',
    "[" * 100_000,
    "\x00\xff",
)


def test_lines_that_cannot_be_read_are_counted_and_the_others_shown(run: Path) -> None:
    for name in ("metrics.jsonl", "rollouts.jsonl", "evaluations/step-000000.jsonl"):
        _append(run / name, *(f"{line}\n" for line in BROKEN))
    _, data = _written(run)
    assert data["metrics"]["unreadable"] == data["rollouts"]["unreadable"] == len(BROKEN)
    assert data["heldout"]["unreadable"] == len(BROKEN)
    assert (len(data["metrics"]["steps"]), len(data["rollouts"]["groups"]), len(data["heldout"]["before"])) == (
        6,
        12,
        8,
    )


@pytest.mark.parametrize(
    "line",
    [
        {"answers": 3},
        {"answers": [3]},
        {"answers": [{"tokens": "abc"}]},
        {"answers": [{"rewards": [1]}]},
        {"answers": [{"reward": "much"}]},
        {"messages": {"role": "user"}},
        {"columns": []},
    ],
)
def test_a_group_of_another_form_is_counted_and_left_out(run: Path, line: Mapping[str, object]) -> None:
    _append(run / "rollouts.jsonl", json.dumps({"step": 6} | line) + "\n")
    _, data = _written(run)
    assert (data["rollouts"]["unreadable"], len(data["rollouts"]["groups"])) == (1, 12)


def test_texts_are_shown_where_their_log_probabilities_do_not_fit(run: Path) -> None:
    answer = {"text": "ab", "tokens": ["a", "b"], "logprobs": [-1.0]}
    _append(run / "rollouts.jsonl", json.dumps({"step": 6, "answers": [answer]}) + "\n")
    shown = _written(run)[1]["rollouts"]["groups"][-1]["answers"][0]
    assert (shown["text"], shown["tokens"], shown["logprobs"]) == ("ab", [], [])


def test_which_tokens_are_observations_comes_along(run: Path) -> None:
    answer = {"text": "user: b", "tokens": ["a", "b"], "logprobs": [-1.0, 0.0], "sampled": [1, 0]}
    _append(run / "rollouts.jsonl", json.dumps({"step": 6, "answers": [answer]}) + "\n")
    groups = _written(run)[1]["rollouts"]["groups"]
    assert groups[-1]["answers"][0]["sampled"] == [1, 0]
    assert groups[0]["answers"][0]["sampled"] == [], "the model said all of them"


def test_numbers_that_are_not_finite_travel_as_words_and_words_not_at_all(run: Path) -> None:
    line = {"step": 6, "loss": float("nan"), "kl": float("inf"), "lr": -float("inf"), "phase": "grpo", "entropy": True}
    _append(run / "metrics.jsonl", json.dumps(line) + "\n", '{"step": 7, "loss": 1' + "0" * 400 + "}\n")
    columns = _written(run)[1]["metrics"]["columns"]
    assert (columns["loss"][6], columns["kl"][6], columns["lr"][6]) == ("NaN", "Infinity", "-Infinity")
    assert columns["entropy"][6] is None
    assert columns["loss"][7] == pytest.approx(1.79769e308)
    assert "phase" not in columns


def test_of_a_step_that_was_run_twice_the_later_line_counts(run: Path) -> None:
    _append(run / "metrics.jsonl", '{"reward": 0.125, "step": 2}\n')
    data = _written(run)[1]
    assert data["metrics"]["steps"] == [0, 1, 2, 3, 4, 5]
    assert data["metrics"]["columns"]["reward"][2] == 0.125


def test_a_long_run_is_thinned_evenly_with_its_first_and_last_step(tmp_path: Path) -> None:
    run = tmp_path / "long"
    run.mkdir()
    answer = {"text": "x" * 1200, "reward": 1.0}
    with (run / "rollouts.jsonl").open("w") as rollouts, (run / "metrics.jsonl").open("w") as metrics:
        for step in range(10_001):
            rollouts.write(json.dumps({"step": step, "prompt_id": "p", "answers": [answer]}) + "\n")
            metrics.write(json.dumps({"loss": 0.5, "step": step}) + "\n")
    data = _written(run)[1]
    shown = [group["step"] for group in data["rollouts"]["groups"]]
    gaps = {later - earlier for earlier, later in pairwise(shown)}
    assert (shown[0], shown[-1], len(shown)) == (0, 10_000, 60)
    assert max(gaps) - min(gaps) <= 1
    assert (data["rollouts"]["steps_shown"], data["rollouts"]["steps_total"]) == (60, 10_001)
    assert (len(data["metrics"]["steps"]), data["metrics"]["steps_total"]) == (10_000, 10_001)
    assert (run / "report.html").stat().st_size < 1_000_000


def test_a_heavy_run_shows_fewer_groups_until_it_fits(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    total = (run / "rollouts.jsonl").stat().st_size
    for budget, steps in ((0.6, [0, 1, 2, 3, 4, 5]), (0.4, [0, 2, 3, 5]), (0.01, [0, 5])):
        monkeypatch.setattr(report_data, "ROLLOUT_BYTES", budget * total)
        data = _written(run)[1]["rollouts"]
        assert [group["step"] for group in data["groups"]] == steps
        assert (data["steps_shown"], data["steps_total"], data["groups_total"]) == (len(steps), 6, 12)


def test_an_answer_of_ten_megabytes_is_cut_and_the_page_says_by_how_much(run: Path) -> None:
    long = {"text": "a" * 10_000_000, "reward": 0.0}
    many = {"text": "b" * 5_000, "tokens": ["b"] * 5_000, "logprobs": [-0.5] * 5_000}
    _append(run / "rollouts.jsonl", json.dumps({"step": 6, "answers": [long, many]}) + "\n")
    data = _written(run)[1]
    cut, tokens = data["rollouts"]["groups"][-1]["answers"]
    assert (len(cut["text"]), cut["more_characters"]) == (20_000, 9_980_000)
    assert (len(tokens["tokens"]), len(tokens["logprobs"]), tokens["more_tokens"]) == (2_000, 2_000, 3_000)
    assert (run / "report.html").stat().st_size < 1_000_000


def test_held_out_prompts_whose_verdict_changed_are_shown_before_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake_run(tmp_path / "run", steps=2, problems=60)
    monkeypatch.setattr(report_data, "PROMPTS", (40,))
    data = _written(run)[1]["heldout"]
    pairs = list(zip(data["before"], data["after"], strict=True))
    assert all(before["prompt_id"] == after["prompt_id"] for before, after in pairs)
    changed = sum(before["greedy"]["strict"] != after["greedy"]["strict"] for before, after in pairs)
    assert (len(pairs), data["total"]) == (40, 60)
    assert 0 < changed <= data["changed_total"]
    assert changed >= min(30, data["changed_total"] - 2)


def test_a_run_measured_once_has_answers_before_and_none_after(run: Path) -> None:
    (run / "evaluations/step-000006.jsonl").unlink()
    data = _written(run)[1]["heldout"]
    assert (data["before_step"], data["after_step"], data["after"], len(data["before"])) == (0, None, [], 8)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"before": 3}', '{"before": {"metrics": {"greedy": 1}}}'])
def test_an_evaluation_that_cannot_be_read_counts_as_none(run: Path, content: str) -> None:
    (run / "evaluation.json").write_text(content)
    assert _written(run)[1]["evaluation"] is None


def test_secrets_in_the_configuration_never_reach_the_page(run: Path) -> None:
    write_report(run)
    assert "canary-4711" in (run / "config.yaml").read_text()
    page = (run / "report.html").read_text()
    assert "canary-4711" not in page
    settings = {setting["key"]: setting["value"] for setting in _written(run)[1]["config"]}
    assert settings["logger.api_key"] == "••••••"
    assert settings["logger.max_tokens"] == "96"


@pytest.mark.parametrize("text", ["a: [", "a: &a [*a]", "\x00", "? {a: 1}", "- 1\n- 2", "just words"])
def test_a_configuration_that_is_no_plain_yaml_is_shown_or_left_out(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    _, data = _written(run)
    assert len(data["config"]) <= 2


def test_aliases_that_would_grow_without_bound_are_shown_as_they_stand(run: Path) -> None:
    layers = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12))
    (run / "config.yaml").write_text(f"l0: &l0 [x]\n{layers}\n")
    settings = _written(run)[1]["config"]
    assert [setting["key"] for setting in settings] == [""]
    assert settings[0]["value"].startswith("l0: &l0 [x]")


def test_a_page_that_cannot_be_written_leaves_the_old_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(run)
    old = (run / "report.html").read_bytes()
    _append(run / "metrics.jsonl", '{"step": 6, "reward": 1.0}\n')

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        write_report(run)
    assert (run / "report.html").read_bytes() == old
    assert [path.name for path in run.iterdir() if "tmp" in path.name] == []


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such run directory"):
        write_report(tmp_path / "nowhere")


def test_the_commands_that_a_page_names_are_commands(run: Path) -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    named = [command["line"].split()[:2] for command in _written(run)[1]["commands"]]
    assert len(named) == 4
    assert {name for _, name in named} <= known
    assert {program for program, _ in named} == {"corollary"}


def test_commands_survive_a_path_with_spaces_and_quotes(tmp_path: Path) -> None:
    run = tmp_path / "it's; rm -rf"
    run.mkdir()
    lines = [command["line"] for command in _written(run)[1]["commands"]]
    assert all("'\"'\"'s; rm -rf" in line for line in lines)
