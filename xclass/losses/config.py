"""What a configuration can say about the loss, and the loss it names."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import pydantic
from torch import Tensor

from xclass.config import Amount, Config, Count, Exponent, Positive, PositiveNumber
from xclass.losses.interface import Loss
from xclass.losses.item_weights import ItemWeights, item_weights
from xclass.losses.logistic import (
    bpr_loss,
    finish_bpr,
    finish_full_sigmoid,
    finish_logistic,
    full_sigmoid_loss,
    gbce_power,
    nce_loss,
    negative_sampling_loss,
    sampled_logistic_loss,
)
from xclass.losses.softmax import (
    finish_full_softmax,
    finish_sampled_softmax,
    full_softmax_loss,
    importance_loss,
    sampled_softmax_loss,
)
from xclass.metrics.propensity import LARGEST_A, LARGEST_B

LOSSES: dict[str, Loss] = {
    "sampled-softmax": Loss(sampled_softmax_loss, "softmax", finish_sampled_softmax),
    "importance": Loss(
        importance_loss,
        "softmax",
        functools.partial(finish_sampled_softmax, positive_in_denominator=False),
        remove_accidental_hits=False,
        positive_log_q=False,
    ),
    "full-softmax": Loss(
        full_softmax_loss,
        "softmax",
        finish_full_softmax,
        full=True,
        all_items=True,
        subtract_log_q=False,
        remove_accidental_hits=False,
    ),
    "nce": Loss(nce_loss, "logistic", finish_logistic, remove_accidental_hits=False),
    "sampled-logistic": Loss(sampled_logistic_loss, "logistic", finish_logistic),
    "negative-sampling": Loss(negative_sampling_loss, "logistic", finish_logistic, subtract_log_q=False),
    "bpr": Loss(bpr_loss, "logistic", finish_bpr, per_pair=True, subtract_log_q=False),
    "full-sigmoid": Loss(
        full_sigmoid_loss, "logistic", finish_full_sigmoid, normalise=False, all_items=True, subtract_log_q=False
    ),
}
SAMPLED_LOGISTIC = ("nce", "sampled-logistic", "negative-sampling")
ESTIMATING_Z = ("nce", "sampled-logistic")


class LossConfig(Config):
    """What is minimised."""

    kind: Literal[
        "sampled-softmax",
        "importance",
        "full-softmax",
        "nce",
        "sampled-logistic",
        "negative-sampling",
        "bpr",
        "full-sigmoid",
    ] = "sampled-softmax"
    """sampled-softmax, nce, sampled-logistic, negative-sampling and bpr compare positives with sampled negatives.
    importance: a softmax whose sum is estimated from the sample alone; the target is in it only if it was drawn.
    full-softmax and full-sigmoid use every item for every query and need sampler.kind = "all"."""
    positives: Literal["decoupled", "joint", "per-positive"] = "decoupled"
    """How several targets of a query are treated. decoupled: each one against the negatives; other targets are in no
    denominator. joint: all in one denominator (logistic losses: target 1/T each), as in TensorFlow. per-positive: each
    pair is a row of its own, for which the other targets can be negatives."""
    positive_in_denominator: bool = True
    """sampled-softmax: false leaves the positive out of the denominator."""
    denominator_power: PositiveNumber = 1.0
    """sampled-softmax: the sum over the negatives is raised to this power. Above 1, hard negatives weigh more."""
    normaliser_weight: Amount = 0.0
    """full-softmax: α of the penalty α (log Z − log N)², which makes scores log-probabilities that need no sum over the
    items."""
    normalised_share: float = pydantic.Field(1.0, gt=0, le=1)
    """full-softmax: γ. Below 1, log Z is computed for a random share γ of the queries, and only for the penalty."""
    normalised_by: Literal["query", "batch"] = "query"
    """With normalised_share below 1. query: queries are chosen one by one. batch: whole batches are chosen; the others
    read only the rows of their targets."""
    effective_size: Amount = 0.0
    """importance: candidates are added to the sample of a query, sample_block at a time, until its effective size (Σ
    r)² / Σ r² with r = e^score / expected count reaches this value or all num_sampled candidates are used. 0: all are
    used."""
    sample_block: Positive = 32
    """importance, with effective_size: number of candidates added at a time."""
    exact_when_short: bool = False
    """importance, with effective_size: a query whose sample stays below effective_size gets the exact sum over all
    items. This reads the whole item table in every step."""
    log_z: float | Literal["items"] = 0.0
    """nce, sampled-logistic: log Z, a constant such that score − log_z is a log-probability of the model. "items": the
    logarithm of the number of items. If log Z is learned, this is its initial value."""
    learn_log_z: bool = False
    """nce, sampled-logistic: true learns log_z, with train.dense_learning_rate."""
    subtract_log_q: bool | None = None
    """true: logits are score − log_q, for negatives and positives. Unset: true, except for negative-sampling, bpr and
    the full losses."""
    corrected_log_q: bool = False
    """sampled-softmax: log_q is subtracted from negatives only, since the positive is in the denominator with
    probability 1."""
    remove_accidental_hits: bool | None = None
    """A candidate that is a target of the query is not a negative of this query. Unset: true, except for nce,
    importance and full-softmax."""
    remove_known_positives: bool | None = None
    """A candidate that is any other train positive of the query is not a negative of this query. Unset: true, except
    for nce, importance, full-softmax and positives = "per-positive"."""
    calibration: float = pydantic.Field(0.0, ge=0, le=1)
    """nce, sampled-logistic, negative-sampling: t of gBCE. The probability of a positive is raised to β, which is 1 for
    t = 0, and the share of sampled items for t = 1."""
    top_k: Count = 0
    """Weigh a target by its estimated rank: much inside the top k, little below. 0: all targets weigh the same."""
    top_k_temperature: PositiveNumber = 0.1
    """Width of the transition at rank top_k, in units of the score."""
    item_weights: ItemWeights = "none"
    """Weights of targets by their item. For missing labels: propensity (1/p of Jain et al. 2016), propensity-bound (2/p
    − 1), propensity-unbiased (the unbiased loss; for nce, sampled-logistic, negative-sampling and full-sigmoid). For
    rare items: count-power ((mean count / count)^item_weight_power), effective-number. none: all items weigh the
    same."""
    propensity_a: float | None = pydantic.Field(None, gt=0, le=LARGEST_A)
    """A of the propensities. Unset: the value stored with the dataset, normally .55."""
    propensity_b: float | None = pydantic.Field(None, ge=0, le=LARGEST_B)
    """B of the propensities. Unset: the value stored with the dataset, normally 1.5."""
    item_weight_power: Exponent = 0.5
    """The power in item_weights = "count-power"."""
    effective_beta: float = pydantic.Field(0.999, ge=0, lt=1)
    """β in item_weights = "effective-number": weights are proportional to 1/(1 − β^count)."""

    @pydantic.model_validator(mode="after")
    def _switches_fit_the_loss(self) -> LossConfig:
        softmax, logistic = self.kind == "sampled-softmax", self.kind in SAMPLED_LOGISTIC
        misplaced = {
            "positive_in_denominator": not self.positive_in_denominator and not softmax,
            "denominator_power": self.denominator_power != 1 and not softmax,
            "corrected_log_q": self.corrected_log_q and not softmax,
            "calibration": self.calibration > 0 and not logistic,
            "normaliser_weight": self.normaliser_weight > 0 and self.kind != "full-softmax",
            "normalised_share": self.normalised_share < 1 and self.kind != "full-softmax",
            "effective_size": self.effective_size > 0 and self.kind != "importance",
            "log_z": self.log_z != 0 and self.kind not in ESTIMATING_Z,
            "learn_log_z": self.learn_log_z and self.kind not in ESTIMATING_Z,
            "positives": self.positives != "decoupled" and not (softmax or logistic),
            "top_k": self.top_k > 0 and self.kind in ("full-softmax", "full-sigmoid", "importance"),
            "subtract_log_q": self.subtract_log_q is (self.kind != "importance")
            and self.kind in ("importance", "bpr", "full-softmax", "full-sigmoid"),
        }
        for name, wrong in misplaced.items():
            if wrong:
                raise ValueError(f'{name} is not a switch of kind = "{self.kind}"')
        return self

    @pydantic.model_validator(mode="after")
    def _switches_fit_each_other(self) -> LossConfig:
        if self.corrected_log_q and (
            not self.positive_in_denominator or self.positives == "joint" or self.subtract_log_q is False
        ):
            raise ValueError("corrected_log_q needs log-Q, the positive in the denominator, and positives not joint")
        if self.positives == "joint" and (self.calibration > 0 or self.top_k > 0):
            raise ValueError('positives = "joint" goes neither with calibration nor with top_k')
        if self.positives == "per-positive" and self.remove_known_positives:
            raise ValueError('remove_known_positives would leave nothing of positives = "per-positive"')
        return self

    @pydantic.model_validator(mode="after")
    def _sums_are_made_one_way(self) -> LossConfig:
        if self.normalised_share < 1 and not self.normaliser_weight:
            raise ValueError("normalised_share below 1 needs normaliser_weight: nothing else holds log Z")
        if self.normalised_by == "batch" and self.normalised_share == 1:
            raise ValueError("normalised_by goes with normalised_share below 1")
        if not self.effective_size and (self.exact_when_short or self.sample_block != 32):
            raise ValueError("sample_block and exact_when_short go with effective_size")
        if (self.log_z or self.learn_log_z) and (self.subtract_log_q is False or self.top_k):
            raise ValueError("log_z and learn_log_z need log-Q, and do not go with top_k")
        return self

    @pydantic.model_validator(mode="after")
    def _weights_fit(self) -> LossConfig:
        if self.item_weights != "none" and self.positives == "joint":
            raise ValueError('item_weights goes with positives = "decoupled" or "per-positive"')
        if self.item_weights == "propensity-unbiased" and self.kind not in (*SAMPLED_LOGISTIC, "full-sigmoid"):
            raise ValueError(f'item_weights = "propensity-unbiased" is not for kind = "{self.kind}"')
        if self.item_weights == "propensity-unbiased" and (self.calibration > 0 or self.top_k > 0):
            raise ValueError('item_weights = "propensity-unbiased" goes neither with calibration nor with top_k')
        return self

    def weights_of_items(self, item_counts: Tensor, num_queries: int, propensity: tuple[float, float]) -> Tensor | None:
        """(N,) of :func:`xclass.losses.item_weights`, or None for 1.

        Args:
            item_counts: (N,), train pairs.
            num_queries: those with a train pair.
            propensity: the dataset's A and B, for what is unset here.
        """
        if self.item_weights == "none":
            return None
        return item_weights(
            self.item_weights,
            item_counts,
            num_queries,
            a=propensity[0] if self.propensity_a is None else self.propensity_a,
            b=propensity[1] if self.propensity_b is None else self.propensity_b,
            power=self.item_weight_power,
            beta=self.effective_beta,
        )

    @property
    def masks_known_positives(self) -> bool:
        """What ``remove_known_positives`` means when it is unset."""
        if self.remove_known_positives is not None:
            return self.remove_known_positives
        return self.kind not in ("nce", "importance", "full-softmax") and self.positives != "per-positive"


def build_loss(config: LossConfig, num_sampled: int, num_items: int) -> Loss:
    """The registered loss with the switches of the configuration; the sizes decide gBCE's β."""
    loss = LOSSES[config.kind]
    switches: dict[str, Any] = {}
    weighed = config.item_weights != "none"
    if config.kind in ("sampled-softmax", *SAMPLED_LOGISTIC):
        switches["positives"] = "joint" if config.positives == "joint" else "separate"
    if config.kind == "sampled-softmax":
        switches["positive_in_denominator"] = config.positive_in_denominator
        switches["denominator_power"] = config.denominator_power
        switches["corrected"] = config.corrected_log_q
    elif config.kind == "full-softmax" and config.normaliser_weight:
        switches["normaliser_weight"] = config.normaliser_weight / config.normalised_share
        switches["unnormalised"] = unnormalised = config.normalised_share < 1
        # −score + α (log Z − c)² has its minimum over a common shift of the scores at log Z = c + 1 / (2 α).
        switches["log_constant"] = math.log(num_items) - (0.5 / config.normaliser_weight if unnormalised else 0.0)
    elif config.kind in SAMPLED_LOGISTIC:
        switches["positive_power"] = gbce_power(num_sampled, num_items, config.calibration)
    if config.item_weights == "propensity-unbiased":
        switches["positives"] = "joint"
    of_function = {"normalise": False} if weighed and loss.normalise else {}
    of_finish = of_function if config.kind in SAMPLED_LOGISTIC else {}
    return loss._replace(
        function=functools.partial(loss.function, **switches, **of_function),
        finish=functools.partial(loss.finish, **switches, **of_finish),
        normalise=loss.normalise and not weighed,
        mean_weights=loss.normalise and config.item_weights != "propensity-unbiased",
    )
