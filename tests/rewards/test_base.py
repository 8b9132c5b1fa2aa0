import math

import pytest
from pydantic import ValidationError

from corollary.errors import ConfigError, DataError, UserCodeError
from corollary.rewards.base import Reward, RewardSpec, Score
from corollary.rewards.calling import load
from corollary.rewards.parts import REGISTRY, Part
from corollary.types import Completion, Prompt, Sampling

TRL = '''
import asyncio

def accuracy(completions, solution, log_extra=None, log_metric=None, **kwargs):
    """As TRL's documentation writes them: conversational, a column by name, extras logged."""
    contents = [completion[0]["content"] for completion in completions]
    if log_extra:
        log_extra("solution", list(solution))
    if log_metric:
        log_metric("mean", 0.5)
    return [1.0 if content == gold else 0.0 for content, gold in zip(contents, solution, strict=True)]

def by_length(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]

def only_maths(prompts, completions, task, **kwargs):
    return [1.0 if kind == "maths" else None for kind in task]

def later(completions, trainer_state, **kwargs):
    return [float(trainer_state.global_step)] * len(completions)

async def slow_judge(prompts, completions, **kwargs):
    async def one(prompt, completion):
        await asyncio.sleep(0.01)
        return float(prompt[-1]["content"] in completion[0]["content"])
    return await asyncio.gather(*(one(p, c) for p, c in zip(prompts, completions)))

def exact_parameters(prompts, completions, solution):
    return [float(len(s)) for s in solution]

def everything(**kwargs):
    assert list(kwargs["prompts"][0][0]) == ["role", "content"], kwargs
    assert kwargs["completions"][0][0]["role"] == "assistant"
    assert all(isinstance(i, int) for ids in kwargs["completion_ids"] for i in ids)
    assert {"solution", "task", "trainer_state", "log_extra", "log_metric"} <= set(kwargs)
    assert "prompt" not in kwargs and "completion" not in kwargs
    return [0.0] * len(kwargs["prompts"])

def plain(prompts, completions, **kwargs):
    return [float(prompt + completion == "2+2=4") for prompt, completion in zip(prompts, completions)]

class Named:
    def __call__(self, completions, **kwargs):
        return [3.0] * len(completions)

instance = Named()
'''


def completion(text, ids=(1, 2)):
    return Completion(
        token_ids=ids, logprobs=(0.0,) * len(ids), text=text, truncated=False, version=0, sampling=Sampling()
    )


def chat(name, text, **columns):
    return Prompt(id=name, token_ids=(1,), messages=({"role": "user", "content": text},), text=text, columns=columns)


GROUPS = [
    (
        chat("p17", "2+2", solution="4", task="maths"),
        [completion("4", (1,)), completion("5", (1, 2)), completion("2+2=4", ())],
    ),
    (chat("p18", "hi", solution="hello", task="chat", prompt="dropped"), [completion("hello"), completion("hi")]),
]
NAMES = ["p17#0", "p17#1", "p17#2", "p18#0", "p18#1"]


def flat(scores: list[list[Score]]) -> list[Score]:
    return [score for group in scores for score in group]


def values(scores, name):
    return [score.parts[name] for score in flat(scores)]


@pytest.fixture(scope="module")
def trl(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "trl.py"
    path.write_text(TRL)
    return path


def write(tmp_path, body):
    path = tmp_path / "rewards.py"
    path.write_text(body)
    return f"{path}:f"


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", [1, 0, 0, 1, 0]),
        ("by_length", [1, 2, 0, 2, 2]),
        ("only_maths", [1, 1, 1, None, None]),
        ("later", [7] * 5),
        ("slow_judge", [0, 0, 1, 0, 1]),
        ("exact_parameters", [1, 1, 1, 5, 5]),
        ("everything", [0] * 5),
        ("instance", [3] * 5),
    ],
)
def test_a_reward_function_written_for_trl_runs_unchanged(trl, name, expected, isolated):
    with Reward([RewardSpec(type=f"{trl}:{name}", isolated=isolated)]) as reward:
        reward.check([prompt for prompt, _ in GROUPS])
        scores = reward.score(GROUPS, step=7)
    assert [len(group) for group in scores] == [3, 2]
    assert values(scores, name) == expected
    assert [score.reward for score in flat(scores)] == expected


def test_plain_text_data_gives_plain_text(trl):
    with Reward([RewardSpec(type=f"{trl}:plain")]) as reward:
        scores = reward.score([(Prompt(id="p", token_ids=(), text="2+2"), [completion("=4"), completion("=5")])])
    assert values(scores, "plain") == [1, 0]


@pytest.mark.parametrize("workers", [1, 3])
def test_several_rewards_are_kept_apart_and_added_by_weight(trl, workers):
    specs = [
        RewardSpec(type=f"{trl}:accuracy", weight=2.0),
        RewardSpec(type=f"{trl}:by_length", weight=-0.5, name="brevity", per="sample"),
        RewardSpec(type=f"{trl}:only_maths", weight=0.25, per="group"),
        RewardSpec(type="number", weight=0.0, params={"column": "gold"}, isolated=False),
    ]
    groups = [(chat(p.id, p.text, **p.columns, gold=4), answers) for p, answers in GROUPS]
    with Reward(specs, workers=workers) as reward:
        assert reward.names == ("accuracy", "brevity", "only_maths", "number")
        assert reward.full_mark == 2.25
        scores = flat(reward.score(groups))
    assert scores[0] == Score(2.0 - 0.5 + 0.25, {"accuracy": 1.0, "brevity": 1.0, "only_maths": 1.0, "number": 1.0})
    assert scores[3] == Score(2.0 - 1.0, {"accuracy": 1.0, "brevity": 2.0, "only_maths": None, "number": 0.0})


def test_a_sample_that_no_reward_applies_to_has_none(trl):
    with Reward([RewardSpec(type=f"{trl}:only_maths")]) as reward:
        assert [score.reward for score in flat(reward.score(GROUPS))] == [1, 1, 1, None, None]
        assert reward.score([]) == []
        assert reward.score([(GROUPS[0][0], [])]) == [[]]


def test_a_call_is_given_a_batch_a_group_or_a_sample_as_asked(tmp_path):
    sizes = write(tmp_path, "def f(completions, **kwargs): return [float(len(completions))] * len(completions)")
    for per, expected in (("batch", [5] * 5), ("group", [3, 3, 3, 2, 2]), ("sample", [1] * 5)):
        with Reward([RewardSpec(type=sizes, per=per)]) as reward:
            assert values(reward.score(GROUPS), "f") == expected


MUTATES = """
def f(prompts, completions, completion_ids, columns, **kwargs):
    for thing in (prompts, completions, completion_ids, columns):
        thing[0].clear()
        thing.clear()
    return [1.0] * 3
"""


@pytest.mark.parametrize("isolated", [True, False])
def test_a_reward_that_changes_its_inputs_changes_nothing(tmp_path, isolated):
    prompt = chat("p", "2+2", columns=["a", "b"], answer="4")
    answers = [completion("4") for _ in range(3)]
    before = repr((prompt, answers))
    specs = [RewardSpec(type=write(tmp_path, MUTATES), isolated=isolated), RewardSpec(type="number", isolated=isolated)]
    with Reward(specs) as reward:
        assert [score.reward for score in flat(reward.score([(prompt, answers)]))] == [2.0] * 3
    assert repr((prompt, answers)) == before


def test_a_column_that_some_rows_lack_is_none_there(tmp_path):
    path = write(tmp_path, "def f(hint, **kwargs): return [None if h is None else 1.0 for h in hint]")
    groups = [(chat("a", "x", hint="y"), [completion("1")]), (chat("b", "x"), [completion("1")])]
    for per in ("batch", "sample"):
        with Reward([RewardSpec(type=path, per=per)]) as reward:
            assert values(reward.score(groups), "f") == [1, None]


def test_check_finds_faults_before_anything_is_sampled(tmp_path, trl):
    prompts = [chat("p1", "x", answer="4"), chat("p2", "x", answer="many")]
    for spec, error, message in (
        (
            RewardSpec(type=f"{trl}:accuracy"),
            UserCodeError,
            "E0705.*it takes 'solution', which is no column of the data; there is: answer",
        ),
        (
            RewardSpec(type=f"{trl}:nothing"),
            UserCodeError,
            "E0704.*trl.py: reward 'nothing' cannot be loaded: .*no function 'nothing'",
        ),
        (RewardSpec(type="number"), DataError, "cannot judge sample p2#0: column 'answer': expected a number.*'many'"),
        (RewardSpec(type="number", params={"column": "solution"}), DataError, "no column 'solution'"),
        (
            RewardSpec(type=write(tmp_path, "def f(:"), on_error="mask"),
            UserCodeError,
            "rewards.py:1: .*cannot be loaded: SyntaxError",
        ),
    ):
        with Reward([spec]) as reward, pytest.raises(error, match=message):
            reward.check(prompts)
    strict = write(tmp_path, "def f(completions, **kwargs): return [c[0]['content'][0] and 1.0 for c in completions]")
    with Reward([RewardSpec(type=strict)]) as reward:
        reward.check(prompts)


def test_a_reward_that_cannot_be_loaded_is_never_masked(trl):
    with (
        Reward([RewardSpec(type=f"{trl}:nothing", on_error="mask")]) as reward,
        pytest.raises(UserCodeError, match="E0704"),
    ):
        reward.score(GROUPS)


@pytest.mark.parametrize("column", ["prompts", "completion_ids", "trainer_state"])
def test_a_column_with_a_name_that_is_taken_is_refused(column):
    with Reward([RewardSpec(type="number")]) as reward, pytest.raises(DataError, match=f"{column}.*rename"):
        reward.check([chat("p", "x", answer=1, **{column: 1})])


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="did you mean number"):
        RewardSpec(type="numbr")
    with pytest.raises(ValidationError, match=r"path/to/file\.py:function"):
        RewardSpec(type="os:system")
    with pytest.raises(ValidationError, match="one sample per call"):
        RewardSpec(type="math", isolated=False)
    for wrong in ({"timeout": 0}, {"weight": math.nan}, {"on_error": "zero"}, {"wieght": 1}):
        with pytest.raises(ValidationError):
            RewardSpec(type="number", **wrong)
    with pytest.raises(ConfigError, match="no file"):
        Reward([RewardSpec(type=f"{tmp_path}/none.py:f")])
    with pytest.raises(ConfigError, match="no reward function"):
        Reward([])
    with pytest.raises(ConfigError, match="two rewards are named 'number'"):
        Reward([RewardSpec(type="number"), RewardSpec(type="number")])
    with (
        Reward([RewardSpec(type="number", params={"answer": 3})]) as reward,
        pytest.raises(ConfigError, match="'answer' is a column"),
    ):
        reward.check([chat("p", "x", answer=1)])


def test_a_function_at_hand_runs_in_a_worker_if_it_can_be_found_and_here_on_request(tmp_path):
    path = tmp_path / "brief.py"
    path.write_text("def brief(completions, **c): return [-float(len(text[0]['content'])) for text in completions]")
    brief, local = load(f"{path}:brief"), 10.0
    with Reward(
        [Part.given(brief), Part.given(lambda completions: [local] * len(completions), isolated=False, name="ten")]
    ) as reward:
        assert [score.reward for score in flat(reward.score(GROUPS))] == [9, 9, 5, 5, 8]
    for hidden in (lambda completions: [local], len):
        with pytest.raises(ConfigError, match="isolated=False"):
            Part.given(hidden)


def test_what_a_reward_prints_is_kept_off_the_terminal(tmp_path, capfd):
    path = write(tmp_path, "def f(completions, **kwargs):\n    print('looking')\n    return [1.0] * len(completions)")
    with Reward([RewardSpec(type=path)]) as reward:
        reward.score(GROUPS)
        assert reward.printed == "looking\n"
    assert capfd.readouterr() == ("", "")


def test_the_registry_names_functions_that_load_and_says_what_they_do():
    assert {name for name, known in REGISTRY.items() if known.lent} == {"reward_model"}
    assert set(REGISTRY) == {"code", "equation", "instructions", "number", "math", "reward_model"}
    ending = [{"type": "startend:end_checker", "end_phrase": "= 7"}]
    prompts = [chat("p", "x", answer="7", tests=["assert f(1) == 1"], entry_point="f", instructions=ending)]
    right = {"code": "def f(x): return x"}
    for name, known in REGISTRY.items():
        assert known.description
        assert "\n" not in known.description
        if known.lent:
            continue
        with Reward([RewardSpec(type=name)]) as reward:
            reward.check(prompts)
            answers = [completion(right.get(name, "3 + 4 = 7")), completion("no")]
            assert flat(reward.score([(prompts[0], answers)])) == [
                Score(1.0, {name: 1.0}),
                Score(0.0, {name: 0.0}),
            ]
