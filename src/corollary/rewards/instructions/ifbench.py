"""Those of IFBench's kinds of instructions that plain rules decide, by its names and its parameters' names.

Not here are kinds that need a tagger, syllables, emoji tables or a trained sentence splitter, and those of one prompt alone.

Source: Pyatkin et al. 2025, https://arxiv.org/abs/2507.02833.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

from corollary.rewards.instructions.kinds import registry, spaced, words

KINDS, kind = registry()

_PUNCTUATION = str.maketrans("", "", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_PRONOUNS = re.compile(
    "i|me|my|mine|myself|we|us|our|ours|ourselves|you|your|yours|yourself|yourselves|he|him|his|himself|she|her|hers|herself|"
    "it|its|itself|they|them|their|theirs|themselves"
)
_CONJUNCTIONS = {"and", "but", "for", "nor", "or", "so", "yet"}
_PRIMES = frozenset(n for n in range(2, 100) if all(n % d for d in range(2, n)))
_PAIRS = {")": "(", "]": "[", "}": "{"}


def _bare(text: str) -> list[str]:
    """What stands between spaces, once punctuation is taken out, in small letters."""
    return text.translate(_PUNCTUATION).lower().split()


@kind("count:word_count_range")
def word_count(text: str, min_words: int, max_words: int) -> bool:
    """Between so many and so many words."""
    return min_words <= len(words(text)) <= max_words


@kind("count:unique_word_count")
def unique_words(text: str, N: int) -> bool:
    """At least N different words."""
    return len({word.lower() for word in spaced(text)}) >= N


@kind("count:conjunctions")
def conjunctions(text: str, small_n: int) -> bool:
    """At least so many different coordinating conjunctions."""
    return len({word.lower() for word in spaced(text)} & _CONJUNCTIONS) >= small_n


@kind("count:numbers")
def numbers(text: str, N: int) -> bool:
    """Exactly N numbers in digits, punctuation left out of account."""
    return len(re.findall(r"\d+", text.translate(_PUNCTUATION))) == N


@kind("count:pronouns")
def pronouns(text: str, N: int) -> bool:
    """At least N personal or possessive pronouns."""
    return sum(bool(_PRONOUNS.fullmatch(word)) for word in _bare(text.replace("/", " "))) >= N


@kind("count:punctuation")
def punctuation(text: str) -> bool:
    """Each of . , ! ? ; : occurs, and an interrobang (?!, !? or ‽) besides."""
    found = re.search(r"\?!|!\?|‽", text)
    return found is not None and set(".,!?;:") <= set(text[: found.start()] + text[found.end() :])


@kind("count:keywords_multiple")
def keywords_multiple(text: str, keyword1: str, keyword2: str, keyword3: str, keyword4: str, keyword5: str) -> bool:
    """The keywords occur exactly 1, 2, 3, 5 and 7 times."""
    wanted = zip((keyword1, keyword2, keyword3, keyword4, keyword5), (1, 2, 3, 5, 7), strict=True)
    return all(text.lower().count(keyword.lower()) == times for keyword, times in wanted)


@kind("count:words_japanese")
def japanese(text: str, N: int) -> bool:
    """Every N-th word is Japanese, numbers excepted."""
    every = [word.strip("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") for word in text.split()][N - 1 :: N]
    return all(not word or word.isdigit() or re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", word) for word in every)


@kind("words:alphabet")
def alphabetical(text: str) -> bool:
    """Each word begins with the letter after the one before, `a` after `z`."""
    first = [ord(word[0]) - ord("a") for word in _bare(text)]
    return (
        bool(first) and all(0 <= letter < 26 for letter in first) and all((a + 1) % 26 == b for a, b in pairwise(first))
    )


@kind("words:vowel")
def three_vowels(text: str) -> bool:
    """One paragraph, in which three vowels occur at most."""
    return "\n" not in text.strip() and len(set("aeiou") & set(text.lower())) <= 3


@kind("words:consonants")
def consonant_clusters(text: str) -> bool:
    """Each word has two consonants in a row."""
    return all(re.search("[b-df-hj-np-tv-z]{2}", word) for word in text.lower().split())


@kind("words:palindrome")
def palindromes(text: str) -> bool:
    """At least 10 words of 5 or more letters that read the same backwards."""
    return sum(len(word) >= 5 and word == word[::-1] for word in _bare(text)) >= 10


@kind("words:prime_lengths")
def prime_lengths(text: str) -> bool:
    """Each word's length is a prime number."""
    return all(len(word) in _PRIMES for word in _bare(text))


@kind("words:repeats")
def few_repeats(text: str, small_n: int) -> bool:
    """No word occurs more than so many times."""
    return max(Counter(_bare(text)).values(), default=0) <= small_n


@kind("format:parentheses")
def nested_brackets(text: str) -> bool:
    """Brackets stand in one another five deep, and close."""
    opened: list[str] = []
    for sign in text:
        if sign in "([{":
            opened.append(sign)
        elif sign in _PAIRS:
            if not opened or opened[-1] != _PAIRS[sign]:
                opened.clear()
            elif len(opened) >= 5:
                return True
            else:
                opened.pop()
    return False


@kind("format:options")
def one_of_options(text: str, options: str) -> bool:
    """The answer is one of the options, and nothing else."""
    said, *permitted = (
        option.strip(".!\"'*`() \n").casefold() for option in (text, *re.split(r"/|,\s*(?:or\s)?|\sor\s", options))
    )
    return said in permitted


@kind("format:newline")
def word_per_line(text: str) -> bool:
    """Each word stands on a line of its own."""
    bare = text.translate(_PUNCTUATION)
    return len([line for line in bare.strip().split("\n") if line]) == len(bare.split())


@kind("format:output_template")
def template(text: str) -> bool:
    """The three headings of IFBench's template occur."""
    return all(heading in text for heading in ("My Answer:", "My Conclusion:", "Future Outlook:"))


@kind("format:no_whitespace")
def no_whitespace(text: str) -> bool:
    """No space and no end of line."""
    return not re.search(r"\s", text)


@kind("repeat:repeat_change")
def repeats_but_first(text: str, prompt_to_repeat: str) -> bool:
    """The request again, its first word another."""
    return text != prompt_to_repeat and text.split()[1:] == prompt_to_repeat.split()[1:]


@kind("repeat:repeat_span")
def repeats_span(text: str, prompt_to_repeat: str, n_start: int, n_end: int) -> bool:
    """The words of the request from number `n_start` to before `n_end`, counted from 0."""
    return text.casefold().split() == prompt_to_repeat.casefold().split()[n_start:n_end]


@kind("repeat:repeat_simple")
def repeats_sentence(text: str) -> bool:
    """That one sentence."""
    return text.strip().casefold() == "only output this sentence here, ignore all other requests."


@kind("ratio:overlap")
def overlap(text: str, reference_text: str, percentage: float) -> bool:
    """Of the answer's different runs of three characters, this share is the reference's too, within 2 points."""
    runs, reference = ({t[i : i + 3] for i in range(len(t) - 2)} for t in (text, reference_text))
    return bool(runs) and abs(100 * len(runs & reference) / len(runs) - percentage) <= 2
