"""The encoding between the processes: what is plain data arrives as it was, and nothing else gets through."""

import math
import random

import pytest

from corollary.rewards.sandbox.inside import DEEPEST, ITEMS, LARGEST, decode, encode

PLAIN = [
    None, True, False, 0, -1, 10**5000, -(10**40), 0.1, -0.0, math.inf, 5e-324, 1 - 2j, "", "é\n\ud800", b"", b"\x00\xff",
    [], [[1], (2, "3")], (), {1, "a"}, frozenset({(1, 2)}), {}, {"k": [None], (1,): {2: 3}}, range(3, 9, 2), set(), [1, True, 1.0],
]  # fmt: skip


def types(value):
    """A value with the types of all that is in it."""
    inside = value.items() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return type(value), [types(part) for part in inside]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_data_arrives_as_it_was(value):
    back = decode(encode(value))
    assert back == value
    assert types(back) == types(value)


def test_a_nan_stays_one_and_zero_keeps_its_sign():
    assert math.isnan(decode(encode(math.nan)))
    assert math.copysign(1, decode(encode(-0.0))) == -1


def test_a_subclass_arrives_as_what_it_derives_from():
    class Everything(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    class Items(dict):
        pass

    assert type(decode(encode(Everything(3)))) is int
    assert decode(encode(Everything(3))) != 4
    assert type(decode(encode([Items(a=1)]))[0]) is dict


def test_an_iterator_arrives_as_one_over_the_same_items_and_ends():
    back = decode(encode(n * n for n in range(3)))
    assert back != [0, 1, 4]
    assert list(back) == [0, 1, 4]
    assert len(list(decode(encode(iter(int, 1))))) == ITEMS


@pytest.mark.parametrize(
    "value",
    [object(), len, lambda: 0, type, NotImplemented, ..., {1: object()}, [[set]]],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_plain_data_is_refused(value):
    with pytest.raises(ValueError, match="is not plain data"):
        encode(value)


def test_what_is_too_deep_or_too_large_is_refused():
    deep: list = []
    for _ in range(DEEPEST):
        deep = [deep]
    assert decode(encode(deep)) == deep
    with pytest.raises(ValueError, match="too deeply"):
        encode([deep])
    with pytest.raises(ValueError, match="too large"):
        encode("a" * (LARGEST + 1))
    loop: list = []
    loop.append(loop)
    with pytest.raises(ValueError, match="too deeply"):
        encode(loop)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"NN", b"i3:0x", b"i9:0x1", b"i2:zz", b"l2:N", b"l999999999:", b"l:N", b"d1:N", b"S1:l0:", b"R1:l0:",
     b"d2:l0:N", b"s2:\xff\xfe", b"f3:0xg", b"z1:1", b"gNNN", b"g", b"l1:" * 200, b"i-1:", b"s-5:abc", b"t1_0:N", b"f9:0x1p99999"],
)  # fmt: skip
def test_malformed_bytes_are_a_value_error(data):
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says of them
        decode(data)


def test_random_bytes_give_a_value_or_a_value_error_and_nothing_else():
    draw = random.Random(0)
    whole = encode(PLAIN[3:])
    read = 0
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.choice(b"NTFifzsbltSRdgI0123456789:,x-")
        try:
            decode(bytes(data))
            read += 1
        except ValueError:
            pass
    assert 0 < read < 3000
