"""Row optimisers against dense references; schedules."""

import math

import pytest
import torch

from xclass.optim import (
    ROW_OPTIMIZERS,
    SCHEDULES,
    RowAdaGrad,
    RowAdam,
    RowRMSProp,
    RowSGD,
    ScheduleConfig,
    learning_rate,
)


def update(optimizer, weight, state, ids, grads, lr):
    """What a table does around a step: gather, step, scatter."""
    rows, kept = weight[ids], {name: value[ids] for name, value in state.items()}
    optimizer.step(rows, kept, grads, lr)
    weight[ids] = rows
    for name, value in kept.items():
        state[name][ids] = value


def zeros(optimizer, rows, dim, dtype=torch.float32):
    return {name: torch.zeros(rows, *shape, dtype=dtype) for name, shape in optimizer.state_shapes(dim).items()}


def dense_row_adagrad(weight, sums, grads, lr, eps):
    """The formula over all rows, in float64, one number at a time."""
    for r in range(len(weight)):
        if any(g != 0 for g in grads[r]):
            sums[r] += sum(g * g for g in grads[r]) / len(grads[r])
            for d in range(len(weight[r])):
                weight[r][d] -= lr * grads[r][d] / (math.sqrt(sums[r]) + eps)


def test_adagrad_equals_the_dense_formula_over_ten_steps():
    torch.manual_seed(0)
    weight, state = torch.randn(6, 3, dtype=torch.float64), {"sum_of_squares": torch.zeros(6, dtype=torch.float64)}
    plain, sums = weight.tolist(), [0.0] * 6
    optimizer = RowAdaGrad()
    for step in range(10):
        ids = torch.randperm(6)[:3]
        grads = torch.randn(3, 3, dtype=torch.float64)
        update(optimizer, weight, state, ids, grads, 0.1 / (step + 1))
        dense = torch.zeros(6, 3, dtype=torch.float64).index_copy(0, ids, grads)
        dense_row_adagrad(plain, sums, dense.tolist(), 0.1 / (step + 1), optimizer.eps)
    torch.testing.assert_close(weight, torch.tensor(plain, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state["sum_of_squares"], torch.tensor(sums, dtype=torch.float64), rtol=1e-12, atol=0)


def test_adagrad_with_one_dimension_is_torchs_own():
    ours = torch.ones(4, 1)
    theirs = torch.nn.Parameter(torch.ones(4, 1))
    reference = torch.optim.Adagrad([theirs], lr=0.3, eps=1e-8)
    state = {"sum_of_squares": torch.zeros(4)}
    for step in range(10):
        grad = torch.sin(torch.arange(4.0) + step + 1).unsqueeze(1)
        update(RowAdaGrad(), ours, state, torch.arange(4), grad, 0.3)
        theirs.grad = grad.clone()
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-6)


def test_rmsprop_with_one_dimension_is_torchs_adam_without_momentum():
    ours = torch.ones(4, 1)
    theirs = torch.nn.Parameter(torch.ones(4, 1))
    reference = torch.optim.Adam([theirs], lr=0.3, betas=(0.0, 0.99), eps=1e-10)
    state = {"mean_of_squares": torch.zeros(4), "updates": torch.zeros(4)}
    for step in range(10):
        grad = torch.sin(torch.arange(4.0) + step + 1).unsqueeze(1)
        update(RowRMSProp(), ours, state, torch.arange(4), grad, 0.3)
        theirs.grad = grad.clone()
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-5)


def test_rmsprop_counts_a_rows_own_updates():
    """A row touched in steps 1 and 3 only ends where one touched twice in a row does."""
    grads = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, -1.0]])]
    weight, state = torch.zeros(2, 2), {"mean_of_squares": torch.zeros(2), "updates": torch.zeros(2)}
    for ids, grad in (([0, 1], grads[0].repeat(2, 1)), ([1], grads[1]), ([0], grads[1])):
        update(RowRMSProp(beta=0.5), weight, state, torch.tensor(ids), grad, 0.1)
    assert torch.equal(weight[0], weight[1])
    first = -0.1 / math.sqrt(2.5)
    second = -0.1 / math.sqrt((0.25 * 2.5 + 0.5 * 0.625) / 0.75)
    assert weight[0].tolist() == pytest.approx([first * 1 + second * 0.5, first * 2 + second * -1.0])


def dense_row_adam(weight, moments, touched, grads, lr, optimizer):
    """Algorithm 1 of Kingma & Ba over all rows, one number at a time, skipping rows that were not touched."""
    b1, b2 = optimizer.beta1, optimizer.beta2
    for r in touched:
        mean, square, n = moments[r]
        square = b2 * square + (1 - b2) * sum(g * g for g in grads[r]) / len(grads[r])
        mean = [b1 * m + (1 - b1) * g for m, g in zip(mean, grads[r], strict=True)]
        moments[r] = (mean, square, n + 1)
        root = math.sqrt(square / (1 - b2 ** (n + 1))) + optimizer.eps
        weight[r] = [w - lr * m / (1 - b1 ** (n + 1)) / root for w, m in zip(weight[r], mean, strict=True)]


@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.5, 0.999), (0.0, 0.9)])
def test_adam_equals_the_dense_formula_over_twenty_steps(betas):
    torch.manual_seed(1)
    optimizer = RowAdam(*betas)
    weight, state = torch.randn(6, 3, dtype=torch.float64), zeros(optimizer, 6, 3, torch.float64)
    plain, moments = weight.tolist(), [([0.0] * 3, 0.0, 0) for _ in range(6)]
    for step in range(20):
        ids = torch.randperm(6)[: 1 + step % 4]
        grads = torch.randn(len(ids), 3, dtype=torch.float64)
        update(optimizer, weight, state, ids, grads, 0.1 / (step + 1))
        dense = torch.zeros(6, 3, dtype=torch.float64).index_copy(0, ids, grads)
        dense_row_adam(plain, moments, ids.tolist(), dense.tolist(), 0.1 / (step + 1), optimizer)
    torch.testing.assert_close(weight, torch.tensor(plain, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    means = torch.tensor([mean for mean, _, _ in moments], dtype=torch.float64)
    torch.testing.assert_close(state["mean"], means, rtol=1e-12, atol=1e-15)
    assert state["updates"].tolist() == [n for _, _, n in moments]


def test_adam_with_one_dimension_is_torchs_own():
    ours = torch.ones(4, 1)
    theirs = torch.nn.Parameter(torch.ones(4, 1))
    reference = torch.optim.Adam([theirs], lr=0.3, betas=(0.9, 0.99), eps=1e-10)
    optimizer = RowAdam()
    state = zeros(optimizer, 4, 1)
    for step in range(10):
        grad = torch.sin(torch.arange(4.0) + step + 1).unsqueeze(1)
        update(optimizer, ours, state, torch.arange(4), grad, 0.3)
        theirs.grad = grad.clone()
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-5)


def test_adam_without_momentum_is_rmsprop():
    torch.manual_seed(2)
    ours, theirs = torch.ones(5, 4), torch.ones(5, 4)
    adam, rmsprop = RowAdam(beta1=0.0), RowRMSProp()
    states = zeros(adam, 5, 4), zeros(rmsprop, 5, 4)
    for _ in range(10):
        ids, grads = torch.randperm(5)[:3], torch.randn(3, 4)
        update(adam, ours, states[0], ids, grads, 0.1)
        update(rmsprop, theirs, states[1], ids, grads, 0.1)
    torch.testing.assert_close(ours, theirs)


def test_adam_leaves_rows_that_are_not_touched_and_their_state_as_they_are():
    torch.manual_seed(3)
    optimizer = RowAdam()
    weight, state = torch.randn(4, 2), zeros(optimizer, 4, 2)
    update(optimizer, weight, state, torch.tensor([0, 1]), torch.randn(2, 2), 0.1)
    before = weight.clone(), {name: value.clone() for name, value in state.items()}
    update(optimizer, weight, state, torch.tensor([1, 3]), torch.randn(2, 2), 0.1)
    assert torch.equal(weight[[0, 2]], before[0][[0, 2]])
    assert not torch.equal(weight[[1, 3]], before[0][[1, 3]])
    for name, value in state.items():
        assert torch.equal(value[[0, 2]], before[1][name][[0, 2]])


def test_the_first_adagrad_step_does_not_depend_on_the_gradients_scale():
    steps = []
    for scale in (1e-4, 1.0, 1e4):
        weight = torch.zeros(1, 2)
        update(
            RowAdaGrad(),
            weight,
            {"sum_of_squares": torch.zeros(1)},
            torch.tensor([0]),
            scale * torch.tensor([[1.0, -1.0]]),
            0.1,
        )
        steps.append(weight)
    torch.testing.assert_close(steps[0], torch.tensor([[-0.1, 0.1]]), rtol=1e-3, atol=0)
    torch.testing.assert_close(steps[1], steps[2], rtol=1e-5, atol=0)


def test_sgd_is_the_plain_step():
    weight = torch.ones(3, 2)
    update(RowSGD(), weight, {}, torch.tensor([2]), torch.tensor([[1.0, -2.0]]), 0.5)
    assert weight.tolist() == [[1, 1], [1, 1], [0.5, 2]]


@pytest.mark.parametrize("name", ROW_OPTIMIZERS)
def test_each_optimizer_is_deterministic_and_goes_downhill(name):
    def run():
        weight = torch.full((5, 3), 2.0)
        optimizer = ROW_OPTIMIZERS[name]()
        state = zeros(optimizer, 5, 3)
        for _ in range(200):
            update(optimizer, weight, state, torch.tensor([0, 3]), weight[[0, 3]].clone(), 0.3)
        return weight

    first = run()
    assert torch.equal(first, run())
    assert float(first[[0, 3]].abs().max()) < 0.5 and torch.equal(first[[1, 2, 4]], torch.full((3, 3), 2.0))


def test_schedules_by_hand():
    rates = [learning_rate(ScheduleConfig(kind="cosine"), 2.0, step, 4) for step in range(4)]
    assert rates == pytest.approx([2.0, 1 + math.cos(math.pi / 4), 1.0, 1 - math.cos(math.pi / 4)])
    warm = ScheduleConfig(kind="linear", warmup_steps=2, final=0.5)
    assert [learning_rate(warm, 1.0, step, 6) for step in range(6)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.875, 0.75, 0.625]
    )


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_starts_full_and_ends_at_its_final_share(kind):
    config = ScheduleConfig(kind=kind, final=0.1)
    assert learning_rate(config, 1.0, 0, 100) == 1.0
    end = learning_rate(config, 1.0, 100, 100)
    assert end == pytest.approx(1.0 if kind == "constant" else 0.1)
