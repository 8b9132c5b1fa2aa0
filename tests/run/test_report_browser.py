"""report.html in a real browser: opened, clicked through, and listened to while it shows hostile text."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corollary.evaluate import compared, summary
from corollary.run.report import write_report
from run.report_fixture import PAYLOADS, fake_run

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
if not (CHROMIUM.exists() and DRIVER.exists()):
    pytest.skip(f"no {CHROMIUM} and {DRIVER} here; scripts/browser.sh installs them", allow_module_level=True)
pytest.importorskip("selenium", reason="selenium is not installed; it is among the test requirements")

from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)


class Browser:
    """A page in Chromium, by what a person sees of it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path, *, width: int = 1280, scheme: str = "light") -> None:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.complaints()
        self.driver.get("about:blank")
        self.driver.get(page.as_uri())
        self.until(lambda: bool(self.all("html[data-ready]")))

    def complaints(self) -> list[str]:
        """What the console, the network and dialogs saw since the last call; the page itself is no complaint."""
        heard = [entry["message"] for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            address = event["params"].get("request", {}).get("url", "")
            if event["method"] == "Network.requestWillBeSent" and not address.endswith(("/report.html", "about:blank")):
                heard.append(address)
            if event["method"] == "Page.javascriptDialogOpening":
                heard.append(event["params"]["message"])
        return heard

    def all(self, css: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        return self.one(css).get_property("textContent")

    def texts(self, css: str) -> set[str]:
        """What stands in the elements, those without text left out; read at once, since the page draws while one looks."""
        found = self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(element => element.textContent)", css
        )
        return {text for text in found if text}

    def run(self, script: str) -> object:
        return self.driver.execute_script(script)

    def until(self, met: Callable[[], bool]) -> None:
        WebDriverWait(self.driver, 10, poll_frequency=0.02).until(lambda _: met())

    def click(self, element: WebElement) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def hover(self, element: WebElement) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        ActionChains(self.driver, duration=0).move_to_element(element).perform()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
        shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(
        fake_run(tmp_path_factory.mktemp("benign") / "run", steps=20, prompts=4, answers=4, problems=40)
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "run"
    return write_report(fake_run(folder, steps=25, prompts=5, answers=8, problems=60, payloads=PAYLOADS))


def test_the_page_opens_with_its_results_and_without_a_sound(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.text("h1") == "run"
    figures = [[e.text for e in browser.all(f".figure.{side} .value")] for side in ("before", "after")]
    assert figures[0] == ["34.0 %", "20.0 %"]  # sampled pass@1, greedy
    assert figures[1][1] == "60.0 %"
    assert "excludes zero" in browser.text(".verdict")
    assert len(browser.all(".effects tbody tr")) == 6  # five metrics and the axis
    assert browser.complaints() == []


def test_hostile_text_is_shown_and_nothing_of_it_runs(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    tags = "script, img, iframe, object, embed, form, base, video, math, animate, link, template, textarea, style"
    found = [element.tag_name for element in browser.all(tags)]
    for row in browser.all(".row")[::3]:
        browser.click(row)
    browser.run("for (const details of document.querySelectorAll('details')) details.open = true")
    browser.one("#step").send_keys(Keys.HOME)
    assert "alert(1)" in browser.text("#rollouts")
    assert "<img src=x onerror=alert(1)>" in browser.run("return document.body.textContent")
    assert [element.tag_name for element in browser.all(tags)] == found == ["style", "script", "script"]
    assert browser.all("[onload], [onerror], [style*='url'], [href]:not([href^='#'])") == []
    assert browser.complaints() == []


def test_characters_that_hide_or_reorder_are_spelled_out(browser: Browser, hostile: Path) -> None:
    browser.open(hostile)
    shown = set()
    for _ in range(25):
        shown |= set(browser.run("return [...document.querySelectorAll('.control')].map((c) => c.textContent)"))
        browser.run("document.querySelector(\"[aria-label='Earlier step']\").click()")
    assert {"\\u202e", "\\u2028", "\\x1b", "\\x00", "\\u{e0049}"} <= shown
    hidden = r"[\u0000-\u0008\u202a-\u202e\u2066-\u2069\u{e0000}-\u{e007f}]"
    block = "document.getElementById('data').remove()"
    assert browser.run(f"{block}; return document.documentElement.textContent.search(/{hidden}/u)") == -1


def test_the_policy_stops_a_script_that_was_not_in_the_file(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("""
        const s = document.createElement("div");
        try { s.innerHTML = "<b>x</b>"; window.made = true; } catch (error) { window.refused = error.name; }
        const i = new Image(); i.src = "https://evil.example/x.png"; document.body.append(i);""")
    assert browser.run("return [window.made, window.refused]") == [None, "TypeError"]
    browser.until(lambda: any("Content Security Policy" in complaint for complaint in browser.complaints()))


def test_the_slider_and_its_buttons_pick_a_step(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert "step 19" in browser.text("#rollouts .ident")
    browser.one("#step").send_keys(Keys.HOME)
    assert "step 0" in browser.text("#rollouts .ident")
    browser.click(browser.one("[aria-label='Later step']"))
    assert "step 1" in browser.text("#rollouts .ident")
    assert browser.text("#rollouts .found") == "16 answers in 4 groups at step 1"
    assert browser.one("#step").get_attribute("aria-valuetext") == "step 1"


def test_arrow_keys_move_through_the_prompts(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.one("#rollouts .list").send_keys(Keys.HOME)
    first = browser.text("#rollouts .ident")
    browser.one("#rollouts .list").send_keys(Keys.ARROW_DOWN)
    assert browser.text("#rollouts .ident") != first
    chosen = browser.one("#rollouts .row[aria-selected='true']")
    assert browser.one("#rollouts .list").get_attribute("aria-activedescendant") == chosen.get_attribute("id")


@pytest.mark.parametrize(("name", "kinds"), [("right", {"right"}), ("wrong", {"wrong", "partial"})])
def test_the_filter_shows_only_answers_of_its_kind(browser: Browser, page: Path, name: str, kinds: set[str]) -> None:
    browser.open(page)
    browser.click(browser.one(f"label[for='answers-{name}']"))
    seen = {element.get_attribute("class").split()[1] for element in browser.all("#rollouts .answer")}
    assert seen
    assert seen <= kinds


def test_mixed_groups_have_both_kinds_of_answers(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click(browser.one("label[for='answers-mixed']"))
    rows = browser.all("#rollouts .row")
    assert 0 < len(rows) <= 4
    for row in rows:
        assert len({cell.get_attribute("class") for cell in row.find_elements(By.CSS_SELECTOR, ".cell")}) > 1


def test_a_token_tells_its_log_probability_on_hover_and_by_keys(browser: Browser, page: Path) -> None:
    browser.open(page)
    data = json.loads(browser.text("#data"))
    ident = browser.text("#rollouts .ident").split(" · ")[0]
    group = next(g for g in data["rollouts"]["groups"] if g["prompt_id"] == ident and g["step"] == 19)
    tokens, logprobs = group["answers"][0]["tokens"], group["answers"][0]["logprobs"]
    spans = browser.all("#rollouts .answer:first-child .token")
    browser.hover(spans[2])
    browser.until(lambda: "nats" in browser.text("#hint"))
    assert f"{logprobs[2]:.3f}".replace("-", "−") in browser.text("#hint")
    assert json.dumps(tokens[2], ensure_ascii=False) in browser.text("#hint")
    browser.run("document.querySelector('#rollouts .answer .token').focus()")
    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    number = f"{logprobs[1]:.3f}".replace("-", "−")
    assert number in browser.text("#hint")
    assert number in browser.driver.switch_to.active_element.get_attribute("aria-label")


def test_the_less_likely_token_has_the_deeper_colour(browser: Browser, page: Path) -> None:
    browser.open(page)
    data = json.loads(browser.text("#data"))
    ident = browser.text("#rollouts .ident").split(" · ")[0]
    group = next(g for g in data["rollouts"]["groups"] if g["prompt_id"] == ident and g["step"] == 19)
    logprobs = [logprob for answer in group["answers"] for logprob in answer["logprobs"]]
    classes = [span.get_attribute("class") for span in browser.all("#rollouts .token")]
    shades = [int(name.split("shade-")[1]) for name in classes]
    assert len(shades) == len(logprobs)
    by_logprob = [shade for _, shade in sorted(zip(logprobs, shades, strict=True), reverse=True)]
    assert by_logprob == sorted(shades)
    assert len(set(shades)) > 3


def test_search_finds_groups_of_every_step_and_marks_what_it_found(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.one("#rollouts input[type=search]").send_keys("pencils. ")
    browser.until(lambda: "in all" in browser.text("#rollouts .found"))
    where = {element.text.split(" · ")[0] for element in browser.all("#rollouts .row .where")}
    assert len(where) > 3
    hits = "".join(element.get_property("textContent") for element in browser.all("#rollouts .token.hit"))
    assert "pencils" in hits
    browser.one("#rollouts input[type=search]").send_keys("no such words.*(")
    browser.until(lambda: "No group fits" in browser.text("#rollouts .detail"))
    assert browser.complaints() == []


def test_pointing_at_one_curve_reads_every_curve_at_that_step(browser: Browser, page: Path) -> None:
    browser.open(page)
    data = json.loads(browser.text("#data"))
    plots = browser.all("#curves .panels > .panel .plot")
    assert len(plots) >= 15
    browser.hover(plots[1])
    browser.until(lambda: len(browser.texts("#curves .cursor text")) == 1)
    steps = browser.texts("#curves .cursor text")
    step = int(steps.pop().removeprefix("step "))
    assert 5 < step < 15
    shown = float(browser.all("#curves .panel .readout")[1].text)
    assert shown == pytest.approx(data["metrics"]["columns"]["pass_rate"][step], abs=1e-3)
    plots[1].send_keys(Keys.HOME)
    browser.until(lambda: browser.texts("#curves .cursor text") == {"step 0"})
    assert "step 0" in browser.text("#announce")


def test_smoothing_can_be_switched_off(browser: Browser, page: Path) -> None:
    browser.open(page)
    smoothed = len(browser.all("#curves .line.faint"))
    browser.click(browser.one("#smooth"))
    assert smoothed > 10
    assert browser.all("#curves .line.faint") == []


def test_gained_shows_prompts_that_were_wrong_before_and_are_right_after(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.click(browser.one("label[for='movement-gained']"))
    rows = browser.all("#heldout .row")
    data = json.loads(browser.text("#data"))["heldout"]
    pairs = zip(data["before"], data["after"], strict=True)
    assert len(rows) == sum(not before["greedy"]["strict"] and after["greedy"]["strict"] for before, after in pairs) > 0
    sides = browser.all("#heldout .side > .answer")
    assert [side.get_attribute("class") for side in sides] == ["answer wrong", "answer right"]


def test_the_page_follows_the_reader_into_the_dark(browser: Browser, page: Path) -> None:
    luminance = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    browser.open(page, scheme="light")
    assert min(browser.run(luminance)) > 230
    browser.open(page, scheme="dark")
    assert max(browser.run(luminance)) < 40


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_makes_the_page_scroll_sideways(browser: Browser, page: Path, hostile: Path, width: int) -> None:
    for path in (page, hostile):
        browser.open(path, width=width)
        assert browser.run("return document.documentElement.scrollWidth") <= width


def test_a_run_that_has_done_nothing_yet_opens_with_a_word_in_every_section(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    browser.open(write_report(tmp_path / "run"))
    assert [len(browser.all(f"#{name} > div > .note")) for name in ("results", "curves", "rollouts", "heldout")] == [
        1
    ] * 4
    assert browser.all(".browser, .plot") == []
    assert browser.complaints() == []


def test_numbers_that_are_not_finite_are_marked_in_the_curve(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    rows = [{"step": step, "loss": float("nan") if step == 3 else 0.5} for step in range(8)]
    (tmp_path / "run/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    browser.open(write_report(tmp_path / "run"))
    assert len(browser.all(".plot .lost")) == 1
    assert browser.complaints() == []


def test_a_screenshot_shows_more_than_one_colour(browser: Browser, page: Path) -> None:
    browser.open(page)
    shot = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    assert len(base64.b64decode(shot["data"])) > 20_000


def measured(folder: Path, *, answered: bool) -> Path:
    """A run whose held-out examples were measured without sampling, and with it where `answered`."""
    rows = {0: [], 9: []}
    for i in range(30):
        for step, nll in ((0, 2 + i / 30), (9, 1.5 + i / 40)):
            row = {"prompt_id": f"p{i}", "prompt": f"question {i}", "columns": {}, "measures": {"nll": nll}}
            right = i < (3 if step == 0 else 9)
            greedy = {"text": "x", "strict": right, "lenient": right, "truncated": False}
            rows[step].append(row | ({"greedy": greedy, "sampled": []} if answered else {}))
    (folder / "evaluations").mkdir(parents=True)
    for step, found in rows.items():
        (folder / f"evaluations/step-{step:06d}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))
    result = {"dataset": "talks", "prompts": 30, "before": summary(rows[0], 0), "after": summary(rows[9], 9)}
    (folder / "evaluation.json").write_text(json.dumps(result | {"difference": compared(rows[0], rows[9])}))
    return write_report(folder)


def test_a_measure_that_is_no_share_is_shown_as_a_number(browser: Browser, tmp_path: Path) -> None:
    browser.open(measured(tmp_path / "run", answered=False))
    script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)"
    assert browser.driver.execute_script(script, ".figure .value") == ["2.48", "1.86"]
    assert browser.text(".verdict") == (
        "−0.621 in nll; paired 95 % interval [−0.648, −0.593], which excludes zero. "
        "Of 30 held-out prompts, it rose on 0 and fell on 30."
    )
    assert browser.driver.execute_script(script, ".effects tbody tr > *") == [
        "nll", "", "2.48", "1.86", "−0.621 [−0.648, −0.593]", "0", "30",
    ]  # fmt: skip
    assert "%" not in browser.text("#results .effects tbody")
    assert browser.driver.execute_script(script, "#heldout .row .under")[0] == "nll 2 → 1.5"
    assert browser.all("#heldout [role=radiogroup], #heldout input[type=radio]") == []
    assert browser.complaints() == []


def test_shares_and_numbers_stand_in_one_table_each_on_its_own_axis(browser: Browser, tmp_path: Path) -> None:
    browser.open(measured(tmp_path / "run", answered=True))
    script = "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)"
    assert browser.driver.execute_script(script, ".effects tbody th") == ["Greedy, strict", "Greedy, lenient", "nll"]
    assert browser.driver.execute_script(script, ".effects tbody td[data-label=after]") == ["30.0 %", "30.0 %", "1.86"]
    assert browser.driver.execute_script(script, ".figure .value") == ["10.0 %", "30.0 %"]
    assert browser.driver.execute_script(script, ".effects .axis text") == [f"{share} %" for share in range(0, 60, 10)]
    ends = "return [...document.querySelectorAll('.effects tbody circle')].map((c) => parseFloat(c.getAttribute('cx')))"
    assert all(0 <= place <= 100 for place in browser.run(ends))
    assert browser.all("#heldout input[type=radio]")
    assert browser.complaints() == []
