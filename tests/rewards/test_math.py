import pytest

from corollary.rewards.calling import SampleError
from corollary.rewards.math import equation, number


def said(text):
    return [{"role": "assistant", "content": text}]


def test_number_pays_for_the_last_number_alone():
    texts = ["7", "It is 7.", "7 or 8", "", "seven"]
    assert number(texts, answer=[7] * 5) == [1, 1, 0, 0, 0]
    assert number([said(text) for text in texts], answer=["#### 7"] * 5) == [1, 1, 0, 0, 0]


def test_equation_pays_for_form_and_truth_and_as_told_for_the_number():
    texts = ["3 + 4 = 7", "3 + 5 = 7", "The answer is 7", "3 + 4 = 8"]
    assert equation(texts, answer=[7] * 4) == [1, 0, 0, 0]
    assert equation(texts, answer=[7] * 4, lenient=0.25) == [1, 0.25, 0.25, 0]
    assert equation(["#### 7", "3 + 4 = 7"], form="hash", answer=[7, 7]) == [1, 0]


def test_the_gold_column_may_have_another_name():
    assert number(["7", "8"], column="solution", solution=[7, 7], answer=[8, 8]) == [1, 0]


@pytest.mark.parametrize("reward", [number, equation])
def test_a_gold_answer_that_cannot_be_read_names_its_row_and_is_never_a_zero(reward):
    with pytest.raises(SampleError, match=r"column 'answer': expected a number.*'many'") as caught:
        reward(["7", "7"], answer=[7, "many"])
    assert caught.value.sample == 1
    with pytest.raises(SampleError, match="holds no right answer"):
        reward(["7"], answer=[None])
    with pytest.raises(SampleError, match="no column 'answer'"):
        reward(["7"], solution=[7])
