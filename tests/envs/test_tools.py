"""Tools: a plain class whose methods a model may call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corollary.envs.calculator import Calculator, CalculatorTools, call, worked
from corollary.envs.opening import begun as beginning
from corollary.envs.tools import CLOSE, OPEN, Tools
from corollary.errors import UserCodeError
from envs.table import begun
from models.small import fetched

SHOP = '''
from __future__ import annotations


class Shop:
    """Written for TRL's environment_factory."""

    def __init__(self, limit: int = 3):
        self.limit = limit

    def reset(self, goods: list[str], **columns) -> str:
        self.goods, self.basket = dict.fromkeys(goods, 5), []
        return "On sale: " + ", ".join(goods)

    def buy(self, name: str, count: int = 1) -> str:
        """
        Put something into the basket.

        Args:
            name: what
            count: how many pieces
        """
        self.basket += [name] * min(count, self.goods[name])
        return f"{len(self.basket)} in the basket"

    async def look(self) -> list[str]:
        """What is in the basket."""
        return self.basket

    def get_reward(self) -> float:
        return 1.0 if len(self.basket) == self.limit else 0.0

    def _secret(self):
        raise AssertionError("no tool")
'''


@pytest.fixture
def shop(tmp_path: Path) -> Tools:
    (tmp_path / "shop.py").write_text(SHOP)
    return Tools(path=f"{tmp_path}/shop.py:Shop", params={"limit": 4})


def asked(name: str, /, **arguments: Any) -> str:
    return f"{OPEN}{json.dumps({'name': name, 'arguments': arguments})}{CLOSE}"


def test_a_class_written_for_trl_runs_unchanged(shop: Tools) -> None:
    episode = shop.episode({"goods": ["tea", "rice"], "question": "?"})
    assert episode.reset(0) == "On sale: tea, rice"
    turn = episode.step(asked("buy", name="tea", count=3))
    assert (turn.observation, turn.reward, turn.over) == ("3 in the basket", 0.0, False)
    assert episode.step(f"One more. {asked('buy', name='rice')} {asked('look')}").observation == (
        "4 in the basket\n['tea', 'tea', 'tea', 'rice']"
    )
    end = episode.step("That is all.")
    assert (end.reward, end.terminated, end.truncated) == (1.0, True, False)
    assert shop.full_mark == 1.0


def test_episodes_do_not_share_an_instance(shop: Tools) -> None:
    first, second = (shop.episode({"goods": ["tea"]}) for _ in range(2))
    first.reset(0), second.reset(0)
    first.step(asked("buy", name="tea", count=4))
    assert second.step(asked("look")).observation == "[]"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (f"{OPEN}buy tea{CLOSE}", "error: a call is JSON"),
        (f"{OPEN}[1]{CLOSE}", 'error: a call is {"name": …, "arguments": {…}}'),
        (f'{OPEN}{{"name": "buy"}}{CLOSE}', 'error: a call is {"name": …, "arguments": {…}}'),
        (f'{OPEN}{{"name": ["buy"], "arguments": {{}}}}{CLOSE}', "error: there is no such tool; there are buy, look"),
        (f"{OPEN}" + "[" * 100_000 + CLOSE, "error: a call is JSON"),
        (f"{OPEN}{{}}", f"error: a call is written {OPEN}…{CLOSE}"),
        (f"{{}}{CLOSE}", f"error: a call is written {OPEN}…{CLOSE}"),
        (asked("steal", name="tea"), "error: there is no such tool; there are buy, look"),
        (asked("_secret"), "error: there is no such tool; there are buy, look"),
        (asked("get_reward"), "error: there is no such tool; there are buy, look"),
        (asked("buy"), "error: name: Field required"),
        (asked("buy", name="tea", count="two"), "error: count: Input should be a valid integer"),
        (asked("buy", name="tea", price=0), "error: price: Extra inputs are not permitted"),
        (asked("buy", name="milk"), "error: KeyError: 'milk'"),
    ],
    ids=range(14),
)
def test_a_wrong_call_is_told_to_the_model_and_counted(shop: Tools, text: str, answer: str) -> None:
    episode = shop.episode({"goods": ["tea"]})
    episode.reset(0)
    turn = episode.step(text)
    assert (turn.observation, turn.over) == (answer, False)
    assert turn.info == {"calls": 1, "failed_calls": 1}


def test_the_system_message_says_which_tools_there_are(shop: Tools) -> None:
    *_, buy, look = shop.instructions.splitlines()
    assert json.loads(buy) == {
        "name": "buy",
        "description": "Put something into the basket.",
        "parameters": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "what"},
                "count": {"type": "integer", "default": 1, "description": "how many pieces"},
            },
            "required": ["name"],
        },
    }
    assert json.loads(look)["name"] == "look"
    (first, *_) = begun(shop, goods=["tea"])
    assert first.messages[0] == {"role": "system", "content": shop.instructions}
    assert first.messages[1] == {"role": "user", "content": "Say 0.\n\nOn sale: tea"}


def test_a_column_that_reset_wants_and_the_data_lacks_is_one_line(shop: Tools) -> None:
    with pytest.raises(UserCodeError, match=r"E0701.*missing 1 required positional argument: 'goods' as p0 begins"):
        begun(shop)


@pytest.mark.parametrize(
    ("expression", "value"),
    [("(2 + 3) * 4", "20"), ("10 / 4", "2.5"), ("2/3", "0.666667"), ("-7", "-7"), ("1,000 × 2", "2000")],
)
def test_the_calculator_calculates(expression: str, value: str) -> None:
    episode = CalculatorTools().episode({})
    episode.reset(0)
    assert episode.step(call(expression)).observation == value


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("1 / 0", "error: ValueError: division by zero"),
        (
            "__import__('os')",
            "error: ValueError: not an expression of numbers, + - * / and brackets: \"__import__('os')\"",
        ),
        ("9" * 500, "error: ValueError: not an expression"),
        ("((((" * 50, "error: ValueError: not an expression"),
        ("", "error: ValueError: not an expression"),
        ("2 ** 9999", "error: ValueError: not an expression"),
    ],
)
def test_what_is_no_expression_is_an_answer_that_says_so(expression: str, what: str) -> None:
    text = f"{OPEN}{json.dumps({'name': 'calculate', 'arguments': {'expression': expression}})}{CLOSE}"
    assert CalculatorTools().episode({}).step(text).observation.startswith(what)


def test_the_calculator_itself_earns_nothing() -> None:
    assert CalculatorTools().full_mark == 0.0
    assert CalculatorTools().episode({}).step("42").reward == 0.0


def test_what_is_learnt_is_what_the_calculator_takes_and_says() -> None:
    fetched("small-problems/worked")
    rows = [*worked()]
    assert len(rows) > 500
    for row in rows:
        _, _, said, heard, answer = row["messages"]
        assert CalculatorTools().episode({}).step(said["content"]).observation == heard["content"] == answer["content"]


def test_a_prompt_keeps_its_own_system_message() -> None:
    messages = beginning(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "?"}], instructions="Use it."
    )
    assert messages == [{"role": "system", "content": "Be kind.\n\nUse it."}, {"role": "user", "content": "?"}]


def test_tools_may_be_named_in_an_installed_module() -> None:
    assert Tools(path="corollary.envs.calculator:Calculator").instance().calculate("1 + 1") == Calculator().calculate(
        "2"
    )
