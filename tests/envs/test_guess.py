"""The guessing game: seeded, deterministic, and won by halving."""

from __future__ import annotations

from collections import Counter

import pytest

from corollary.envs.guess import Game, Guess, games, played


def won(seed: int, largest: int, turns: int) -> bool:
    """Whether halving what is left finds the number."""
    game = Game(largest)
    game.reset(seed)
    low, high = 1, largest
    for _ in range(turns):
        middle = (low + high) // 2
        turn = game.step(str(middle))
        if turn.terminated:
            return turn.reward == 1
        low, high = (middle + 1, high) if turn.observation == "higher" else (low, middle - 1)
    return False


@pytest.mark.parametrize(("largest", "turns"), [(30, 5), (31, 5), (7, 3)])
def test_halving_always_wins_and_a_turn_less_is_not_enough(largest: int, turns: int) -> None:
    assert all(won(seed, largest, turns) for seed in range(200))
    assert not all(won(seed, largest, turns - 1) for seed in range(200))


def test_equal_seeds_hide_the_same_number_and_seeds_hide_every_number() -> None:
    def secret(seed: int) -> int:
        game = Game(30)
        game.reset(seed)
        return game.secret

    assert [secret(s) for s in range(50)] == [secret(s) for s in range(50)]
    hidden = Counter(secret(s) for s in range(3000))
    assert set(hidden) == set(range(1, 31))
    assert max(hidden.values()) < 2 * min(hidden.values())


@pytest.mark.parametrize("said", ["", "twelve", "3.5", "-3", "0", "31", "1" * 5000, "٣", "3 or 4", "²"])
def test_what_is_no_guess_costs_a_turn_and_says_what_is_one(said: str) -> None:
    game = Game(30)
    game.reset(0)
    turn = game.step(said)
    assert (turn.observation, turn.reward, turn.over) == ("Say one number from 1 to 30.", 0.0, False)
    assert turn.info == {"invalid": 1.0}


def test_rows_are_games_and_no_game_is_in_two_sets() -> None:
    train, test = ({row["seed"] for row in games(n=1024, first=first)} for first in (0, 2_000_000))
    assert len(train) == 1024
    assert not train & test


def test_the_careless_player_follows_the_rules_and_often_loses() -> None:
    rows = [*played(n=300)]
    assert rows == [*played(n=300)]
    wins = 0
    for row in rows:
        turns = row["messages"][1::2]
        assert [m["role"] for m in row["messages"][:2]] == ["user", "assistant"]
        low, high = 1, 30
        for said, heard in zip(turns, row["messages"][2::2], strict=False):
            assert low <= int(said["content"]) <= high, "it guesses what is ruled out"
            low, high = (
                (int(said["content"]) + 1, high) if heard["content"] == "higher" else (low, int(said["content"]) - 1)
            )
        wins += row["messages"][-1]["role"] == "assistant"
    assert 0.4 < wins / 300 < 0.9


def test_what_is_learnt_begins_as_what_is_played() -> None:
    row = next(games(n=1))
    opening = Game(Guess().largest).reset(row["seed"])
    assert (
        next(played(n=1, first=row["seed"]))["messages"][0]["content"] == f"{row['prompt'][0]['content']}\n\n{opening}"
    )
