"""The reader's test and the errata: every question has an answer that the book proves, every erratum a counterexample."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from book.page import blocks, pages, sections

from corollary.theory.theorems import theorems

THEORY = Path(__file__).parents[2] / "docs" / "theory"
SECTIONS = {f"{page.name}#{anchor}": text for page in pages(THEORY) for anchor, text in sections(page).items()}
QUESTIONS = sections(THEORY / "questions.md")
ERRATA = sections(THEORY / "errata.md")
DECISIONS, DIVERGENCES = 11, 12

every_question = pytest.mark.parametrize("anchor", QUESTIONS)
every_erratum = pytest.mark.parametrize("anchor", ERRATA)


def linked(text: str) -> list[str]:
    """The sections of other pages of the book that a text links to."""
    return re.findall(r"\]\(([\w-]+\.md#[^)\s]+)\)", text)


def computed(text: str) -> bool:
    """Whether a number or a formula of the text is made by code."""
    return any(b.kind in ("m", "value", "formula") for b in blocks(text))


def test_there_are_twenty_three_questions_each_asked_as_one() -> None:
    assert len(QUESTIONS) == DECISIONS + DIVERGENCES
    headings = re.findall(r"^## (.+)$", (THEORY / "questions.md").read_text(), flags=re.MULTILINE)
    assert [heading for heading in headings if not heading.endswith("?")] == []


@every_question
def test_a_question_is_answered_by_number_and_by_a_section_of_the_book(anchor: str) -> None:
    answers = linked(QUESTIONS[anchor])
    assert answers
    assert [link for link in answers if link not in SECTIONS] == []
    assert computed(QUESTIONS[anchor])


def test_there_are_at_least_two_dozen_errata() -> None:
    assert len(ERRATA) >= 24


@every_erratum
def test_an_erratum_quotes_the_claim_and_its_kind_of_source_and_refutes_it(anchor: str) -> None:
    text = ERRATA[anchor]
    quotation = "".join(re.findall(r"^> (.+)$", text, flags=re.MULTILINE))
    assert re.search(r"\*[^*]+\.\*$", quotation), "the kind of source stands in italics behind the claim"
    assert any(b.kind == "formula" for b in blocks(text))


@every_erratum
def test_an_erratum_has_a_theorem_of_its_own_that_stands_in_it(anchor: str) -> None:
    own = {t.name for t in theorems() if t.section == f"errata.md#{anchor}"}
    shown = {name for b in blocks(ERRATA[anchor]) if b.kind == "theorem" for name in b.argument.split()}
    assert own
    assert own <= shown


@every_erratum
def test_an_erratum_says_where_the_book_treats_it(anchor: str) -> None:
    links = re.findall(r"\]\(([\w-]+\.md[^)\s]*)\)", ERRATA[anchor])
    assert links
    known = SECTIONS.keys() | {page.name for page in pages(THEORY)}
    assert [link for link in links if link not in known] == []
