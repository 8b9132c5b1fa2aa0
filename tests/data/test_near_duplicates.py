from __future__ import annotations

from corollary.data.near_duplicates import clusters, names, side, skeleton

JOAN = "Joan found 70 seashells on the beach. She gave Sam some of her seashells. She has 27 left. How many did she give to Sam?"


def test_numbers_names_case_punctuation_and_pronouns_are_not_in_a_skeleton() -> None:
    other = "TIM found 1,200.5 seashells, on the beach! He gave Ann some of his seashells. He has six left; how many did he give to Ann?"
    known = names([JOAN, "Then Joan and Tim met Sam and Ann."])
    assert skeleton(JOAN, known) == skeleton(other, known)
    assert skeleton(JOAN, known).startswith("@ found # seashells on the beach he gave @")


def test_every_number_word_below_a_hundred_is_a_number() -> None:
    words = (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
        "nineteen twenty thirty forty fifty sixty seventy eighty ninety"
    )
    assert set(skeleton(words).split()) == {"#"}
    assert skeleton("often tend money") == "often tend money"


def test_a_word_that_starts_sentences_is_no_name() -> None:
    assert names(["How many? If so. Then there is Rose.", "Is how it is?"]) == {"Rose"}


def test_a_few_changed_words_leave_two_texts_near_duplicates_and_another_story_does_not() -> None:
    texts = [JOAN, JOAN.replace("27 left", "27 seashells now"), "A box holds 12 eggs. How many boxes do 36 eggs fill?"]
    assert [c.members for c in clusters(texts)] == [(0, 1), (2,)]


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    text = "an old farmer carried heavy baskets of ripe apples over the long wooden bridge to market before sunrise every day"
    words = text.split()
    chain = [" ".join(words[start : start + 13]) for start in (0, 3, 6)]
    assert len(clusters([chain[0], chain[2]])) == 2  # the ends alone differ too much
    assert [c.members for c in clusters(chain)] == [(0, 1, 2)]
    assert [c.members for c in clusters([chain[0], chain[2], chain[1]])] == [(0, 1, 2)]  # joined by the last


def test_a_group_s_side_is_decided_by_its_content_alone() -> None:
    alone = clusters([JOAN])[0]
    among = next(
        c for c in clusters(["A box holds 12 eggs. How many boxes do 36 eggs fill?", JOAN]) if c.members == (1,)
    )
    assert alone.skeletons == among.skeletons
    assert side(alone, test_share=0.3) == side(among, test_share=0.3)
    assert side(alone, test_share=1.0) == "test"
    assert side(alone, test_share=0.0) == "train"


def test_the_share_of_groups_in_test_is_the_share_asked_for() -> None:
    groups = clusters([f"{chr(97 + i % 26) * 5} {chr(97 + i // 26) * 4} {'abc' * (i % 7 + 1)}" for i in range(400)])
    share = sum(side(g, test_share=0.3) == "test" for g in groups) / len(groups)
    assert len(groups) > 200
    assert 0.2 < share < 0.4
