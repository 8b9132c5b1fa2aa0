"""Sound losses that pull towards a target: likelihood, values, teachers, references."""

import torch
import torch.nn.functional as F

from corollary.declare import Fraction, NonNegative, Positive, Probability, declares
from corollary.types import Terms, TokenBatch
from theory.specimens import Correct

correct = CORRECT = Correct()


@correct
def focal(logprobs, *, gamma: NonNegative = 2.0):
    return -((-torch.expm1(logprobs)) ** gamma) * logprobs


@correct
@declares(stop_gradient=True)
def dft(logprobs):
    return -logprobs.exp().detach() * logprobs


@correct
def cross_entropy(logits, targets, *, smoothing: Fraction = 0.1):
    return F.cross_entropy(logits.transpose(1, 2), targets, label_smoothing=smoothing, reduction="none")


@correct
def z_loss(logits, targets, *, weight: NonNegative = 1e-4):
    """Cross entropy in float32 with a pull on the normaliser."""
    wide = logits.float()
    nll = -wide.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    spread = wide - wide.mean(-1, keepdim=True)
    return nll + weight * spread.logsumexp(-1) ** 2


@correct
def of_whole_answers(logprobs, trained):
    """A value per answer: the mean of its tokens."""
    return -logprobs.where(trained, 0.0).sum(-1) / trained.sum(-1).clamp(min=1)


@correct
def weighed_by_length(logprobs, lengths, *, power: Positive = 0.5):
    return -logprobs * lengths.clamp(min=1)[:, None] ** -power


@correct
def later_tokens_more(logprobs, trained, *, slope: Positive = 0.1):
    return -logprobs * (1 + slope * trained.long().cumsum(-1))


@correct
def nll_of_batch(logprobs, batch: TokenBatch):
    return Terms(-logprobs, {"probability": logprobs.detach().exp()})


@correct
def entropy_regularised(logprobs, entropy, *, weight: NonNegative = 0.01):
    return -logprobs - weight * entropy


@correct
def huber(values, returns, *, delta: Positive = 1.0):
    return F.huber_loss(values, returns, delta=delta, reduction="none")


@correct
def value_clipped(values, old_values, returns, *, clip: Positive = 0.2):
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


@correct
@declares(scale=2.0)
def plain_square(values, returns):
    return (values - returns) ** 2


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


@correct
def one_sided_jsd(logits, teacher_logits, *, beta: Positive = 0.5):
    """Only the teacher's half of the Jensen-Shannon distance."""
    p, q = teacher_logits.log_softmax(-1), logits.log_softmax(-1)
    share = torch.tensor(beta, dtype=p.dtype).clamp(0.01, 0.99)
    m = torch.logaddexp(p + share.log(), q + (1 - share).log())
    return kl(p, m)


@correct
def forward_and_reverse(logits, teacher_logits, *, mix: Probability = 0.5):
    p, q = teacher_logits.log_softmax(-1), logits.log_softmax(-1)
    return mix * kl(p, q) + (1 - mix) * kl(q, p)


@correct
def top_k(logits, teacher_logprobs, teacher_ids):
    q = logits.log_softmax(-1).gather(-1, teacher_ids)
    return (teacher_logprobs.exp() * (teacher_logprobs - q)).sum(-1)


@correct
def top_k_renormalised(logits, teacher_logprobs, teacher_ids):
    p = teacher_logprobs.log_softmax(-1)
    return kl(p, logits.log_softmax(-1).gather(-1, teacher_ids).log_softmax(-1))


@correct
def tempered(logits, teacher_logits, *, temperature: Positive = 2.0):
    """Hinton's distillation, both sides at the temperature, T² in front."""
    p, q = (x.float() / temperature for x in (teacher_logits, logits))
    return temperature**2 * kl(p.log_softmax(-1), q.log_softmax(-1))


@correct
def k3(logprobs, ref_logprobs):
    gap = ref_logprobs - logprobs
    return torch.expm1(gap) - gap


@correct
def k3_weighted(logprobs, ref_logprobs, old_logprobs):
    gap = ref_logprobs - logprobs
    return (logprobs - old_logprobs).exp() * (torch.expm1(gap) - gap)


@correct
@declares(stop_gradient=True)
def k1_score(logprobs, ref_logprobs):
    """The distance as a reward: sg[k1]·logπ."""
    gap = logprobs - ref_logprobs
    return gap.detach() * (logprobs - logprobs.detach()) + gap.detach()


@correct
def distilled_and_taught(logits, teacher_logits, targets, *, share: Probability = 0.5):
    nll = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    return share * nll + (1 - share) * kl(teacher_logits.log_softmax(-1), logits.log_softmax(-1))


@correct
def log_cosh(values, returns):
    error = values - returns
    return error + F.softplus(-2 * error) - torch.tensor(2.0).log()


@correct
def expectile(values, returns, *, tau: Probability = 0.5):
    error = returns - values
    return torch.where(error > 0, tau, 1 - tau) * error**2
