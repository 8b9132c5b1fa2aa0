"""The sampler with a partner: what it replies is put in and never drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch

import tiny
from corollary.engines.sampler import EmbeddedSampler
from corollary.types import Completion, Sampling

PROMPTS = tiny.prompts(4, 7, 2)


@dataclass
class Echo:
    """Replies with the length of the turn, twice, until it has replied `turns` times."""

    turns: int = 3
    turn_tokens: int = 6
    reply_tokens: int = 2
    heard: dict[tuple[int, int], list[tuple[str, int | None]]] = field(default_factory=dict)

    def reply(self, prompt: int, answer: int, text: str, closed: int | None) -> Sequence[int]:
        before = self.heard.setdefault((prompt, answer), [])
        before.append((text, closed))
        if len(before) > self.turns:
            return ()
        return [3 + len(text.split()) % 10] * self.reply_tokens


def talks(partner: Echo, sampling: Sampling, **settings: int) -> list[list[Completion]]:
    sampler = EmbeddedSampler(tiny.model(), decode=tiny.decode, eos_token_ids=[tiny.EOS, 7, 9, 11], **settings)
    return sampler.generate(PROMPTS, 8, sampling, names=["talk"], partner=partner)


LONG = Sampling(max_tokens=40)


def test_replies_stand_between_the_turns_and_every_sampled_token_has_its_probability() -> None:
    model, partner = tiny.model().eval(), Echo()
    groups = talks(partner, LONG)
    several = 0
    for i, group in enumerate(groups):
        for g, said in enumerate(group):
            turns = partner.heard.get((i, g), [])
            several += len(turns) > 1
            assert said.sampled.count(False) == 2 * min(len(turns), 3)
            ids = torch.tensor([*PROMPTS[i].token_ids, *said.token_ids])
            every = model(ids[None]).logits[0].log_softmax(-1)[len(PROMPTS[i].token_ids) - 1 : -1]
            every = every.gather(1, torch.tensor(said.token_ids)[:, None])[:, 0]
            mask = torch.tensor(said.sampled or [True] * len(said.token_ids))
            torch.testing.assert_close(
                torch.tensor(said.logprobs, dtype=torch.float64), every.where(mask, 0.0).detach(), rtol=0, atol=1e-12
            )
    assert several > 5, "hardly any conversation had several turns"


def test_a_conversation_does_not_depend_on_who_else_talks() -> None:
    together, apart = talks(Echo(), LONG), talks(Echo(), LONG, max_sequences=8)
    assert [c.token_ids for g in together for c in g] == [c.token_ids for g in apart for c in g]


def test_a_partner_that_says_nothing_changes_nothing() -> None:
    partner = Echo(turns=0, turn_tokens=0)
    plain = EmbeddedSampler(tiny.model(), decode=tiny.decode, eos_token_ids=[tiny.EOS, 7, 9, 11])
    assert talks(partner, LONG) == plain.generate(PROMPTS, 8, LONG, names=["talk"])


def test_a_turn_over_its_limit_ends_the_answer_as_cut_and_is_not_replied_to() -> None:
    partner = Echo()
    for i, group in enumerate(talks(partner, LONG)):
        for g, said in enumerate(group):
            turns = partner.heard.get((i, g), [])
            assert said.truncated == (len(turns) <= 3)
            if said.truncated:
                assert len(said.text.split()) == 6 or len(said.token_ids) >= 38


def test_a_reply_that_leaves_no_room_is_left_out() -> None:
    small = Sampling(max_tokens=8)
    cut = [c for group in talks(Echo(turns=9, turn_tokens=0, reply_tokens=4), small) for c in group if c.truncated]
    assert cut
    assert all(len(c.token_ids) <= 8 and (c.sampled or (True,))[-1] for c in cut), "the last token is the model's"
    assert any(len(c.token_ids) < 8 for c in cut)


@pytest.mark.parametrize("stop", ["5", "14"])
def test_a_stop_string_ends_a_turn_and_is_sought_in_that_turn_alone(stop: str) -> None:
    partner = Echo(turn_tokens=0)
    talks(partner, Sampling(max_tokens=40, stop=(stop,)))
    turns = [turn for said in partner.heard.values() for turn in said]
    assert any(closed is None for _, closed in turns)
    assert all(stop not in text for text, _ in turns)
    assert all(closed in (None, tiny.EOS, 7, 9, 11) for _, closed in turns)
