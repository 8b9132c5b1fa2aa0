"""Broken distillation losses."""

import torch
import torch.nn.functional as F

from corollary.declare import Fraction, Positive
from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


def kl(p, q):
    """Of log-probabilities."""
    return (p.exp() * (p - q)).sum(-1)


@mutant("agreement", "miles #1345, slime #2085: the teacher at another temperature")
def forward_kl_temperature(logits, teacher_logits, *, temperature: Positive = 2.0):
    return kl((teacher_logits / temperature).log_softmax(-1), logits.log_softmax(-1))


@mutant("nearer", "a sign: it leads away from the teacher", passes="vocabulary")
def forward_kl_sign(logits, teacher_logits):
    return -kl(teacher_logits.log_softmax(-1), logits.log_softmax(-1))


@mutant("split", "verl #7225, #7200: 8x at microbatch 1, it divides by its own tokens")
def forward_kl_over_own_tokens(logits, teacher_logits, trained):
    return kl(teacher_logits.log_softmax(-1), logits.log_softmax(-1)) / trained.sum().clamp(min=1)


@mutant("split", "trl #4105: GKD's batchmean")
def forward_kl_batchmean(logits, teacher_logits):
    return kl(teacher_logits.log_softmax(-1), logits.log_softmax(-1)) / max(1, len(logits))


@mutant("extremes", "the logarithm of a softmax that is 0")
def reverse_kl_log_of_softmax(logits, teacher_logits):
    q, p = logits.softmax(-1), teacher_logits.softmax(-1)
    return (q * (q.log() - p.log())).sum(-1)


@mutant("vocabulary", "logits taken for log-probabilities")
def reverse_kl_of_logits(logits, teacher_logits):
    return (logits.softmax(-1) * (logits - teacher_logits)).sum(-1)


@mutant("derivative", "trl #3043, #5731: the student is detached in one half of the JSD")
def jsd_student_detached(logits, teacher_logits, *, beta: Fraction = 0.5):
    p, q = teacher_logits.log_softmax(-1), logits.log_softmax(-1)
    m = torch.logaddexp(p + torch.tensor(beta).log(), q + torch.tensor(1 - beta).log())
    return beta * kl(p, m) + (1 - beta) * (q.detach().exp() * (q - m)).sum(-1)


@mutant("agreement", "targets one token late")
def forward_kl_shifted(logits, teacher_logits):
    return kl(teacher_logits.roll(1, dims=1).log_softmax(-1), logits.log_softmax(-1))


@mutant("terms", "teacher and student swapped under no_grad: no gradient")
def forward_kl_student_constant(logits, teacher_logits):
    return kl(teacher_logits.log_softmax(-1), logits.detach().log_softmax(-1))


@mutant("agreement", "torch's kl_div given probabilities where it is told logarithms")
def kl_div_log_target(logits, teacher_logits):
    each = F.kl_div(logits.log_softmax(-1), teacher_logits.softmax(-1), log_target=True, reduction="none")
    return each.sum(-1)


@mutant("agreement", "the temperature on the teacher alone, and T² in front as if it were on both", passes="vocabulary")
def forward_kl_tempered_teacher(logits, teacher_logits, *, temperature: Positive = 2.0):
    return temperature**2 * kl((teacher_logits / temperature).log_softmax(-1), logits.log_softmax(-1))


@mutant("loud", "nan_to_num on p·log p")
def forward_kl_nan_to_num(logits, teacher_logits):
    p, q = teacher_logits.log_softmax(-1), logits.log_softmax(-1)
    return torch.nan_to_num(p.exp() * (p - q)).sum(-1)


@mutant("precision", "speculators #788: softmax in bfloat16, whose error grows as the student comes near")
def forward_kl_in_bfloat16(logits, teacher_logits):
    p, q = teacher_logits.to(torch.bfloat16).log_softmax(-1), logits.to(torch.bfloat16).log_softmax(-1)
    return kl(p, q).to(logits.dtype)


@mutant("nearer", "NeMo RL's zero_outside_topk with ids off by one", passes="vocabulary")
def top_k_ids_shifted(logits, teacher_logprobs, teacher_ids):
    q = logits.log_softmax(-1).gather(-1, (teacher_ids + 1) % logits.shape[-1])
    return (teacher_logprobs.exp() * (teacher_logprobs - q)).sum(-1)


@mutant("unreduced", "verl #7200: divided by the answer's own length, and averaged again", passes="split")
def forward_kl_divided_twice(logits, teacher_logits, trained):
    length = trained.sum(-1, keepdim=True).clamp(min=1)
    return kl(teacher_logits.log_softmax(-1), logits.log_softmax(-1)) / length


@mutant("parameters", "trl #6478's kin: β is read and the symmetric form returned")
def jsd_beta_ignored(logits, teacher_logits, *, beta: Fraction = 0.5):
    p, q = teacher_logits.log_softmax(-1), logits.log_softmax(-1)
    m = (0.5 * p.exp() + 0.5 * q.exp()).log()
    return 0.5 * kl(p, m) + 0.5 * kl(q, m)
