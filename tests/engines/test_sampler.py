from __future__ import annotations

import pytest
import torch

import tiny
from corollary.engines.sampler import EmbeddedSampler, sample
from corollary.errors import NumericsError
from corollary.types import Sampling

F64 = torch.float64


def sampler(**settings: object) -> EmbeddedSampler:
    return EmbeddedSampler(tiny.model(), decode=tiny.decode, eos_token_ids=[tiny.EOS], **settings)


def reference_greedy(prompt: tuple[int, ...], tokens: int) -> list[int]:
    """What transformers' model says, a whole forward per token."""
    model = tiny.model().eval()
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tiny.EOS:
            break
    return ids[len(prompt) :]


def test_greedy_answers_are_those_of_the_whole_forward() -> None:
    prompts = tiny.prompts(5, 1, 9)
    groups = sampler().generate(prompts, 2, Sampling(temperature=0, max_tokens=12), names=["t"])
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            assert list(completion.token_ids) == reference_greedy(prompt.token_ids, 12)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_whole_forward(temperature: float) -> None:
    model = tiny.model().eval()
    prompts = tiny.prompts(4, 7)
    for prompt, group in zip(
        prompts, sampler().generate(prompts, 3, Sampling(temperature=temperature, max_tokens=9), names=[0]), strict=True
    ):
        for c in group:
            ids = torch.tensor([*prompt.token_ids, *c.token_ids])
            full = (model(ids[None]).logits[0] / temperature).log_softmax(-1)
            expected = full[len(prompt.token_ids) - 1 : -1].gather(1, ids[len(prompt.token_ids) :, None])[:, 0]
            torch.testing.assert_close(torch.tensor(c.logprobs, dtype=F64), expected.detach(), rtol=0, atol=1e-12)


def test_an_answer_does_not_depend_on_who_else_is_in_the_batch() -> None:
    prompts = tiny.prompts(4, 7, 2)
    sampling = Sampling(max_tokens=10)
    together = sampler().generate(prompts, 4, sampling, names=["x", 3])
    apart = sampler(max_sequences=4).generate(prompts, 4, sampling, names=["x", 3])
    fewer = sampler().generate(prompts[:1], 2, sampling, names=["x", 3])
    for ours, others in ((together, apart), ([together[0][:2]], fewer)):
        for a, b in zip((c for g in ours for c in g), (c for g in others for c in g), strict=True):
            assert a.token_ids == b.token_ids
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-12)
    assert len({c.token_ids for c in together[0]}) > 1, "all answers of a group are the same"


def test_other_names_give_other_answers() -> None:
    prompts, sampling = tiny.prompts(4), Sampling(max_tokens=10)
    a, b = (sampler().generate(prompts, 1, sampling, names=["x", n])[0][0].token_ids for n in (1, 2))
    assert a != b


def test_end_of_sequence_ends_an_answer_and_belongs_to_it() -> None:
    groups = sampler().generate(tiny.prompts(3, 4, 5, 6), 8, Sampling(max_tokens=60), names=[1])
    ended = [c for g in groups for c in g if not c.truncated]
    assert ended, "no answer ended, so this test shows nothing"
    for c in ended:
        assert c.token_ids[-1] == tiny.EOS
        assert tiny.EOS not in c.token_ids[:-1]
    assert all(len(c.token_ids) == 60 for g in groups for c in g if c.truncated)


def test_a_stop_string_ends_an_answer_and_is_cut_from_its_text() -> None:
    groups = sampler().generate(tiny.prompts(3), 16, Sampling(max_tokens=40, stop=("7",)), names=[1])
    stopped = [c for c in groups[0] if not c.truncated and c.token_ids[-1] != tiny.EOS]
    assert stopped, "nothing was stopped, so this test shows nothing"
    assert all("7" not in c.text and "7" in tiny.decode(c.token_ids) for c in stopped)


def test_frequencies_are_the_models_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]], dtype=F64)
    uniform = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    tokens, logprobs = sample(logits.expand(20_000, -1), uniform, Sampling(temperature=0.5))
    p = (logits[0] / 0.5).softmax(-1)
    torch.testing.assert_close(tokens.bincount(minlength=4).double() / 20_000, p, rtol=0, atol=1e-4)
    torch.testing.assert_close(logprobs, p.log()[tokens], rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("settings", "support"),
    [({"top_k": 2}, {3, 1}), ({"top_p": 0.6}, {3}), ({"top_p": 0.7}, {3, 1}), ({"top_k": 3, "top_p": 0.99}, {3, 1, 0})],
    ids=str,
)
def test_top_k_and_top_p_cut_the_tail_and_renormalise(settings: dict[str, float], support: set[int]) -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]], dtype=F64).expand(1000, -1)
    tokens, logprobs = sample(logits, (torch.arange(1000, dtype=F64) + 0.5) / 1000, Sampling(**settings))
    assert set(tokens.tolist()) == support
    mass = sum(logprobs[tokens == t][0].exp().item() for t in support)
    assert mass == pytest.approx(1, rel=1e-10)


def test_the_largest_uniform_number_still_draws_a_token() -> None:
    z = torch.full((1, 5), -1e4).index_fill(1, torch.tensor([2]), 0.0)
    for u in (0.0, 1 - 2**-53):
        assert sample(z, torch.tensor([u], dtype=F64), Sampling())[0].item() == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(NumericsError, match="not finite"):
        sample(torch.tensor([[0.0, bad]]), torch.tensor([0.5], dtype=F64), Sampling())


def test_streamed_text_is_the_answers_text() -> None:
    prompt, sampling = tiny.prompts(4)[0], Sampling(max_tokens=12)
    said = "".join(sampler().stream_text(prompt, sampling, names=["chat", 0]))
    whole = sampler().generate([prompt], 1, sampling, names=["chat", 0])[0][0]
    assert said == whole.text
