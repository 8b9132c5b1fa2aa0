"""Broken losses of reward models."""

import torch
import torch.nn.functional as F

from corollary.declare import NonNegative
from theory.specimens import Mutants

mutant = MUTANTS = Mutants()


@mutant("prefers", "verl #1411: chosen and rejected stacked the wrong way round")
def bt_swapped(chosen_rewards, rejected_rewards):
    return -F.logsigmoid(rejected_rewards - chosen_rewards)


@mutant("margins", "the margin's sign")
def bt_margin_sign(chosen_rewards, rejected_rewards, margins):
    return -F.logsigmoid(chosen_rewards - rejected_rewards + margins)


@mutant("margins", "the margin multiplies: a clearer pair counts as won sooner")
def bt_margin_multiplies(chosen_rewards, rejected_rewards, margins):
    return -F.logsigmoid((chosen_rewards - rejected_rewards) * (1 + margins))


@mutant("prefers", "one reward used alone")
def bt_chosen_only(chosen_rewards, rejected_rewards):
    return -F.logsigmoid(chosen_rewards) + 0 * rejected_rewards


@mutant("extremes", "tinker-cookbook #188: log(sigmoid)")
def bt_log_of_sigmoid(chosen_rewards, rejected_rewards):
    return -(chosen_rewards - rejected_rewards).sigmoid().log()


@mutant("independent", "rewards standardised over the batch: miles #1827's kin")
def bt_standardised(chosen_rewards, rejected_rewards):
    both = torch.cat([chosen_rewards, rejected_rewards]).detach()
    scale = (both - both.mean()).pow(2).mean().sqrt() if len(both) else torch.tensor(1.0)
    return -F.logsigmoid((chosen_rewards - rejected_rewards) / (1 + scale))


@mutant("split", "trl #4104: RewardTrainer's loss times the number of microbatches")
def bt_over_own_pairs(chosen_rewards, rejected_rewards):
    return -F.logsigmoid(chosen_rewards - rejected_rewards) / max(1, len(chosen_rewards))


@mutant("precision", "OpenRLHF #634: a head in bfloat16")
def bt_in_bfloat16(chosen_rewards, rejected_rewards):
    low = (chosen_rewards.to(torch.bfloat16) - rejected_rewards.to(torch.bfloat16)).to(chosen_rewards.dtype)
    return -F.logsigmoid(low)


@mutant(
    "differences", "two signs: the rejected reward is weighed half, and its sigmoid twice as steep", passes="prefers"
)
def bt_half_rejected(chosen_rewards, rejected_rewards):
    return -F.logsigmoid(2 * (chosen_rewards - 0.5 * rejected_rewards))


@mutant("parameters", "slime #2247: the centring is never added")
def bt_centring_ignored(chosen_rewards, rejected_rewards, *, centring: NonNegative = 0.0):
    return -F.logsigmoid(chosen_rewards - rejected_rewards)


@mutant("centred", "centring by the difference: it fights the margin and centres nothing", passes="parameters")
def bt_centring_of_difference(chosen_rewards, rejected_rewards, *, centring: NonNegative = 0.01):
    gap = chosen_rewards - rejected_rewards
    return -F.logsigmoid(gap) + centring * gap**2


@mutant("loud", "trl #2553: NaN rewards become a finite loss")
def bt_nan_to_num(chosen_rewards, rejected_rewards):
    return -F.logsigmoid((chosen_rewards - rejected_rewards).nan_to_num())
