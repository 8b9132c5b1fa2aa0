"""IFEval's kinds of instructions, by its names and its parameters' names. Of its 25, `language:response_language` is not here.

Words and sentences are told apart by simple rules and not by a trained splitter, so a count of sentences may differ from IFEval's
around abbreviations; text "in English" is not held to be English.

Source: Zhou et al. 2023, table 1, https://arxiv.org/abs/2311.07911.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from corollary.rewards.instructions.kinds import Relation, holds, registry, sentences, words

KINDS, kind = registry()


@kind("keywords:existence")
def contains_all(text: str, keywords: Sequence[str]) -> bool:
    """Each keyword occurs, whatever its case."""
    return all(keyword.casefold() in text.casefold() for keyword in keywords)


@kind("keywords:frequency")
def contains_often(text: str, keyword: str, frequency: int, relation: Relation = "at least") -> bool:
    """The keyword occurs so many times."""
    return holds(text.casefold().count(keyword.casefold()), relation, frequency)


@kind("keywords:forbidden_words")
def contains_none(text: str, forbidden_words: Sequence[str]) -> bool:
    """None of these occurs as a word of its own."""
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in forbidden_words)


@kind("keywords:letter_frequency")
def letter_often(text: str, letter: str, let_frequency: int, let_relation: Relation = "at least") -> bool:
    """The letter occurs so many times, in either case."""
    return holds(text.casefold().count(letter.casefold()), let_relation, let_frequency)


@kind("length_constraints:number_words")
def number_of_words(text: str, num_words: int, relation: Relation = "at least") -> bool:
    """So many words."""
    return holds(len(words(text)), relation, num_words)


@kind("length_constraints:number_sentences")
def number_of_sentences(text: str, num_sentences: int, relation: Relation = "at least") -> bool:
    """So many sentences."""
    return holds(len(sentences(text)), relation, num_sentences)


@kind("length_constraints:number_paragraphs")
def number_of_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs, `***` between them."""
    parts = [part.strip() for part in text.strip().removeprefix("***").removesuffix("***").split("***")]
    return all(parts) and len(parts) == num_paragraphs


@kind("length_constraints:nth_paragraph_first_word")
def paragraph_begins(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs, an empty line between them, the n-th of which begins with this word."""
    parts = [part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
    if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    return words(parts[nth_paragraph - 1].casefold())[:1] == [first_word.casefold()]


@kind("detectable_content:number_placeholders")
def placeholders(text: str, num_placeholders: int) -> bool:
    """At least so many placeholders, `[name]`."""
    return len(re.findall(r"\[[^\[\]\n]+\]", text)) >= num_placeholders


@kind("detectable_content:postscript")
def postscript(text: str, postscript_marker: str) -> bool:
    """A line begins with `P.S.`, or with `P.P.S`."""
    marker = r"\s*".join(re.escape(letter) + r"\.?" for letter in postscript_marker.replace(".", "").strip())
    return bool(re.search(rf"^[ \t]*{marker}", text, re.IGNORECASE | re.MULTILINE))


@kind("detectable_format:number_bullet_lists")
def bullets(text: str, num_bullets: int) -> bool:
    """Exactly so many lines begin with the bullet `*` or `-`."""
    return len(re.findall(r"^[ \t]*(?:\*(?!\*)|-)[ \t]*\S", text, re.MULTILINE)) == num_bullets


@kind("detectable_format:constrained_response")
def constrained(text: str) -> bool:
    """One of IFEval's three permitted answers occurs."""
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


@kind("detectable_format:number_highlighted_sections")
def highlighted(text: str, num_highlights: int) -> bool:
    """At least so many passages stand between asterisks, single or double."""
    passages = re.findall(r"\*\*([^*\n]+)\*\*|\*([^*\n]+)\*", text)
    return sum(bool("".join(passage).strip()) for passage in passages) >= num_highlights


@kind("detectable_format:multiple_sections")
def sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many sections, each headed by the word and a number: `Section 1`."""
    return len(re.findall(rf"\b{re.escape(section_spliter.strip())}\s*\d+", text)) >= num_sections


@kind("detectable_format:json_format")
def is_json(text: str) -> bool:
    """The whole is JSON, perhaps in a fenced block."""
    bare = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


@kind("detectable_format:title")
def title(text: str) -> bool:
    """A title stands in double angular brackets: `<<title>>`."""
    return any(inside.strip() for inside in re.findall(r"<<([^\n<>]+)>>", text))


@kind("combination:two_responses")
def two_responses(text: str) -> bool:
    """Two different answers, six asterisks between them."""
    parts = [part.strip() for part in text.split("******")]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


@kind("combination:repeat_prompt")
def repeats_prompt(text: str, prompt_to_repeat: str) -> bool:
    """The answer begins with the request."""
    return text.strip().casefold().startswith(prompt_to_repeat.strip().casefold())


@kind("startend:end_checker")
def ends_with(text: str, end_phrase: str) -> bool:
    """The answer ends with this phrase."""
    return text.strip().strip('"').casefold().endswith(end_phrase.strip().casefold())


@kind("startend:quotation")
def quoted(text: str) -> bool:
    """The whole stands between double quotation marks."""
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


@kind("change_case:capital_word_frequency")
def capital_words(text: str, capital_frequency: int, capital_relation: Relation = "at least") -> bool:
    """So many words stand in capitals alone."""
    return holds(sum(word.isupper() for word in words(text)), capital_relation, capital_frequency)


@kind("change_case:english_capital")
def in_capitals(text: str) -> bool:
    """No small letter."""
    return text.isupper()


@kind("change_case:english_lowercase")
def in_small_letters(text: str) -> bool:
    """No capital letter."""
    return text.islower()


@kind("punctuation:no_comma")
def without_comma(text: str) -> bool:
    """No comma."""
    return "," not in text
