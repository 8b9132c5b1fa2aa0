"""Variants by their bare name."""

from __future__ import annotations


def by_name(value: object) -> object:
    """Lets `average: token_mean` stand for `average: {type: token_mean}`.

    >>> by_name("token_mean")
    {'type': 'token_mean'}
    """
    return {"type": value} if isinstance(value, str) else value
