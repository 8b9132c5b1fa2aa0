"""Configuration: what is loaded, what is refused, and how it is said."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from corollary.config import Config, InvalidConfig, Loaded, diff, load, preset_names, schema, to_yaml
from corollary.errors import ConfigError


class Clip(Config):
    type: Literal["clip"] = "clip"
    clip_low: float = Field(default=0.2, ge=0)
    """How far a ratio may fall, ≥ 0."""
    clip_high: float = 0.2


class Sequence(Config):
    type: Literal["sequence"] = "sequence"
    width: float = 3e-4
    inner: Clip = Clip(clip_high=0.9)


class Optimizer(Config):
    lr: float = 1e-5
    warmup: int = 0
    steps: int = 100

    @model_validator(mode="after")
    def _warmup_fits(self) -> Optimizer:
        if self.warmup > self.steps:
            raise ValueError(f"warmup {self.warmup} is more than steps {self.steps}")
        return self


Loss = Annotated[Clip | Sequence, Field(discriminator="type")]


class Train(Config):
    model: str
    """Name, folder or hub id."""
    seed: int = 0
    bf16: bool = False
    average: Literal["token_mean", "sequence_mean"] = "token_mean"
    optimizer: Optimizer = Optimizer()
    loss: Loss = Clip(clip_high=0.28)
    losses: tuple[Loss, ...] = (Clip(),)
    extra: Loss | None = None
    either: float | Optimizer = 1.0
    stop: str | list[str] = "\n\n"
    columns: dict[str, str] = Field(default_factory=lambda: {"answer": "answer"})
    seeds: list[int] | None = None
    out: Path = Path("runs/x")


def written(folder: Path, text: str | bytes, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def loaded(folder: Path, text: str | bytes, *overrides: str) -> Loaded[Train]:
    return load(Train, written(folder, text), overrides)


def refused(folder: Path, text: str | bytes, *overrides: str) -> list[str]:
    """Every problem as `code place: …`, the folder taken off."""
    with pytest.raises(InvalidConfig) as caught:
        loaded(folder, text, *overrides)
    assert "\n" not in caught.value.line()
    return [f"{problem.code} {problem}".replace(f"{folder}/", "") for problem in caught.value.problems]


def test_six_mistakes_in_a_file_and_on_the_command_line_are_all_reported_at_once_in_order(tmp_path: Path) -> None:
    text = "modle: x\noptimizer:\n  lr: fast\n  learning_rte: 1\naverage: token_maen\nloss:\n  clip_hihg: 0.3\n"
    assert refused(tmp_path, text, "losses.0.clip_low=-1", "lr=3") == [
        "E0101 run.yaml:1: modle: unknown key; did you mean model?",
        "E0102 run.yaml:3: optimizer.lr: should be a valid number; got 'fast'",
        "E0101 run.yaml:4: optimizer.learning_rte: unknown key; the keys here are lr, warmup, steps",
        "E0102 run.yaml:5: average: should be 'token_mean' or 'sequence_mean'; got 'token_maen'; "
        "did you mean token_mean?",
        "E0101 run.yaml:7: loss.clip_hihg: unknown key; did you mean clip_high?",
        "E0102 override losses.0.clip_low=-1: losses.0.clip_low: should be greater than or equal to 0; got -1",
        "E0101 override lr=3: lr: unknown key; did you mean optimizer.lr?",
    ]


def test_the_last_line_says_the_first_problem_and_counts_the_others(tmp_path: Path) -> None:
    path = written(tmp_path, "model: x\nsed: 1\nbf16: maybe\n")
    with pytest.raises(ConfigError) as caught:
        load(Train, path)
    assert caught.value.line() == f"error[E0101] {path}:2: sed: unknown key; did you mean seed? (+1 more)"
    assert caught.value.exit_status == 2


def test_a_single_problem_is_not_counted(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as caught:
        loaded(tmp_path, "model: x\nseed: y\n")
    assert caught.value.line().endswith(":2: seed: should be a valid integer; got 'y'")


def test_a_missing_key_names_its_mapping_and_what_it_means(tmp_path: Path) -> None:
    assert refused(tmp_path, "\nseed: 1\n") == ["E0103 run.yaml:2: model: missing key; Name, folder or hub id."]
    with pytest.raises(InvalidConfig, match=r"error\[E0103\] model: missing key"):
        load(Train, None)


def test_a_wrong_variant_gives_the_nearest_one_and_still_the_mistakes_within(tmp_path: Path) -> None:
    text = "model: x\nlosses:\n- type: clap\n  clip_lo: 1\n- width: 3\n"
    assert refused(tmp_path, text) == [
        "E0102 run.yaml:3: losses.0.type: should be clip or sequence; got 'clap'; did you mean clip?",
        "E0101 run.yaml:4: losses.0.clip_lo: unknown key; did you mean clip_low?",
        "E0103 run.yaml:5: losses.1.type: missing key; it is one of clip, sequence",
    ]


def test_an_impossible_combination_is_placed_at_the_first_key_it_names(tmp_path: Path) -> None:
    text = "model: x\noptimizer:\n  steps: 3\n  warmup: 5\n"
    assert refused(tmp_path, text) == ["E0106 run.yaml:4: optimizer: warmup 5 is more than steps 3"]


def test_a_union_is_reported_once_by_the_member_that_came_furthest(tmp_path: Path) -> None:
    text = "model: x\nstop: [1]\neither: {lrr: 3}\nseeds: 3\n"
    assert refused(tmp_path, text) == [
        "E0102 run.yaml:2: stop.0: should be a valid string; got 1; for a text, write it in quotes",
        "E0101 run.yaml:3: either.lrr: unknown key; did you mean lr?",
        "E0102 run.yaml:4: seeds: should be a list; got 3",
    ]
    assert refused(tmp_path, "model: x\neither: a\n") == [
        "E0102 run.yaml:2: either: should be a valid number or a mapping; got 'a'"
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("seed: true", "seed: should be a number; got true"),
        ("seeds: [1, true]", "seeds.1: should be a number; got true"),
        ("seed:", "seed: should be a valid integer; got null; leave the key out for its default"),
        ("optimizer:", "optimizer: should be a mapping; got null; leave the key out for its default"),
        ("optimizer: {lr: .nan}", "optimizer.lr: should be a finite number; got nan"),
        ("seed: [1]", "seed: should be a valid integer; got a list"),
        ("model: 3", "model: should be a valid string; got 3; for a text, write it in quotes"),
        ("optimizer.lr: 3", "optimizer.lr: unknown key; in a file it is written optimizer: {lr: …}"),
        ("columns: {a: 1}", "columns.a: should be a valid string; got 1; for a text, write it in quotes"),
    ],
)
def test_a_wrong_value_is_said_with_what_came_and_what_to_do(tmp_path: Path, line: str, what: str) -> None:
    text = line if line.startswith("model") else f"{line}\nmodel: x"
    assert [problem.partition(" ")[2] for problem in refused(tmp_path, text)] == [f"run.yaml:1: {what}"]


def test_yaml_one_point_one_traps_do_not_catch(tmp_path: Path) -> None:
    text = "model: no\noptimizer: {lr: 1e-4, steps: 1e3}\nbf16: on\nseed: 010\ncolumns: {yes: 2020-01-01, a: '1'}\n"
    config = loaded(tmp_path, text).config
    assert (config.model, config.optimizer.lr, config.optimizer.steps, config.bf16) == ("no", 1e-4, 1000, True)
    assert (config.seed, config.columns) == (10, {"yes": "2020-01-01", "a": "1"})


def test_byte_order_mark_crlf_anchors_and_merge_keys_are_read(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbfmodel: &name x\r\nout: *name\r\noptimizer: &o {lr: 0.5}\r\neither: {<<: *o, steps: 7}\r\n"
    config = loaded(tmp_path, text).config
    assert (config.model, config.out, config.either) == ("x", Path("x"), Optimizer(lr=0.5, steps=7))


def nested(depth: int) -> str:
    return "model: " + "[" * depth + "]" * depth


def bomb(levels: int) -> str:
    rows = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(["a0: &a0 [x, x]", *rows])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("model: x\nseed: 1\nmodel: y", "3: model: the key is here twice, also on line 1"),
        (
            "model: !!python/object/apply:os.system [ls]",
            "1: model: the tag !!python/object/apply:os.system is not allowed",
        ),
        ("model: x\n\tseed: 1", "2: indented with a tab; use spaces"),
        ("model: [x", "1: not valid YAML"),
        ("model: x\n---\nseed: 1", "2: a second YAML document"),
        ("model: x\n? [a]\n: 1", "2: a key must be a plain word"),
        ("model: *x", "1: *x stands for nothing"),
        ("- model", "1: a configuration is a mapping"),
        (b"model: x\nout: \xff", "2: not UTF-8: byte 0xff"),
        ("model: x\nout: \x00", "2: a control character"),
        ("model: x\n" + "#" * 1_000_000, " more than 1,000,000 bytes"),
        (nested(10_000), "1: nested more than 50 deep"),
        ("model: [" + "1, " * 10_000 + "]", "1: more than 10,000 values"),
        (bomb(30), "5: more than 10,000 values, with *a3 written out"),
        ("a: &a [*a]", "1: *a stands for nothing"),
    ],
)
def test_a_file_that_is_no_plain_yaml_is_refused_in_one_line_at_once(
    tmp_path: Path, text: str | bytes, what: str
) -> None:
    start = time.process_time()
    (problem,) = refused(tmp_path, text)
    assert problem.startswith(f"E0104 run.yaml:{what}")
    assert time.process_time() - start < 2


def test_an_unreadable_file_does_not_hide_a_faulty_override(tmp_path: Path) -> None:
    assert [line[:5] for line in refused(tmp_path, "model: [x", "seed")] == ["E0104", "E0105"]


def test_a_missing_file_a_folder_and_an_unknown_preset_are_named_with_the_nearest(tmp_path: Path) -> None:
    written(tmp_path, "model: x", "small.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for source, what in [
        (tmp_path / "smal.yaml", "smal.yaml: no such file; did you mean small.yaml?"),
        (str(tmp_path / "folder.yaml"), "folder.yaml: is not a regular file"),
        ("smal", "unknown preset 'smal'; did you mean small?"),
        ("qqq", "unknown preset 'qqq'; there are folder, small"),
        ("a\0.yaml", "no such file"),
    ]:
        with pytest.raises(InvalidConfig) as caught:
            load(Train, source, presets=tmp_path)
        assert caught.value.problems[0].code == "E0104"
        assert what in caught.value.line()


def test_overrides_are_yaml_values_and_reach_into_lists_and_default_variants() -> None:
    overrides = ["model=x", "optimizer.lr=1e-3", "losses.0.clip_low=0", "loss.clip_low=0.1", "seeds=[1, 2]", "bf16=yes"]
    config = load(Train, None, overrides).config
    assert (config.optimizer.lr, config.losses, config.seeds) == (1e-3, (Clip(clip_low=0),), [1, 2])
    assert config.loss == Clip(clip_low=0.1, clip_high=0.28)
    assert config.bf16


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("seed", "E0105 override seed: is no override; write key=value, or a.b=value"),
        ("optimizer..lr=3", "E0105 override optimizer..lr=3: is no override"),
        ("=3", "E0105 override =3: is no override"),
        ("out=*.json", "E0105 override out=*.json: out: not valid YAML"),
        ("out={a: 1, a: 2}", "E0104 override out={a: 1, a: 2}: a: the key is here twice"),
        ("losses.1.clip_low=3", "E0101 override losses.1.clip_low=3: losses.1.clip_low: no item 1: the list has 1"),
        ("loss.type=squence", "E0102 override loss.type=squence: loss.type: should be clip or sequence; got 'squence'"),
        ("sed=1", "E0101 override sed=1: sed: unknown key; did you mean seed?"),
        (".".join(["a"] * 5000) + "=1", "E0105 override a.a.a"),
        ("seed=\udcff", "E0105 override seed=\\udcff: seed: not UTF-8"),
    ],
)
def test_a_faulty_override_is_shown_as_it_was_typed(override: str, what: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(Train, None, ["model=x", override])
    problem = caught.value.problems[0]
    assert f"{problem.code} {problem}".encode("utf-8", "backslashreplace").decode().startswith(what)


def test_a_changed_type_drops_the_old_variants_keys_and_an_equal_one_keeps_them(tmp_path: Path) -> None:
    text = "model: x\nloss: {type: clip, clip_low: 0.7}\n"
    assert loaded(tmp_path, text, "loss.width=2", "loss.type=sequence").config.loss == Sequence(width=2)
    assert loaded(tmp_path, text, "loss.type=clip").config.loss == Clip(clip_low=0.7, clip_high=0.28)
    assert loaded(tmp_path, "model: x\nloss: {clip_low: 0.7}", "loss.type=sequence").config.loss == Sequence()


def test_a_variant_s_bare_name_stands_for_it_with_its_own_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, "model: x\nlosses: [clip, sequence]\n", "loss=clip", "loss.clip_low=0.5").config
    assert (config.losses, config.loss) == ((Clip(), Sequence()), Clip(clip_low=0.5))
    assert refused(tmp_path, "model: x\nlosses:\n- clap\n") == [
        "E0102 run.yaml:3: losses.0.type: should be clip or sequence; got 'clap'; did you mean clip?"
    ]


def test_defaults_inherit_from_presets_and_relative_paths_in_order_and_later_wins(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "mine").mkdir()
    written(tmp_path / "presets", "model: preset\nseed: 1\noptimizer: {lr: 0.1, steps: 7}\n", "small.yaml")
    written(tmp_path, "defaults: small\nseed: 2\nloss: {type: sequence, width: 9}\n", "base.yaml")
    path = written(tmp_path / "mine", "defaults: [small, ../base.yaml]\noptimizer: {lr: 0.2}\nloss: {type: clip}\n")
    result = load(Train, path, ["seed=3"], presets=tmp_path / "presets")
    assert result.config == Train(
        model="preset", seed=3, optimizer=Optimizer(lr=0.2, steps=7), loss=Clip(clip_high=0.28)
    )
    assert result.where("optimizer.steps") == f"{tmp_path}/presets/small.yaml:3"
    assert (result.where("optimizer.lr"), result.where("seed")) == (f"{path}:2", "override seed=3")
    assert load(Train, "small", presets=tmp_path / "presets").config.seed == 1
    assert preset_names(tmp_path / "presets") == ["small"]


def test_files_that_build_on_each_other_in_a_circle_or_without_end_are_refused(tmp_path: Path) -> None:
    written(tmp_path, "seed: 1\ndefaults: run.yaml\n", "base.yaml")
    assert refused(tmp_path, "defaults: base.yaml") == [
        "E0104 base.yaml:2: defaults: the files build on each other in a circle: run.yaml → base.yaml → run.yaml"
    ]
    for n in range(30):
        written(tmp_path, f"defaults: [f{n + 1}.yaml, f{n + 1}.yaml]", f"f{n}.yaml")
    written(tmp_path, "seed: 1", "f30.yaml")
    problems = refused(tmp_path, "defaults: f0.yaml")
    assert "more than 100 files" in problems[0]
    assert len(problems) < 100
    assert refused(tmp_path, "defaults: [3]") == [
        "E0104 run.yaml:1: defaults: should be a preset's name or a path, or a list of them"
    ]


def test_interpolation_refers_to_keys_defaults_siblings_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COROLLARY_TEST", "a${seed}")
    text = (
        "model: ${oc.env:COROLLARY_TEST}\nseed: ${optimizer.steps}\nout: runs/${seed}-${average}\nstop: \\${x}\n"
        "optimizer: {warmup: '${.steps}'}\neither: ${optimizer}\n"
    )
    config = loaded(tmp_path, text).config
    assert (config.model, config.seed, config.out) == ("a${seed}", 100, Path("runs/100-token_mean"))
    assert (config.stop, config.either) == ("${x}", Optimizer(warmup=100))


def test_interpolation_that_cannot_be_resolved_says_why_at_its_line(tmp_path: Path) -> None:
    text = (
        "model: ${oc.env:COROLLARY_NONE}\nout: ${modle}\nstop: a${b\nseed: ${rm:x}\naverage: ${model}\nbf16: ${bf16}\n"
    )
    assert refused(tmp_path, text) == [
        "E0103 run.yaml:1: model: the environment variable COROLLARY_NONE is not set; set it, "
        "or write ${oc.env:COROLLARY_NONE,default}",
        "E0101 run.yaml:2: out: ${modle}: no such key; did you mean model?",
        "E0104 run.yaml:3: stop: 'a${b' is no complete ${}; write ${key} or ${oc.env:NAME,default}, "
        "and \\${ for a plain ${",
        "E0104 run.yaml:4: seed: ${rm:…} is not available; it is one of oc.env",
        "E0104 run.yaml:6: bf16: ${bf16} leads back to itself, or through more than 20 others",
    ]
    assert [line[:31] for line in refused(tmp_path, "model: ${out}\nout: ${model}")] == [
        "E0104 run.yaml:1: model: ${out}",
        "E0104 run.yaml:2: out: ${model}",
    ]


def test_a_thousand_interpolations_are_the_limit(tmp_path: Path) -> None:
    texts = "".join(f"  k{n}: '${{seed}}'\n" for n in range(1_001))
    (problem,) = refused(tmp_path, f"model: x\ncolumns:\n{texts}")
    assert problem == "E0104 run.yaml:3: columns.k0: one of 1,001 values with ${}; the limit is 1,000"


def test_interpolation_bombs_are_refused_within_a_second_or_two(tmp_path: Path) -> None:
    texts = "\n".join(f"  t{n}: '{f'${{columns.t{n + 1}}}' * 20}'" for n in range(15))
    lists = "\n".join(f"  l{n}: ['${{columns.l{n + 1}}}', '${{columns.l{n + 1}}}']" for n in range(18))
    for text in (texts + "\n  t15: xxxxxxxxxx", lists + "\n  l18: [x, x]"):
        start = time.process_time()
        assert any(
            "more than 1,000,000 characters" in line for line in refused(tmp_path, f"model: x\ncolumns:\n{text}")
        )
        assert time.process_time() - start < 3


TEXTS = [
    "",
    "no",
    "1e-5",
    "010",
    "~",
    "a: b",
    "# x",
    "${a}",
    "\\${a",
    "x\\",
    "a\nb\n",
    " a\n  b",
    "\t",
    "\x85",
    "ü🙂\u2028",
    "- a",
]
TEXTS += [
    "true",
    "'",
    '"',
    "\r\n",
    "a\n\n",
    "*x",
    "!!x",
    "\ufeffa",
    "\x1b[0m",
    "<<",
    "???",
    "{}",
    "\\\\${",
    "\n",
    "0x1F",
    ".inf",
    "'\n\"",
    "%a",
]


def test_ten_thousand_mistakes_are_listed_within_seconds(tmp_path: Path) -> None:
    unknown = "".join(f"k{n}: 1\n" for n in range(4_900))
    start = time.process_time()
    assert len(refused(tmp_path, f"model: x\n{unknown}stop: [{', '.join(['1'] * 4_900)}]")) == 9_800
    assert time.process_time() - start < 4


def random_config(rng: random.Random) -> Train:
    text = lambda: "".join(rng.choices(TEXTS, k=rng.randint(1, 3)))  # noqa: E731
    number = lambda: rng.choice([0.0, 1e-300, 1e22, 0.1, 123456789.125, rng.random()])  # noqa: E731
    loss = lambda: rng.choice([Clip(clip_low=number()), Sequence(width=number(), inner=Clip(clip_high=number()))])  # noqa: E731
    return Train(
        model=text(),
        seed=rng.choice([0, -1, 10**18, 7]),
        bf16=rng.random() < 0.5,
        optimizer=Optimizer(lr=number(), steps=rng.randint(0, 9)),
        loss=loss(),
        losses=tuple(loss() for _ in range(rng.randint(0, 3))),
        extra=rng.choice([None, loss()]),
        either=rng.choice([2.5, Optimizer(lr=number())]),
        stop=rng.choice([text(), [text(), text()]]),
        columns={text(): text() for _ in range(rng.randint(0, 3))},
        seeds=rng.choice([None, [], [1, 2]]),
        out=Path("a") / f"{rng.random()}",
    )


def test_what_to_yaml_and_diff_write_loads_to_an_equal_object(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(80):
        config = random_config(rng)
        assert loaded(tmp_path, to_yaml(config)).config == config
        assert loaded(tmp_path, to_yaml(diff(config))).config == config


def test_diff_holds_what_differs_and_the_type_of_every_variant_in_it() -> None:
    config = Train(model="x", loss=Clip(clip_low=0.3), extra=Clip(), losses=(Sequence(width=1),), either=2)
    assert diff(config) == {
        "model": "x",
        "loss": {"type": "clip", "clip_low": 0.3, "clip_high": 0.2},
        "losses": [{"type": "sequence", "width": 1.0}],
        "extra": {"type": "clip"},
        "either": 2.0,
    }
    assert diff(config, config.model_copy(update={"seed": 4})) == {"seed": 0}
    assert diff(Train(model="x")) == {"model": "x"}


def test_the_schema_has_the_docstrings_of_fields_and_allows_defaults() -> None:
    result = schema(Train)
    assert result["properties"]["model"]["description"] == "Name, folder or hub id."
    assert result["$defs"]["Clip"]["properties"]["clip_low"]["description"].startswith("How far")
    assert "defaults" in result["properties"]
    assert result["additionalProperties"] is False


def test_a_config_is_frozen_and_closed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Optimizer().lr = 3
    with pytest.raises(ValueError, match="lrr"):
        Optimizer(lrr=3)


def test_control_characters_in_a_file_cannot_reach_the_terminal(tmp_path: Path) -> None:
    problems = refused(tmp_path, 'model: x\n"\\e[31mred": "\\e]0;t\\a"\nseed: "\\e[2J"\n', "s\x1b[1m=3")
    assert len(problems) == 3
    assert not any(character < " " for line in problems for character in line)


def mutated(rng: random.Random, text: str) -> str:
    pieces = [
        "\n",
        "  ",
        "\t",
        "- ",
        ": ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "!!int ",
        "'",
        '"',
        "<<: ",
        "? ",
        "---",
        "|",
        ">",
        "%",
        "\x00",
    ]
    pieces += [
        "null",
        "1e-5",
        "type",
        "true",
        "${",
        "${seed}",
        "${oc.env:",
        "}",
        "${.",
        "defaults",
        "🙂",
        "\ud800",
        "0",
        "-",
        ".",
        "loss",
        "\\",
    ]
    for _ in range(rng.choice([0, 1, 1, 2, 6])):
        at, cut = rng.randrange(len(text) + 1), rng.choice([0, 0, 1, 5])
        text = text[:at] + rng.choice(pieces) + text[at + cut :]
    return text


def test_no_garbled_file_or_override_gives_anything_but_a_config_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    base = to_yaml(Train(model="x", losses=(Clip(), Sequence()), extra=Sequence(), seeds=[1, 2])).replace(
        "runs/x", "${average}"
    )
    overrides = ["losses.0.clip_low=1", "loss={type: clip}", "seeds=[1]", "optimizer.lr=${seed}", "columns.a=b"]
    good = bad = 0
    for _ in range(150):
        text = mutated(rng, base) if rng.random() < 0.7 else base
        path = written(tmp_path, text.encode("utf-8", "surrogatepass"))
        chosen = [mutated(rng, text) if rng.random() < 0.5 else text for text in rng.sample(overrides, 2)]
        try:
            load(Train, path, chosen, presets=tmp_path)
            good += 1
        except InvalidConfig as fault:
            assert fault.problems
            assert all(problem.code.startswith("E010") and problem.what for problem in fault.problems)
            assert "\n" not in fault.line()
            bad += 1
    assert min(good, bad) > 20


def test_importing_the_configuration_imports_neither_torch_nor_transformers_nor_omegaconf() -> None:
    code = "import sys, corollary.config; print({'torch', 'transformers', 'omegaconf', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "set()"
