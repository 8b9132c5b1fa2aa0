"""What a KL estimator measures, and what it descends when it is put into a loss: two different questions."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from corollary.declare import declaration_of
from corollary.losses.bind import Bound
from corollary.theory.bandit import bandit
from corollary.theory.columns import columns, cosine, number, plain, sentence
from corollary.theory.expectation import Formula, Level, expected_penalty_gradient, named
from corollary.theory.tree import World, gradient_of, tree

Verdict = Literal["holds", "violated", "reported"]
HOLDS = 1 - 1e-9  # cosine from which a direction counts as the same
NOISE = 1e-10  # an expectation this much below its root mean square is 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """A gradient compared with the one that was meant."""

    cosine: float  # nan where one of them is 0
    norm_ratio: float  # ‖gradient‖ / ‖meant‖
    scale: float  # c that makes c·meant nearest
    bias: float  # ‖gradient - c·meant‖
    relative_bias: float  # of the gradient's norm
    error: float  # ‖gradient - meant‖ / ‖meant‖

    @property
    def holds(self) -> bool:
        """Whether it is the same direction."""
        return self.cosine >= HOLDS


def compared(gradient: Tensor, meant: Tensor, *, zero: bool = False) -> Direction:
    """How `gradient` lies to `meant`.

    Args:
        gradient: any shape.
        meant: of the same shape.
        zero: take the gradient to be 0: what is left of it is rounding.

    >>> found = compared(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0]))
    >>> round(found.cosine, 4), found.scale, found.bias
    (0.3162, 0.5, 3.0)
    """
    if zero:
        gradient = torch.zeros_like(gradient)
    norm, wanted, product = float(gradient.norm()), float(meant.norm()), float((gradient * meant).sum())
    scale = product / wanted**2 if wanted else math.nan
    bias = float((gradient - scale * meant).norm())
    return Direction(
        cosine=product / (norm * wanted) if norm and wanted else math.nan,
        norm_ratio=norm / wanted if wanted else math.nan,
        scale=scale,
        bias=bias,
        relative_bias=bias / norm if norm else math.nan,
        error=float((gradient - meant).norm()) / wanted if wanted else math.nan,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyRow:
    """One world. The gradient is that of the penalty, to be descended."""

    world: str
    level: Level  # whether the estimator saw tokens or whole answers
    kl: float  # KL(π‖ref) of whole answers, nats
    value: float  # what the estimator gives on average
    variance: float  # of the estimate from one answer
    zero: bool  # the expected gradient is 0
    reverse: Direction  # against ∇KL(π‖ref), given the prefixes where it sees tokens
    forward: Direction  # against ∇KL(ref‖π), likewise
    whole: Direction  # against ∇KL(π‖ref) of whole answers

    @property
    def bias(self) -> float:
        """Of the estimate, nats."""
        return self.value - self.kl


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyFinding:
    """What a penalty of the KL family is, in every world."""

    penalty: str
    objective: str  # "reverse_kl" or "forward_kl": what it is held against; "" for neither
    rows: tuple[PenaltyRow, ...]
    verdict: Verdict

    @property
    def descends(self) -> str:
        """`nothing`, `reverse_kl`, `forward_kl` or `neither`."""
        if all(row.zero for row in self.rows):
            return "nothing"
        if all(row.reverse.holds for row in self.rows):
            return "reverse_kl"
        return "forward_kl" if all(row.forward.holds for row in self.rows) else "neither"

    @property
    def sentence(self) -> str:
        """What it really descends, and how well it measures."""
        measures = self._as_estimate
        match self.descends:
            case "nothing":
                return (
                    f"As a loss {self.penalty} moves nothing on average and only adds noise: its expected gradient is 0. "
                    f"In the reward, or times a ratio that carries gradient, it would descend KL(π‖ref). {measures}"
                )
            case "neither":
                return f"As a loss {self.penalty} descends neither KL(π‖ref) nor KL(ref‖π). {measures}"
            case kind:
                kl = "KL(π‖ref)" if kind == "reverse_kl" else "KL(ref‖π)"
                off = max(row.whole.error for row in self.rows if row.level == "token")
                return (
                    f"As a loss {self.penalty} descends {kl} of each token given its prefix; a token's effect on later "
                    f"prefixes is left out, so on whole answers it is {off:.1%} off ∇KL(π‖ref) here. {measures}"
                )

    @property
    def _as_estimate(self) -> str:
        row = max(self.rows, key=lambda row: abs(row.bias))
        if abs(row.bias) <= 1e-9 * max(1.0, abs(row.kl)):
            return f"As an estimate of KL(π‖ref) it is unbiased, with variance {number(self.rows[0].variance)}."
        return f"As an estimate of KL(π‖ref) it is biased: {number(row.value)} for {number(row.kl)} nats."

    def text(self) -> str:
        """The table and the sentence."""
        head = (
            "world",
            "sees",
            "KL",
            "mean",
            "variance",
            "cos ∇KL(π‖ref)",
            "ratio",
            "cos ∇KL(ref‖π)",
            "off whole answers",
        )
        lines = [head] + [
            (
                row.world, "tokens" if row.level == "token" else "answers", number(row.kl), number(row.value),
                number(row.variance), cosine(row.reverse.cosine), number(row.reverse.norm_ratio),
                cosine(row.forward.cosine), f"{row.whole.error:.2%}",
            )
            for row in self.rows
        ]  # fmt: skip
        against = f" against {self.objective}" if self.objective else ""
        return f"{self.penalty}{against}\n{columns(lines)}\n{sentence(self.sentence)}\n  verdict: {self.verdict}"

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        rows = [asdict(row) | {"bias": row.bias} for row in self.rows]
        return plain({
            "kind": "penalty", "loss": self.penalty, "objective": self.objective, "verdict": self.verdict,
            "descends": self.descends, "sentence": self.sentence, "worlds": rows,
        })  # fmt: skip


def examine_penalty(penalty: Formula, *, objective: str | None = None, step: float = 0.0) -> PenaltyFinding:
    """Value and expected gradient of a KL estimator, in a world of one state and on a tree, exactly.

    Args:
        penalty: of the penalty family: takes `logprobs`, `ref_logprobs` and perhaps `old_logprobs`.
        objective: `reverse_kl` or `forward_kl`, which it must descend; left out: what it declares, else it is reported only.
        step: how far the policy is from the one that the answers were drawn from, standard deviations of a logit.

    Raises:
        ValueError: the objective is another.
    """
    declared = declaration_of(penalty.formula if isinstance(penalty, Bound) else penalty).objective
    objective = objective or (declared if isinstance(declared, str) else "") or ""
    if objective not in ("", "reverse_kl", "forward_kl"):
        raise ValueError(f"a penalty is held against reverse_kl or forward_kl, got {objective!r}")
    one, many = bandit([0.0, 0.0, 0.0], name="one state"), tree()
    pi, ref = (torch.tensor([row], dtype=torch.float64).log() for row in ([0.5, 0.3, 0.2], [0.2, 0.5, 0.3]))
    rows = (
        penalty_row(penalty, one, policy=moved(one, pi, step), sampler=pi, reference=ref),
        *(
            penalty_row(
                penalty, many, policy=moved(many, many.policy(1), step), sampler=many.policy(1), reference=many.policy(2),
                level=level,
            )
            for level in ("token", "sequence")
        ),
    )  # fmt: skip
    right = all((row.reverse if objective == "reverse_kl" else row.forward).holds for row in rows)
    verdict: Verdict = "reported" if not objective else "holds" if right else "violated"
    return PenaltyFinding(penalty=named(penalty), objective=objective, rows=rows, verdict=verdict)


def penalty_row(
    penalty: Formula,
    world: World,
    *,
    policy: Tensor,
    reference: Tensor,
    sampler: Tensor | None = None,
    level: Level = "token",
) -> PenaltyRow:
    """One world's value, bias, variance and directions.

    Args:
        penalty: of the penalty family.
        world: the answers.
        policy: `[N, V]` logits.
        reference: `[N, V]` logits.
        sampler: `[N, V]` logits that the answers are drawn from; the policy when left out.
        level: whether the penalty sees tokens or whole answers.
    """
    sampler = policy if sampler is None else sampler
    found = expected_penalty_gradient(penalty, world, policy=policy, sampler=sampler, reference=reference, level=level)
    visits = world.visits(sampler)
    whole = gradient_of(lambda theta: world.kl(theta, reference), policy)
    if level == "token":
        reverse = gradient_of(lambda theta: world.token_kl(theta, reference, visits), policy)
        forward = gradient_of(lambda theta: world.token_kl(reference, theta, visits), policy)
    else:
        reverse, forward = whole, gradient_of(lambda theta: world.kl(reference, theta), policy)
    zero = float(found.mean.norm()) <= NOISE * math.sqrt(found.second_moment)
    return PenaltyRow(
        world=world.name,
        level=level,
        kl=float(world.kl(policy, reference)),
        value=found.value,
        variance=found.value_variance,
        zero=zero,
        reverse=compared(-found.mean, reverse, zero=zero),
        forward=compared(-found.mean, forward, zero=zero),
        whole=compared(-found.mean, whole, zero=zero),
    )


def moved(world: World, sampler: Tensor, step: float) -> Tensor:
    """`[N, V]` the policy after an update of `step` standard deviations in every logit."""
    return sampler + world.policy(3, scale=step)
