"""docs/theory/sft.md: maximum likelihood, KL to the data, label smoothing, rewards hidden in likelihoods, generalisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from corollary.losses.likelihood import dft, label_smoothing, nll
from corollary.ops.kl import entropy_exact, kl_exact
from corollary.ops.reduce import sequence_mean, token_mean
from corollary.theory.lab import Lab
from corollary.theory.theorem import theorem
from corollary.theory.tree import gradient_of
from corollary.theory.verdict import Curve, Verdict, at_least, at_most, equal, every, within

MLE = "sft.md#maximum-likelihood"
KL = "sft.md#likelihood-is-kl-to-the-data"
SMOOTHING = "sft.md#label-smoothing"
SMOOTHED = "Szegedy et al. 2016, https://arxiv.org/abs/1512.00567"


@theorem(
    "B17.a", section=MLE, source="Shannon 1948; Kullback and Leibler 1951",
    broken={"the uniform law": {"uniform": 1.0}, "half way to it": {"uniform": 0.5}},
)  # fmt: skip
def the_data_themselves_have_the_least_loss(lab: Lab, *, uniform: float = 0.0) -> Verdict:
    """argmin_π E_{y~data}[-log π(y)] = the empirical law.

    Proof: The loss is H(data) + KL(data‖π), and KL is least, 0, exactly at π = data.
    Experiment: a token tree and a law over its answers; 400 policies, some of them one step away, all lose more than the law itself.
    """
    world = lab.tree()
    target = lab.policy(world, "data")
    data = world.probabilities(target)
    best = target.softmax(-1) * (1 - uniform) + uniform / world.vocabulary
    others = [target + s * lab.normal(f"step {s} {i}", *target.shape) for s in (0.01, 0.3) for i in range(200)]
    losses = torch.stack([data @ nll(world.sequence_logprobs(other)).loss for other in others])
    return at_least(losses, data @ nll(world.sequence_logprobs(best.log())).loss)


@theorem(
    "B17.b", section=KL, source="Kullback and Leibler 1951, https://doi.org/10.1214/aoms/1177729694",
    broken={"KL the other way round": {"reverse": True}, "without the entropy": {"entropy": 0.0}},
)  # fmt: skip
def likelihood_is_entropy_plus_kl(lab: Lab, *, reverse: bool = False, entropy: float = 1.0) -> Verdict:
    """E_{y~data}[-log π(y)] = H(data) + KL(data‖π).

    Proof: -log π = -log data + log(data/π); take the mean under the data.
    Experiment: 100 pairs of laws over five outcomes; the library's NLL, entropy and KL.
    """
    data, pi = lab.simplex("laws", 2, 100, 5)
    loss = (data * nll(pi.log()).loss).sum(-1)
    apart_ = kl_exact(pi.log(), data.log()) if reverse else kl_exact(data.log(), pi.log())
    return equal(loss, entropy * entropy_exact(data.log()) + apart_)


@theorem(
    section=MLE, source="the derivative of log-softmax",
    broken={"the target's own share is not subtracted": {"target": 0.0}, "the sign": {"sign": -1.0}},
)  # fmt: skip
def the_gradient_is_prediction_minus_target(lab: Lab, *, target: float = 1.0, sign: float = 1.0) -> Verdict:
    """∂(-log softmax(z)_y)/∂z = softmax(z) - e_y.

    Proof: -log softmax(z)_y = logsumexp(z) - z_y; the first has derivative softmax(z), the second e_y.
    Experiment: 50 rows of logits, every token as target.
    """
    logits = lab.normal("logits", 50, lab.vocabulary)
    eye = torch.eye(lab.vocabulary, dtype=torch.float64)
    found = torch.stack(
        [gradient_of(lambda z, v=v: nll(z.log_softmax(-1)[:, v]).loss.sum(), logits) for v in range(lab.vocabulary)], 1
    )
    return equal(found, sign * (logits.softmax(-1)[:, None] - target * eye))


@theorem(
    section=MLE, source="the chain rule of probability",
    broken={"the mean of the tokens for their sum": {"mean": True}},
)  # fmt: skip
def an_answers_loss_is_the_sum_of_its_tokens(lab: Lab, *, mean: bool = False) -> Verdict:
    """-log π(y) = Σ_t -log π(y_t | y_<t).

    Proof: π(y) = Π_t π(y_t | y_<t).
    Experiment: every answer of a tree whose answers have different lengths.
    """
    world = lab.eos_tree()
    theta = lab.policy(world)
    tokens = nll(world.logprobs(theta)).loss.where(world.trained, 0.0).sum(-1)
    return equal(nll(world.sequence_logprobs(theta)).loss, tokens / world.lengths if mean else tokens)


@theorem(
    section=MLE, source="derived here",
    broken={"a sum over each answer's tokens": {"average": "token"}},
)  # fmt: skip
def the_mean_per_answer_is_another_likelihood(lab: Lab, *, average: str = "sequence") -> Verdict:
    """Averaged first within and then over answers, the loss is not least at the data's law: another policy has less.

    Conditions: answers differ in length.
    Proof: The loss is Σ_y data(y)/|y|·Σ_t -log π(y_t|y_<t): a weighted likelihood whose minimiser at a prefix is the data's next token weighed by
        1/|y|, which is the data's own law only where the weights do not depend on what comes next.
    Experiment: a tree whose answers have different lengths; the loss at the data's law has a gradient. By a sum over tokens it has none.
    """
    world = lab.eos_tree()
    data = lab.policy(world, "data")
    weigh = sequence_mean if average == "sequence" else token_mean
    weights = weigh(world.trained)
    law = world.probabilities(data).detach()[:, None]
    gradient = gradient_of(lambda theta: (law * weights * nll(world.logprobs(theta)).loss).sum(), data)
    return at_least(gradient.abs().max(), 1e-6, where="gradient at the data's law")


@theorem(
    section=KL, source="Kullback and Leibler 1951; the zero-avoiding of forward KL, as in Minka 2005",
    broken={"KL the other way round": {"forward": False}},
)  # fmt: skip
def likelihood_covers_every_mode(lab: Lab, *, forward: bool = True) -> Verdict:
    """Of all policies of one bump, that of greatest likelihood on data of two bumps lies between them: forward KL averages, reverse KL chooses.

    Proof: -log π is large wherever the data are and π is not, so that no bump may be left out.
    Experiment: 41 outcomes, data of two bumps at 10 and 30, policies e^{-(x-m)²/2s²} on a grid of m and s; the best m.
    """
    x = torch.arange(41.0, dtype=torch.float64)
    data = (torch.exp(-((x - 10) ** 2) / 8) + torch.exp(-((x - 30) ** 2) / 8)).clamp(min=1e-12)
    data = data / data.sum()
    m, s = torch.meshgrid(
        torch.arange(5.0, 36.0, dtype=torch.float64), torch.linspace(1.5, 14, 26, dtype=torch.float64), indexing="ij"
    )
    pi = (-((x - m[..., None]) ** 2) / (2 * s[..., None] ** 2)).log_softmax(-1)
    gap = kl_exact(data.log().expand_as(pi), pi) if forward else kl_exact(pi, data.log().expand_as(pi))
    least = gap.flatten().argmin()
    best = m.flatten()[least]
    curve = Curve(
        x=tuple(x.tolist()), measured=tuple(pi.flatten(0, 1)[least].exp().tolist()), bound=tuple(data.tolist()),
        across="outcome", up="π of greatest likelihood; dashed: data",
    )  # fmt: skip
    return at_most((best - 20).abs(), 1.0, where="distance of the best bump from the middle").drawn(curve)


@theorem(
    section=SMOOTHING, source=SMOOTHED,
    broken={"the true class keeps 1 - ε alone": {"share": 0.0}},
)  # fmt: skip
def smoothing_is_likelihood_of_smoothed_labels(lab: Lab, *, share: float = 1.0) -> Verdict:
    """Label smoothing's loss is the cross-entropy to (1-ε)·e_y + ε/V: the true token keeps 1 - ε + ε/V.

    Proof: (1-ε)·(-log π_y) + ε·mean_v(-log π_v) collects to Σ_v q_v·(-log π_v) with that q.
    Experiment: 60 rows of logits, the library's loss; ε = 0.1.
    """
    eps, size = 0.1, lab.vocabulary
    logs = lab.normal("logits", 60, size).log_softmax(-1)
    y = torch.arange(60) % size
    q = torch.full((60, size), eps / size, dtype=torch.float64)
    q[torch.arange(60), y] = 1 - eps + share * eps / size
    loss = label_smoothing(logs.gather(-1, y[:, None])[:, 0], logs.mean(-1), smoothing=eps).loss
    return equal(loss, -(q * logs).sum(-1))


@theorem(
    section=SMOOTHING, source=SMOOTHED,
    broken={"it falls to 0, as the plain loss does": {"floor": 0.0}, "without smoothing": {"eps": 1e-9}},
)  # fmt: skip
def smoothing_has_a_floor_and_a_finite_optimum(lab: Lab, *, floor: float = 1.0, eps: float = 0.1) -> Verdict:
    """The smoothed loss is least at π = (1-ε)·e_y + ε/V, where it is the entropy of that law: a margin of log(1 + V(1-ε)/ε) nats, and no more.

    Proof: Cross-entropy to q is H(q) + KL(q‖π), least at π = q. There log π_y - log π_v = log((1-ε+ε/V)/(ε/V)).
    Experiment: the loss over the margin of the true token's logit, found by a grid of margins.
    """
    size = lab.vocabulary
    margins = torch.linspace(0, 12, 24_001, dtype=torch.float64)
    logits = torch.cat([margins[:, None], torch.zeros(len(margins), size - 1, dtype=torch.float64)], -1)
    logs = logits.log_softmax(-1)
    loss = label_smoothing(logs[:, 0], logs.mean(-1), smoothing=eps).loss
    q = torch.tensor([1 - eps + eps / size, *[eps / size] * (size - 1)], dtype=torch.float64)
    best = margins[loss.argmin()]
    least = within(loss.min(), floor * entropy_exact(q.log()).clamp(min=1e-6), 1e-4, where="the least loss")
    curve = Curve(
        x=tuple(margins[::400].tolist()),
        measured=tuple(loss[::400].tolist()),
        across="margin of the logit",
        up="smoothed loss",
    )
    return every(within(best, math.log(1 + size * 0.9 / 0.1), 1e-3, where="the best margin"), least).drawn(curve)


@theorem(
    section="sft.md#dft", source="Wu et al. 2025, https://arxiv.org/abs/2508.05629",
    broken={"without the stop-gradient": {"stopped": False}, "the likelihood's own gradient": {"plain": True}},
)  # fmt: skip
def dft_is_reinforce_with_a_reward_for_the_data(lab: Lab, *, stopped: bool = True, plain: bool = False) -> Verdict:
    """The gradient of -sg[π(y*)]·log π(y*) is -∇J of the reward 1[y = y*]: DFT is REINFORCE that is told the right answer.

    Proof: J = Σ_y π(y)·1[y = y*] = π(y*), and ∇π = π·∇log π.
    Experiment: a bandit, every arm as the data's answer; the library's loss.
    """
    world = lab.bandit()
    theta = lab.policy(world)
    found, meant = [], []
    for arm in range(lab.arms):

        def loss(leaf: Tensor, arm: int = arm) -> Tensor:
            logs = world.sequence_logprobs(leaf)[arm]
            return nll(logs).loss if plain else dft(logs).loss if stopped else -(logs.exp() * logs)

        found.append(gradient_of(loss, theta))
        meant.append(-gradient_of(lambda leaf, arm=arm: world.probabilities(leaf)[arm], theta))
    return equal(torch.stack(found), torch.stack(meant))


@theorem(
    section="sft.md#dft", source="derived here",
    broken={"likelihood, which rests at the data's law": {"plain": True}},
)  # fmt: skip
def dft_ends_at_the_most_frequent_answer(lab: Lab, *, plain: bool = False) -> Verdict:
    """On data of several answers DFT's mean gradient is -∇Σ_y q(y)·π(y): at π = q it moves on, and ends with all mass on argmax q.

    Conditions: q has one largest entry.
    Proof: By the gradient of a single answer, a mean over q. Σ q·π is the expected reward of the reward q, and is at most max q. One logit
        for each answer rises by π(y)·(q(y) - Σ q·π), which at π = q is largest for the mode.
    Experiment: arms + 1 answers, the library's loss weighed by q; along a small step from π = q the mode becomes likelier. 400 steps of
        length 4 from there, in the figure: how likely the mode is.
    """
    q = lab.simplex("data", lab.arms + 1)
    q[q.argmax()] += 0.1
    q = q / q.sum()
    mode, theta = q.argmax(), q.log()

    def loss(leaf: Tensor) -> Tensor:
        logs = leaf.log_softmax(-1)
        return (q * (nll(logs) if plain else dft(logs)).loss).sum()

    start, path = gradient_of(loss, theta), []
    for _ in range(400):
        path.append(theta.softmax(-1)[mode])
        theta = theta - 4 * gradient_of(loss, theta)
    score = torch.eye(len(q), dtype=torch.float64)[mode] - q
    meant = -gradient_of(lambda leaf: q @ leaf.softmax(-1), q.log())
    seen = torch.stack(path)
    curve = Curve(
        x=tuple(range(0, 400, 5)), measured=tuple(seen[::5].tolist()), bound=(1.0,) * 80, across="steps", up="π of the most frequent answer",
    )  # fmt: skip
    return every(
        at_least(-(start @ score), 1e-6, where="the mode's speed at the data's law"),
        equal(start, meant, where="gradient"),
        at_least(seen[-1], 0.95, where="the mode at the end"),
    ).drawn(curve)


@theorem(
    section="sft.md#sft-on-what-earned", source="derived here, after Peters and Schaal 2007, https://doi.org/10.1145/1273496.1273590",
    broken={"without dividing by the rate": {"divided": False}},
)  # fmt: skip
def sft_on_right_answers_ascends_the_log_of_success(lab: Lab, *, divided: bool = True) -> Verdict:
    """SFT on a policy's own right answers has the gradient of log p, where p is its rate of success: rejection sampling is a policy gradient.

    Proof: E[∇log π(y) | right] = Σ_right π∇log π / p = ∇p/p = ∇log p.
    Experiment: a token tree with rewards of 0 and 1, the mean over right answers by enumeration.
    """
    world = lab.tree()
    world = world.earning((world.rewards > world.rewards.median()).double())
    theta = lab.policy(world)
    law = (world.probabilities(theta) * world.rewards).detach()
    law = law / law.sum()
    sft = -gradient_of(lambda leaf: law @ nll(world.sequence_logprobs(leaf)).loss, theta)
    return equal(
        sft,
        gradient_of(lambda leaf: world.expected_reward(leaf).log() if divided else world.expected_reward(leaf), theta),
    )


@theorem(
    section="sft.md#generalisation", source="folklore; in this exact form derived here",
    broken={"the loss on new data in its place": {"train": False}},
)  # fmt: skip
def training_loss_flatters(lab: Lab, *, train: bool = True) -> Verdict:
    """E[loss on the data trained on] ≤ H(source) ≤ E[loss on new data], for the policy of greatest likelihood.

    Proof: On its own data that policy loses at most what the source loses, whose mean is H(source); on new data any policy loses H + KL(source‖π).
    Experiment: n = 5 answers of a source of three, every data set enumerated; the policy is the empirical law, one answer added to each kind
        for the new data so that nothing has probability 0.
    """
    source = lab.simplex("source", 3) * 0.7 + 0.1
    sets = torch.cartesian_prod(*[torch.arange(3)] * 5)
    chance = source[sets].prod(-1)
    counts = torch.stack([(sets == v).sum(-1) for v in range(3)], -1).double()
    entropy = entropy_exact(source.log())
    plain, added = counts / 5, (counts + 1) / 8
    own = chance @ -torch.special.xlogy(plain, plain).sum(-1)
    new = chance @ -(source * added.log()).sum(-1)
    return every(at_most(own if train else new, entropy, where="training"), at_least(new, entropy, where="new data"))


@theorem(
    section="sft.md#generalisation", source="Wilks 1938, https://doi.org/10.1214/aoms/1177732360",
    broken={"half of it": {"times": 0.5}},
)  # fmt: skip
def the_gap_is_parameters_over_examples(lab: Lab, *, times: float = 1.0) -> Verdict:
    """The excess of the loss on new data over that on the training data tends to (V-1)/n for n examples of a law over V outcomes.

    Conditions: n large beside V over the smallest probability.
    Proof: By a quadratic expansion around the source each side deviates from H by a χ²-variable of V - 1 degrees over 2n: KL(source‖π̂) upwards,
        KL(π̂‖source) downwards.
    Experiment: V = 2, n = 400, every number of successes by the binomial law, one example added to each kind.
    """
    p, sizes = float(0.3 + 0.4 * lab.uniform("rate", 1)[0]), (10, 20, 50, 100, 200, 400)
    gaps = [_coin_gap(n, p) for n in sizes]
    curve = Curve(
        x=sizes, measured=tuple(gaps), bound=tuple(1 / n for n in sizes), across="examples", up="gap (nats)", log_x=True, log_y=True,
    )  # fmt: skip
    return within(gaps[-1], times / sizes[-1], 0.03).drawn(curve)


def _coin_gap(n: int, p: float) -> float:
    """E of the loss on new data less that on the n examples, for a coin whose rate is learned with one example added to each side."""
    c = torch.arange(n + 1, dtype=torch.float64)
    log_choose = math.lgamma(n + 1) - (torch.lgamma(c + 1) + torch.lgamma(n - c + 1))
    chance = (log_choose + c * math.log(p) + (n - c) * math.log(1 - p)).exp()
    q = (c + 1) / (n + 2)
    return float(chance @ ((c / n - p) * q.log() + (p - c / n) * (1 - q).log()))
