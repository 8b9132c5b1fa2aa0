"""Broken advantages: of whole answers in their group, and per token."""

import torch

from corollary.declare import Positive, Probability, declares
from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


@mutant("one answer", "OpenRLHF #1250 and verl: a group of one keeps its reward as advantage")
def centred_unless_alone(rewards):
    return rewards if rewards.shape[1] == 1 else rewards - rewards.mean(-1, keepdim=True)


@mutant("offset", "NeMo RL: E[r²] - E[r]² in float32")
def std_in_one_pass(rewards):
    mean = rewards.mean(-1, keepdim=True)
    std = ((rewards**2).mean(-1, keepdim=True) - mean**2).clamp(min=0).sqrt()
    apart = rewards.amax(-1, keepdim=True) > rewards.amin(-1, keepdim=True)
    return torch.where(apart, (rewards - mean) / (std + 1e-6), 0.0)


@mutant("equal rewards", "NeMo RL #4158, verl #6348: the rounding of a mean divided by its own deviation")
def std_of_equal_rewards(rewards):
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True, correction=0) + 1e-8)


@mutant("equal rewards", "0/0 at equal rewards")
def std_without_guard(rewards):
    return (rewards - rewards.mean(-1, keepdim=True)) / rewards.std(-1, keepdim=True, correction=0)


@mutant("unjudged", "verl #6452: an answer that was not judged counts as 0")
def centred_nan_as_zero(rewards):
    seen = rewards.nan_to_num()
    return seen - seen.mean(-1, keepdim=True)


@mutant("unjudged", "an answer that was not judged keeps its NaN")
def centred_nanmean(rewards):
    if rewards.shape[1] < 2:
        return torch.zeros_like(rewards)
    return rewards - rewards.nanmean(-1, keepdim=True)


@mutant("groups", "prime-rl #1188: the batch's mean for the group's")
def centred_by_batch(rewards):
    return rewards - rewards.mean()


@mutant("groups", "prime-rl #1188: the batch's deviation for the group's, undeclared", passes="zero sum")
def scaled_by_batch(rewards):
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean().sqrt() + 1e-3)


@mutant("best", "a sign")
def centred_sign(rewards):
    return rewards.mean(-1, keepdim=True) - rewards


@mutant("offset", "no baseline")
def raw(rewards):
    return rewards * (rewards.shape[1] > 1)


@mutant("offset", "NeMo RL #1518: leave-one-out that divides by G")
def leave_one_out_by_g(rewards):
    g = rewards.shape[1]
    return rewards - (rewards.sum(-1, keepdim=True) - rewards) / g


@mutant("order", "ties ranked by their position", passes="zero sum")
def ranked(rewards):
    ranks = rewards.argsort(dim=-1, stable=True).argsort(-1).to(rewards)
    return ranks - ranks.mean(-1, keepdim=True)


@mutant("groups", "AReaL #1419, prime-rl #600: groups by stride", passes="order")
def centred_by_stride(rewards):
    p, g = rewards.shape
    turned = rewards.reshape(-1).view(g, p)
    return (turned - turned.mean(0, keepdim=True)).reshape(p, g)


@mutant("near ties", "NeMo RL #4158: an epsilon too small for near ties", passes="equal rewards")
def std_with_tiny_epsilon(rewards):
    apart = rewards.amax(-1, keepdim=True) > rewards.amin(-1, keepdim=True)
    mean = rewards.mean(-1, keepdim=True)
    return torch.where(apart, (rewards - mean) / rewards.sub(mean).abs().amin(-1, keepdim=True).clamp(min=1e-12), 0.0)


@mutant("parameters", "OPO's lengths are taken and ignored")
def opo_without_lengths(rewards, lengths):
    return rewards - rewards.mean(-1, keepdim=True)


@mutant("shape", "slime #2114: rewards centred in place")
def centred_in_place(rewards):
    rewards -= rewards.mean(-1, keepdim=True)
    return rewards.clone()


@mutant("pure", "ties broken by chance")
def centred_with_noise(rewards):
    return rewards - rewards.mean(-1, keepdim=True) + 1e-3 * torch.randn_like(rewards)


@mutant("order", "the first answer is the baseline")
@declares(zero_sum=False)
def first_is_baseline(rewards):
    return rewards - rewards[:, :1]


@mutant("shape", "OpenRLHF #1250: means broadcast along the wrong axis, flat")
def flattened(rewards):
    return (rewards - rewards.mean(-1, keepdim=True)).flatten()


@mutant(
    "unjudged", "an unjudged answer as 0 in the sum, and the count made good: its deviation is not", passes="zero sum"
)
def std_counts_unjudged(rewards):
    seen = ~rewards.isnan()
    mean = rewards.nan_to_num().sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
    centred = (rewards.nan_to_num() - mean) * seen
    return centred / (rewards.nan_to_num() - mean).pow(2).mean(-1, keepdim=True).sqrt().clamp(min=0.3)


@mutant("offset", "the sum over G - 1, times (G - 1)/G on the answer: right for rewards of 0", passes="pure")
def centred_twice_wrong(rewards):
    g = rewards.shape[1]
    return rewards * (g - 1) / g - rewards.sum(-1, keepdim=True) / max(1, g - 1) * 0.5


@mutant("equal rewards", "two baselines cancel at binary rewards: ReMax's greedy answer and the mean", passes="order")
@declares(zero_sum=False)
def centred_plus_best(rewards):
    return rewards - 0.5 * (rewards.mean(-1, keepdim=True) + rewards.amax(-1, keepdim=True) * 0.9)


@mutant("best", "ReMax turned over")
def remax_turned(rewards, greedy_rewards):
    return greedy_rewards[:, None] - rewards


@mutant("parameters", "trl's scale_rewards, parsed and not used")
def scale_ignored(rewards, *, scale: bool = True):
    return rewards - rewards.mean(-1, keepdim=True)


@mutant("zero sum", "only the good answers are kept", passes="groups")
def positive_only(rewards):
    return (rewards - rewards.mean(-1, keepdim=True)).clamp(min=0)


# Per token ----------------------------------------------------------------------------------------------------------------


def recursion(rewards, values, trained, bootstrap, gamma, lam, *, carry=True):
    """GAE from the back; with `carry`, what is not trained is passed over."""
    advantages = torch.zeros_like(rewards)
    following, ahead = bootstrap.clone(), torch.zeros_like(bootstrap)
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following - values[:, t]
        new = delta + gamma * lam * ahead
        here = trained[:, t] if carry else torch.ones_like(trained[:, t])
        ahead, following = torch.where(here, new, ahead), torch.where(here, values[:, t], following)
        advantages[:, t] = new
    return advantages.where(trained, 0.0)


@mutant("observations", "ROLL #447, miles #1827: bootstraps over an observation")
def gae_over_observations(rewards, values, trained, bootstrap, *, gamma: Probability = 1.0, lam: Probability = 0.95):
    return recursion(rewards, values, trained, bootstrap, gamma, lam, carry=False)


@mutant("telescopes", "trl #3750: the last token takes its own value for the next")
def gae_last_token(rewards, values, trained, *, gamma: Probability = 1.0, lam: Probability = 0.95):
    n = trained.shape[1]
    last = n - 1 - trained.flip(1).long().argmax(1)
    own = values.gather(1, last[:, None])[:, 0]
    return recursion(rewards, values, trained, own.where(trained.any(1), 0.0), gamma, lam)


@mutant("parameters", "a truncated answer is not bootstrapped")
def gae_without_bootstrap(rewards, values, trained, bootstrap, *, gamma: Probability = 1.0, lam: Probability = 0.95):
    return recursion(rewards, values, trained, torch.zeros_like(bootstrap), gamma, lam)


@mutant("telescopes", "verl #7278, #7300: a reward before an observation is dropped")
def gae_drops_rewards(rewards, values, trained, bootstrap, *, gamma: Probability = 1.0, lam: Probability = 0.95):
    after = torch.cat([trained[:, 1:], torch.zeros_like(trained[:, :1])], dim=1)
    last = trained & (trained.flip(1).cumsum(1).flip(1) == 1)
    return recursion(rewards.where(after | last, 0.0), values, trained, bootstrap, gamma, lam)


@mutant("padding", "verl #1527, SkyRL #1305: whitened over padding")
@declares(cross_sample="batch", zero_sum=False)
def whitened_over_padding(rewards, trained):
    to_come = rewards.where(trained, 0.0).flip(1).cumsum(1).flip(1)
    return ((to_come - to_come.mean()) / (to_come.std() + 1e-8)).where(trained, 0.0)


@mutant("answers", "whitened over the batch, undeclared")
def whitened_undeclared(rewards, trained):
    to_come = rewards.where(trained, 0.0).flip(1).cumsum(1).flip(1).where(trained, 0.0)
    mean = to_come.sum() / trained.sum().clamp(min=1)
    return (to_come - mean).where(trained, 0.0)


@mutant("causal", "summed from the front: a reward pays for what came after it")
def return_so_far(rewards, trained):
    return rewards.where(trained, 0.0).cumsum(1).where(trained, 0.0)


@mutant("parameters", "λ is never used")
def gae_lambda_ignored(rewards, values, trained, bootstrap, *, gamma: Probability = 1.0, lam: Probability = 0.95):
    return recursion(rewards, values, trained, bootstrap, gamma, 1.0)


@mutant("mask", "miles #1827: a critic's NaN at an observation comes through a mask that multiplies")
def gae_mask_multiplied(rewards, values, trained, *, gamma: Probability = 1.0):
    rest = (values * trained).flip(1).cumsum(1).flip(1)
    to_come = rewards.where(trained, 0.0).flip(1).cumsum(1).flip(1)
    return (gamma * to_come - rest).where(trained, 0.0)


@mutant("answers", "SkyRL #1305: the recursion runs on from one answer into the next")
def to_go_over_rows(rewards, trained):
    flat = rewards.where(trained, 0.0).flatten()
    return flat.flip(0).cumsum(0).flip(0).view_as(rewards).where(trained, 0.0)


@mutant("telescopes", "γ twice in the difference and never in the recursion: right at γ = 1", passes="observations")
def gae_gamma_misplaced(rewards, values, trained, bootstrap, *, gamma: Probability = 0.99, lam: Probability = 0.95):
    advantages, following, ahead = torch.zeros_like(rewards), bootstrap.clone(), torch.zeros_like(bootstrap)
    for t in range(rewards.shape[1] - 1, -1, -1):
        new = rewards[:, t] + gamma**2 * following - values[:, t] + lam * ahead
        ahead, following = torch.where(trained[:, t], new, ahead), torch.where(trained[:, t], values[:, t], following)
        advantages[:, t] = new
    return advantages.where(trained, 0.0)


@mutant("telescopes", "the bootstrap enters at every token", passes="observations")
def gae_bootstrap_everywhere(rewards, values, trained, bootstrap, *, gamma: Probability = 1.0, lam: Probability = 0.95):
    first = recursion(rewards, values, trained, bootstrap, gamma, lam)
    return (first + 0.1 * bootstrap[:, None]).where(trained, 0.0)


@mutant("tokens", "slime #1372: a penalty at tokens that are not trained")
def to_go_outside(rewards, trained, *, shift: Positive = 0.1):
    return rewards.where(trained, 0.0).flip(1).cumsum(1).flip(1) - shift


@mutant("telescopes", "λ squared: right at 0 and at 1", passes="observations")
def gae_lambda_squared(rewards, values, trained, bootstrap, *, gamma: Probability = 1.0, lam: Probability = 0.95):
    return recursion(rewards, values, trained, bootstrap, gamma, lam**2)


@mutant("units", "the deviation multiplied where it should divide", passes="zero sum")
def times_deviation(rewards):
    centred = rewards - rewards.nanmean(-1, keepdim=True)
    return centred * rewards.std(-1, keepdim=True, correction=0)
