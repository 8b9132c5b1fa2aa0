from __future__ import annotations

import json
import string
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corollary.rewards.calling import SampleError
from corollary.rewards.instructions import KINDS, followed, instructions, loosened
from models.small import fetched

FIVE = {f"keyword{i}": word for i, word in enumerate(("one", "two", "three", "four", "six"), start=1)}
TIMES = " ".join(["one"] + ["two"] * 2 + ["three"] * 3 + ["four"] * 5 + ["six"] * 7)
REQUEST = {"prompt_to_repeat": "Write a poem about rain."}
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["rain", "sun"]}, "Sunday rain", "Sunday only"),
    ("keywords:frequency", {"keyword": "a.", "frequency": 2, "relation": "at least"}, "a. A.", "a. aa"),
    ("keywords:frequency", {"keyword": "a", "frequency": 2, "relation": "less than"}, "a b", "a a"),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, "concatenate", "the Cat!"),
    ("keywords:letter_frequency", {"letter": "z", "let_frequency": 2, "let_relation": "at least"}, "Zz", "z"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "one two three", "one two!"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "one two!", "one two three"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "Well: one.", "One. Two!"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "One.\n\n*Then* two.",
        "Then one.\n\nTwo.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] and [place]", "[name] and []"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Yes.\nP.S. no", "Yes. PS"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Yes.\nP.P.S. no", "Yes.\nP.S. no"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "**a**\n* b"),
    ("detectable_format:constrained_response", {}, "My answer is yes.", "Yes."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a b* and **c**", "*a b* and **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\na\nPart 2\nb",
        "Part 1\nParts",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    ("detectable_format:title", {}, "<<Rain>>\nIt rains.", "<< >> Rain"),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", REQUEST, "write a poem about rain. It rains.", "It rains."),
    ("startend:end_checker", {"end_phrase": "That is all."}, 'Well. "That is all."', "That is all. Bye"),
    ("startend:quotation", {}, '"All of it."', '"All" of it.'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "A BIG day",
        "big A",
    ),
    ("change_case:english_capital", {}, "IT RAINS, 3 TIMES.", "It RAINS."),
    ("change_case:english_lowercase", {}, "it rains, 3 times.", "It rains."),
    ("punctuation:no_comma", {}, "it rains", "well, it rains"),
    ("count:word_count_range", {"min_words": 2, "max_words": 3}, "it rains", "rain"),
    ("count:unique_word_count", {"N": 3}, "It rains, it pours", "it it, It"),
    ("count:conjunctions", {"small_n": 2}, "this AND that, or: none", "and and sandor"),
    ("count:numbers", {"N": 2}, "1,000 and 2", "1 and 2 and 3"),
    ("count:pronouns", {"N": 3}, "He/him and mine.", "he and this"),
    ("count:punctuation", {}, "a. b, c! d? e; f: g?!", "a. b, c; d: e?!"),
    ("count:keywords_multiple", FIVE, TIMES, TIMES + " six"),
    ("count:words_japanese", {"N": 2}, "hello 雨 and 7 it 雪.", "hello rain"),
    ("words:alphabet", {}, "Yes, zebras and bears", "a c"),
    ("words:vowel", {}, "it rained", "one rainy June"),
    ("words:consonants", {}, "strong winds blow", "strong rain"),
    ("words:palindrome", {}, "level " * 5 + "Radar, " * 5, "level " * 9 + "noon"),
    ("words:prime_lengths", {}, "it was never, rainier", "rain"),
    ("words:repeats", {"small_n": 2}, "it rains, It pours", "it it it"),
    ("format:parentheses", {}, "([{[(a)]}])", "((((a)))) (b]"),
    ("format:options", {"options": "I know or I don't know"}, "I don't know.", "Who knows?"),
    ("format:options", {"options": "a), b), c), d)"}, "b)", "e)"),
    ("format:newline", {}, "it\nrains\n", "it rains"),
    ("format:output_template", {}, "My Answer: a\nMy Conclusion: b\nFuture Outlook: c", "My Answer: a"),
    ("format:no_whitespace", {}, "itrains", "it\nrains"),
    ("repeat:repeat_change", REQUEST, "Sing a poem about rain.", "Write a poem about rain."),
    ("repeat:repeat_span", REQUEST | {"n_start": 1, "n_end": 3}, "a poem", "Write a"),
    ("repeat:repeat_simple", {}, "Only output this sentence here, ignore all other requests.", "Only this."),
    ("ratio:overlap", {"reference_text": "abcd", "percentage": 50}, "abcx", "wxyz"),
]


def test_every_kind_has_a_case_here() -> None:
    assert {kind for kind, *_ in CASES} == set(KINDS)


@pytest.mark.parametrize(("kind", "parameters", "good", "bad"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_a_text_follows_and_another_does_not(kind: str, parameters: dict[str, Any], good: str, bad: str) -> None:
    assert followed(good, kind, **parameters)
    assert not followed(bad, kind, **parameters)
    assert not followed("  \n", kind, **parameters)
    assert instructions([good, bad], [[{"type": kind, **parameters}]] * 2) == [1.0, 0.0]


@given(st.text(alphabet=string.printable + "雨«»", max_size=80))
def test_no_text_makes_a_rule_fail_and_what_is_followed_is_followed_loosely(text: str) -> None:
    for kind, parameters, *_ in CASES:
        assert followed(text, kind, **parameters) <= followed(text, kind, loose=True, **parameters)


def test_a_loosened_text_lacks_its_first_or_last_line_or_asterisks() -> None:
    assert set(loosened("a\n*b*\nc")) == {"a\n*b*\nc", "a\nb\nc", "*b*\nc", "b\nc", "a\n*b*", "a\nb", "*b*", "b"}


def test_a_share_of_the_instructions_may_earn_its_share() -> None:
    asked = [{"type": "punctuation:no_comma"}, {"type": "change_case:english_lowercase"}]
    assert instructions(["Well"], [asked], credit="share") == [0.5]
    assert instructions(["Well"], [asked]) == [0.0]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (None, "expected a list of them, got 'None'"),
        ([], "expected a list of them"),
        (["no comma"], "expected an object with a type"),
        ([{"type": "words:magic"}], "there is no rule for 'words:magic'"),
        ([{"type": "count:numbers"}], "count:numbers: missing a required argument: 'N'"),
        ([{"type": "punctuation:no_comma", "N": 1}], "punctuation:no_comma: got an unexpected keyword argument 'N'"),
        (
            [{"type": "keywords:frequency", "keyword": "a", "frequency": 1, "relation": "about"}],
            "a relation is 'at least'",
        ),
    ],
)
def test_instructions_that_are_none_are_the_data_s_fault(wanted: object, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        instructions(["x"], [wanted])


@pytest.mark.parametrize("piece", ["*", "[", "<<", "\n", "a ", "* a ", "(", "p.s", "é. "])
def test_a_long_answer_costs_no_more_than_its_length(piece: str) -> None:
    started = time.process_time()
    for kind, parameters, *_ in CASES:
        followed(piece * (40_000 // len(piece)) + "x", kind, **parameters)
    assert time.process_time() - started < 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["instructions/train", "instructions/test", "ifbench/checked"])
def test_the_catalogue_s_instructions_can_all_be_checked(name: str) -> None:
    rows = [json.loads(line) for line in fetched(name).read_text(encoding="utf-8").split("\n") if line]
    rewards = instructions(["x"] * len(rows), [row["instructions"] for row in rows])
    assert 0 < sum(rewards) < len(rows) / 2
