"""The configuration of a loss: every switch arrives, what does not fit is refused."""

import pytest
import torch

from xclass.config import build_config
from xclass.errors import ConfigError
from xclass.heads import TopWeights
from xclass.losses import LOSSES, LossConfig, build_loss, gbce_power
from xclass.runtime.rng import torch_generator
from xclass.training.build import build_model
from xclass.training.run_config import RunConfig
from xclass.types import Batch, Ragged


class Counts:
    num_queries, num_items = 4, 12
    item_counts = torch.arange(12, 0, -1)
    sequence = None


def built(loss, sampler=None, **rest):
    values = {"loss": loss, "sampler": sampler or {"kind": "uniform", "num_sampled": 6}, **rest}
    values["model"] = {"embedding_dim": 4, "query": {"kind": "id"}}
    return build_model(build_config(RunConfig, values), Counts(), None)


def value_of(loss, sampler=None, **rest):
    model = built(loss, sampler, **rest)
    batch = Batch(
        torch.tensor([0, 1]),
        Ragged.from_lists([[], []]),
        Ragged.from_lists([[0], [1, 2]]),
        Ragged.from_lists([[0, 3], [1, 2, 4]]),
    )
    prepared = model.prepare(batch, torch_generator(0, "test"))
    rows = model.pull(prepared.row_plans)
    return model.loss(prepared, rows).tolist()


@pytest.mark.parametrize("kind", LOSSES)
def test_each_kind_builds_a_head_that_computes(kind):
    sampler = {"kind": "all"} if LOSSES[kind].all_items else None
    assert all(value > 0 for value in value_of({"kind": kind}, sampler))


@pytest.mark.parametrize(
    "switch",
    [
        {"positives": "joint"},
        {"positives": "per-positive"},
        {"positive_in_denominator": False},
        {"denominator_power": 1.3},
        {"subtract_log_q": False},
        {"corrected_log_q": True},
        {"remove_known_positives": False},
        {"top_k": 2},
        {"top_k": 2, "top_k_temperature": 5.0},
        {"kind": "nce"},
        {"kind": "sampled-logistic"},
        {"kind": "negative-sampling"},
        {"kind": "nce", "calibration": 0.5},
        {"kind": "nce", "positives": "joint"},
        {"kind": "bpr"},
    ],
)
def test_each_switch_changes_the_loss(switch):
    sampler = {"kind": "fixed-unigram", "num_sampled": 12}
    if "calibration" in switch:
        sampler = {"kind": "uniform", "num_sampled": 6}
    plain = {"kind": switch["kind"]} if "calibration" in switch else {}
    first, second = value_of(plain, sampler), value_of(switch, sampler)
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 1e-4


def test_accidental_hits_are_a_switch_of_their_own():
    known = {"remove_known_positives": False}
    kept = value_of({**known, "remove_accidental_hits": False}, {"kind": "all"})
    removed = value_of({**known, "remove_accidental_hits": True}, {"kind": "all"})
    assert all(a > b for a, b in zip(kept, removed, strict=True))


def test_the_head_takes_the_losses_wishes():
    assert built({"kind": "nce"}).head.remove_accidental_hits is False
    assert built({"kind": "nce"}).head.remove_known_positives is False
    assert built({"kind": "sampled-logistic"}).head.remove_accidental_hits is True
    assert built({"kind": "negative-sampling"}).head.log_q_of == "none"
    assert built({"kind": "negative-sampling", "subtract_log_q": True}).head.log_q_of == "both"
    assert built({"corrected_log_q": True}).head.log_q_of == "negatives"
    assert built({"positives": "per-positive"}).head.per_pair and not built({}).head.per_pair
    assert built({"top_k": 20, "top_k_temperature": 0.3}).head.top_weights == TopWeights(20, 0.3)


def test_the_power_of_gbce():
    assert gbce_power(6, 12, 0.0) == pytest.approx(1.0)
    assert gbce_power(6, 12, 1.0) == pytest.approx(6 / 11)
    assert gbce_power(100, 12, 1.0) == 1.0
    loss = build_loss(LossConfig(kind="nce", calibration=1.0), 6, 12)
    got = loss.function(torch.tensor([0.3]), torch.zeros(1, 0), torch.tensor([0, 1]))
    assert float(got) == pytest.approx(6 / 11 * float(torch.nn.functional.softplus(torch.tensor(-0.3))))


@pytest.mark.parametrize(
    ("loss", "sampler", "message"),
    [
        ({"kind": "nce", "denominator_power": 1.2}, {}, "denominator_power is not a switch"),
        ({"kind": "bpr", "positives": "joint"}, {}, "positives is not a switch"),
        ({"kind": "bpr", "subtract_log_q": True}, {}, "subtract_log_q is not a switch"),
        ({"calibration": 0.5}, {}, "calibration is not a switch"),
        ({"kind": "nce", "calibration": 0.5}, {"kind": "log-uniform"}, "calibration is defined for"),
        ({"kind": "nce", "corrected_log_q": True}, {}, "corrected_log_q is not a switch"),
        ({"corrected_log_q": True, "subtract_log_q": False}, {}, "corrected_log_q needs"),
        ({"corrected_log_q": True, "positives": "joint"}, {}, "corrected_log_q needs"),
        ({"positives": "joint", "top_k": 5}, {}, "neither with calibration nor with top_k"),
        ({"positives": "per-positive", "remove_known_positives": True}, {}, "would leave nothing"),
        ({"kind": "full-sigmoid"}, {}, "needs sampler.kind"),
        ({"kind": "full-softmax"}, {}, "needs sampler.kind"),
        ({"kind": "full-softmax", "top_k": 3}, {"kind": "all"}, "top_k is not a switch"),
        ({"kind": "hinge"}, {}, "sampled-softmax"),
    ],
)
def test_what_does_not_fit_is_refused(loss, sampler, message):
    with pytest.raises(ConfigError, match=message):
        build_config(RunConfig, {"loss": loss, "sampler": sampler})
