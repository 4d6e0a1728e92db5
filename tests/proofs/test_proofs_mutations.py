"""The checks can fail: each of the mistakes that people make with sampled losses is put in, and a check must notice.

A mutant is the package's own code with one thing changed. The same checks pass for the code as it is
(test_proofs_enumeration).
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from proofs import checks
from proofs.checks import Code

from xclass import sampling
from xclass.losses import interface
from xclass.testing import check_sampler
from xclass.types import Ragged

MUTANTS = {
    "wrong sign of log-Q": Code(log_q=lambda code, log_q: -log_q),
    "factor K forgotten": Code(log_q=lambda code, log_q: log_q - math.log(code.k)),
    "factor K twice": Code(log_q=lambda code, log_q: log_q + math.log(code.k)),
    "log-Q divided by the temperature": Code(log_q=lambda code, log_q: log_q / code.temperature),
    "log-Q of another distribution": Code(log_q=lambda code, log_q: 0.75 * log_q),
    "log-Q on positives forgotten": Code(pos_log_q=lambda code, log_q: torch.zeros_like(log_q)),
    "log-Q left out": Code(head={"subtract_log_q": False}),
    "log-Q where it does not belong": Code(head={"subtract_log_q": True}),
    "hits not removed": Code(head={"remove_accidental_hits": False}),
    "hits removed where noise must stay": Code(head={"remove_accidental_hits": True}),
    "temperature forgotten": Code(head={"temperature": 1.0}),
}
CAUGHT = {
    "wrong sign of log-Q": {"expected counts", "partition function", "sums are unbiased", "NCE's optimum",
                            "softmax's optimum, draws", "softmax's optimum, sets"},
    "factor K forgotten": {"expected counts", "partition function", "sums are unbiased", "NCE's optimum"},
    "factor K twice": {"expected counts", "partition function", "sums are unbiased", "NCE's optimum"},
    "log-Q divided by the temperature": {"expected counts", "partition function", "sums are unbiased",
                                         "NCE's optimum", "softmax's optimum, draws", "softmax's optimum, sets"},
    "log-Q of another distribution": {"expected counts", "partition function", "sums are unbiased",
                                      "NCE's optimum", "softmax's optimum, draws", "softmax's optimum, sets"},
    "log-Q on positives forgotten": {"sums are unbiased", "NCE's optimum", "softmax's optimum, draws",
                                     "softmax's optimum, sets"},
    "log-Q left out": {"partition function", "sums are unbiased", "NCE's optimum", "softmax's optimum, draws",
                       "softmax's optimum, sets"},
    "log-Q where it does not belong": {"negative sampling is unbiased"},
    "hits not removed": {"sums are unbiased", "negative sampling is unbiased", "softmax's optimum, sets",
                         "all items"},
    "hits removed where noise must stay": {"partition function", "NCE's optimum", "softmax's optimum, draws"},
    "temperature forgotten": set(checks.CHECKS) - {"expected counts"},
}  # fmt: skip


@pytest.mark.parametrize("check", checks.CHECKS)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_what_catches_what(mutant, check):
    """Exactly these: a common factor cancels in a softmax, so that only counts, sums and NCE see it."""
    code = MUTANTS[mutant]
    if check in CAUGHT[mutant]:
        with pytest.raises(AssertionError, match="not close"):
            checks.CHECKS[check](code)
    else:
        checks.CHECKS[check](code)


def test_every_mutant_is_caught_and_every_check_catches():
    assert set(CAUGHT) == set(MUTANTS)
    assert all(CAUGHT.values())
    assert set().union(*CAUGHT.values()) == set(checks.CHECKS)


@pytest.mark.parametrize("check", ["all items", "joint targets"])
def test_a_forgotten_1_over_T_is_caught(monkeypatch, check):
    """T positives with target 1 each, not 1/T."""

    def ones(rows, num_queries, weights, like):
        return torch.ones_like(like)

    monkeypatch.setattr(interface, "normalised_weights", ones)
    monkeypatch.setattr(interface, "even_shares", lambda offsets, like: torch.ones_like(like))
    with pytest.raises(AssertionError, match="not close"):
        checks.CHECKS[check](Code())


def test_one_copy_of_a_repeated_hit_left_is_caught(monkeypatch):
    """Candidates drawn twice must be masked twice."""
    from xclass.heads import dot

    plain = dot.find_hits

    def first_copy_only(excluded, candidates):
        hits = plain(excluded, candidates)
        ids = candidates[hits.rows, hits.columns] if candidates.dim() == 2 else candidates[hits.columns]
        seen, keep = set(), []
        for row, item in zip(hits.rows.tolist(), ids.tolist(), strict=True):
            keep.append((row, item) not in seen)
            seen.add((row, item))
        return hits._replace(rows=hits.rows[torch.tensor(keep)], columns=hits.columns[torch.tensor(keep)])

    monkeypatch.setattr(dot, "find_hits", first_copy_only)
    with pytest.raises(AssertionError, match="not close"):
        checks.CHECKS["negative sampling is unbiased"](Code())


class TestTheConformanceSuiteOfSamplers:
    """``xclass.testing.check_sampler`` by drawing, over mutated samplers."""

    WEIGHTS = torch.tensor([9.0, 4.0, 2.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    BATCH = Ragged.from_lists([[0, 3], [1], []])

    def mutated(self, change):
        class Mutant(sampling.FixedUnigram):
            def log_expected_count(self, ids, positives, query_ids=None):
                return change(super().log_expected_count(ids, positives, query_ids))

        return lambda: Mutant(self.WEIGHTS, 4)

    def test_the_right_sampler_passes(self):
        check_sampler(self.mutated(lambda log_q: log_q), self.BATCH)

    @pytest.mark.parametrize(
        "change",
        [lambda log_q: -log_q, lambda log_q: log_q - math.log(4), lambda log_q: 0.75 * log_q, torch.zeros_like],
        ids=["wrong sign", "factor K forgotten", "another distribution", "log-Q left out"],
    )
    def test_mutants_are_caught(self, change):
        with pytest.raises(AssertionError):
            check_sampler(self.mutated(change), self.BATCH)


def test_a_code_without_a_mutation_is_the_default():
    """What the mutants change is all that they change."""
    for name, code in MUTANTS.items():
        changed = [f.name for f in dataclasses.fields(Code) if getattr(code, f.name) != getattr(Code(), f.name)]
        assert len(changed) == 1, name
