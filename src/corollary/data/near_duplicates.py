"""Which texts are the same but for numbers, names, pronouns and a few words; whole groups go to one side of a split.

Two texts are near-duplicates where their skeletons (lower case, numbers as `#`, names as `@`, pronouns as one) share at least 60 %
of their words and word pairs (Jaccard index), and so is everything that a chain of near-duplicates joins.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

SIMILAR = 0.6  # Jaccard index of words and word pairs from which two skeletons are near-duplicates
COMMON = 150  # a word or pair that is in more skeletons than this proposes no candidates; it still counts in the index

_NUMBERS = re.compile(
    r"zero|one|two|three|four|five|(six|seven|eight|nine)(teen|ty)?|(thir|four|fif|eigh)(teen|ty)|ten|eleven|twelve|twenty|forty|"
    r"hundred|thousand|\d.*"
)
_PRONOUNS = re.compile(r"he|she|his|hers?|him|they|their|them")
_WORD = re.compile(r"[^\W\d_]+|\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Near-duplicates of one another, in the order of the texts."""

    members: tuple[int, ...]  # indices of the texts
    skeletons: tuple[str, ...]  # one per member


def names(texts: Sequence[str]) -> frozenset[str]:
    """The words that these texts write with a capital inside a sentence more often than in small letters.

    >>> sorted(names(["Then Mark ran. He ran.", "How far did Mark run? He can mark it."]))
    ['Mark']
    """
    inside: Counter[str] = Counter()
    small: Counter[str] = Counter()
    for text in texts:
        for match in re.finditer(r"[^\W\d_]+", text):
            word, before = match[0], text[: match.start()].rstrip(" \"'“”’")
            if word[0].isupper() and before and before[-1] not in ".?!":
                inside[word] += 1
            elif word[0].islower():
                small[word] += 1
    return frozenset(
        word for word, count in inside.items() if count > small[word.lower()] and not _PRONOUNS.fullmatch(word.lower())
    )


def skeleton(text: str, names: frozenset[str] = frozenset()) -> str:
    """What is left of a text without case, punctuation, numbers, names and the gender of pronouns.

    >>> skeleton("Ann has 3 pens. Her friend has twelve.", frozenset({"Ann"}))
    '@ has # pens he friend has #'
    """
    words = []
    for word in _WORD.findall(text):
        low = word.casefold()
        if _NUMBERS.fullmatch(low):
            words.append("#")
        elif word in names or word.capitalize() in names:
            words.append("@")
        else:
            words.append("he" if _PRONOUNS.fullmatch(low) else low)
    return " ".join(words)


def clusters(texts: Sequence[str]) -> list[Cluster]:
    """The groups of near-duplicates, single texts too, ordered by their first text.

    >>> [c.members for c in clusters(["Now Ann has 3 pens.", "How many cats ran off?", "Now Bob has 14 pens."])]
    [(0, 2), (1,)]
    """
    known = names(texts)
    skeletons = [skeleton(text, known) for text in texts]
    distinct = list(dict.fromkeys(skeletons))
    root = {s: s for s in distinct}

    def find(s: str) -> str:
        while root[s] != s:
            root[s] = root[root[s]]
            s = root[s]
        return s

    for a, b in _similar(distinct):
        root[find(a)] = find(b)
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, s in enumerate(skeletons):
        groups[find(s)].append(index)
    return [Cluster(tuple(group), tuple(skeletons[i] for i in group)) for group in groups.values()]


def side(cluster: Cluster, *, test_share: float) -> str:
    """`"test"` or `"train"`, by a hash of the group's content alone: the same whatever else is in the pool's other groups."""
    digest = hashlib.sha256(min(cluster.skeletons).encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < test_share * 2**64 else "train"


def _grams(skeleton: str) -> frozenset[str]:
    words = skeleton.split()
    return frozenset(words) | {f"{a} {b}" for a, b in pairwise(words)}


def _similar(skeletons: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The pairs whose Jaccard index is at least `SIMILAR`, among those that share an uncommon word or pair.

    Two sets of index J ≥ s share one of the |A| - ⌈s·|A|⌉ + 1 rarest of A, and it is among as many of B: only those are looked up.

    Source: Chaudhuri et al. 2006 (prefix filter), https://doi.org/10.1109/ICDE.2006.9.
    """
    grams = [_grams(s) for s in skeletons]
    count = Counter(gram for own in grams for gram in own)
    where: defaultdict[str, list[int]] = defaultdict(list)
    for i, own in enumerate(grams):
        rarest = sorted(own, key=lambda gram: (count[gram], gram))[: len(own) - ceil(SIMILAR * len(own)) + 1]
        uncommon = [gram for gram in rarest if count[gram] <= COMMON]
        for j in {j for gram in uncommon for j in where[gram]}:
            if not SIMILAR * len(own) <= len(grams[j]) <= len(own) / SIMILAR:
                continue  # what they share is less than their sizes differ by
            shared = len(own & grams[j])
            if shared >= SIMILAR * (len(own) + len(grams[j]) - shared):
                yield skeletons[i], skeletons[j]
        for gram in uncommon:
            where[gram].append(i)
