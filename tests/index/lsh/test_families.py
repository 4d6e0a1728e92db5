"""Hash families against their definitions, hash tables against slow ones, and the compiled search against the plain."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xclass.errors import ArtefactError, ConfigError, InputError
from xclass.index import (
    ExactIndex,
    HashIndex,
    IndexConfig,
    build_index,
    index_recall,
    load_index,
    rescoring,
    save_index,
)
from xclass.index.lsh import index as hash_index
from xclass.index.lsh.families import RandomHyperplanes, WinnerTakeAll, parse_family
from xclass.runtime.jit import compiles
from xclass.types import Ragged, offsets_of
from xclass.types.vectors import TensorVectors

FORMS = ["LSH8x5", "WTA8x3of4"]
needs_numba = pytest.mark.skipif(not compiles(), reason="numba is not installed")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(form: str, vectors: torch.Tensor) -> HashIndex:
    index = HashIndex(form[:3].lower(), form)
    index.build(vectors)
    return index


def clustered(items: int, queries: int, dim: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    centres = normal(40, dim, seed=1)

    def draw(count: int, seed: int) -> torch.Tensor:
        which = torch.randint(40, (count,), generator=torch.Generator().manual_seed(seed))
        return torch.nn.functional.normalize(centres[which] + 0.5 * normal(count, dim, seed=seed + 1), dim=1)

    return draw(items, 2), draw(queries, 4)


@pytest.mark.parametrize("angle", [0.3, 1.0, 2.5])
def test_hyperplanes_agree_as_often_as_the_angle_says(angle: float) -> None:
    pair = torch.zeros(2, 12)
    pair[0, 0] = pair[1, 0] = 1.0
    pair[1, 0], pair[1, 1] = math.cos(angle), math.sin(angle)
    digits = RandomHyperplanes(12, 1500, 8, seed=5).digits_of(pair, 1).values
    agreed = float((digits[0] == digits[1]).double().mean())
    assert agreed == pytest.approx(1 - angle / math.pi, abs=0.02)


def test_a_sign_and_its_cost_by_hand() -> None:
    family = RandomHyperplanes(3, 2, 2, seed=1)
    row = torch.tensor([[0.5, -2.0, 1.0]])
    digits = family.digits_of(row, 2)
    products = (family._planes @ row[0]).view(2, 2)
    assert torch.equal(digits.values[0, :, :, 0], (products >= 0).long())
    assert torch.equal(digits.values[0, :, :, 1], 1 - digits.values[0, :, :, 0])
    torch.testing.assert_close(digits.costs[0, :, :, 1], products.square())
    torch.testing.assert_close(
        family._planes.view(2, 2, 3) @ family._planes.view(2, 2, 3).mT, torch.eye(2).expand(2, 2, 2)
    )


def test_the_winner_takes_all_by_definition() -> None:
    family, rows = WinnerTakeAll(10, 6, 3, 4, seed=3), normal(20, 10, seed=6)
    digits = family.digits_of(rows, 4)
    columns = family._columns.view(6, 3, 4)
    for b, table, digit in itertools.product(range(20), range(6), range(3)):
        window = [float(rows[b, column]) for column in columns[table, digit]]
        order = sorted(range(4), key=lambda place: -window[place])
        assert digits.values[b, table, digit].tolist() == order
        wanted = [(window[order[0]] - window[place]) ** 2 for place in order]
        assert digits.costs[b, table, digit].tolist() == pytest.approx(wanted, rel=1e-5)
    assert all(len(set(window.tolist())) == 4 for window in columns.flatten(0, 1)), "no coordinate twice in a window"


def test_winner_take_all_sees_the_order_of_coordinates_only() -> None:
    family, rows = WinnerTakeAll(16, 12, 4, 4), normal(50, 16)
    assert torch.equal(family.codes_of(rows), family.codes_of(rows.exp() * 3 + 1))
    assert not torch.equal(family.codes_of(rows), family.codes_of(-rows))


@pytest.mark.parametrize("form", FORMS)
def test_a_form_says_all_of_a_family(form: str) -> None:
    family = parse_family(form, 16)
    assert str(family) == form
    assert torch.equal(family.codes_of(normal(9, 16)), parse_family(form, 16).codes_of(normal(9, 16)))
    assert int(family.codes_of(normal(9, 16)).min()) >= 0 and int(family.codes_of(normal(9, 16)).max()) < family.codes


@pytest.mark.parametrize(
    "form", ["", "LSH", "LSH4", "LSH0x4", "LSH4x0", "LSH4x25", "WTA4x4", "WTA2x13of4", "WTA2x2of1", "LSH4x4of2", "SQ8"]
)
def test_forms_that_are_none(form: str) -> None:
    with pytest.raises(ConfigError):
        parse_family(form, 16)


def slow_cheapest(values: list, costs: list, base: int, most: int) -> list[float]:
    sums = [sum(choice) for choice in itertools.product(*costs)]
    return sorted(sums)[:most]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**30), st.integers(1, 5), st.sampled_from([(2, 2), (4, 3), (5, 4)]), st.integers(1, 40))
def test_the_cheapest_codes_are_the_cheapest(seed: int, digits: int, kinds: tuple[int, int], most: int) -> None:
    base, alternatives = kinds
    generator = torch.Generator().manual_seed(seed)
    costs = torch.rand(3, digits, alternatives, generator=generator).sort(-1).values
    costs[..., 0] = 0
    values = torch.rand(3, digits, base, generator=generator).argsort(-1)[..., :alternatives].contiguous()
    plain = hash_index._cheapest_codes(values, costs, base, most)
    for row in range(3):
        codes = [code for code in plain[row].tolist() if code >= 0]
        assert len(set(codes)) == len(codes) == min(most, alternatives**digits)
        sums = []
        for code in codes:
            places = [code // base ** (digits - 1 - place) % base for place in range(digits)]
            which = [values[row, digit].tolist().index(place) for digit, place in enumerate(places)]
            sums.append(sum(float(costs[row, digit, kind]) for digit, kind in enumerate(which)))
        assert sums == pytest.approx(slow_cheapest(values[row].tolist(), costs[row].tolist(), base, most), abs=1e-5)
        if compiles():
            from xclass.index.lsh._numba import cheapest_codes

            found, room = np.empty((2, most), np.int64), np.empty((2, most), np.float32)
            count = cheapest_codes(values.numpy(), costs.numpy(), row, base, found, room)
            assert found[0, :count].tolist() == codes


@needs_numba
def test_compiled_buckets_are_the_plain_ones() -> None:
    from xclass.index.lsh._numba import sort_into_buckets

    keys = torch.randint(7, (200,), generator=torch.Generator().manual_seed(2)).to(torch.int32).numpy()
    tables = []
    for sort in (sort_into_buckets, hash_index._sort_into_buckets):
        starts, order = np.empty(9, np.int32), np.empty(200, np.int32)
        sort(keys, starts, order)
        tables.append((starts.tolist(), order.tolist()))
    assert tables[0] == tables[1]
    starts, order = tables[0]
    assert [keys[item] for item in order] == sorted(keys.tolist())
    assert starts[7] == starts[8] == 200


@needs_numba
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("votes", [1, 2, 3])
@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_and_plain_search_find_the_same(
    form: str, votes: int, heavy: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = clustered(1500, 40)
    if heavy:
        vectors = vectors * torch.rand(1500, 1, generator=torch.Generator().manual_seed(8)).clamp(min=0.01) ** -0.5
    index = built(form, vectors.to(dtype))
    index.set_parameters(probes=4, votes=votes)
    hidden = Ragged.from_lists([[1, 2, 3]] * 20 + [[]] * 20)
    compiled = index.search(queries, 7, hidden)
    share = index.scored_share
    monkeypatch.setattr(hash_index, "matrix_of", lambda vectors: None)
    monkeypatch.setattr(rescoring, "matrix_of", lambda vectors: None)
    index.set_parameters(probes=4)
    plain = index.search(queries, 7, hidden)
    assert torch.equal(compiled.ids, plain.ids)
    torch.testing.assert_close(compiled.scores, plain.scores, rtol=1e-5, atol=1e-5)
    assert 0 < share <= index.scored_share + 1e-9, "the compiled search may end early, the plain one reads all ranges"
    if not heavy:
        assert share == pytest.approx(index.scored_share)


@pytest.mark.parametrize("form", FORMS)
def test_every_bucket_is_every_item(form: str) -> None:
    """All codes of a table and one vote: the exact answer, whatever the norms."""
    vectors = normal(300, 9) * torch.rand(300, 1, generator=torch.Generator().manual_seed(3)).clamp(min=1e-3) ** -0.7
    vectors[::50] = 0
    index, exact = built(form, vectors), ExactIndex()
    exact.build(vectors)
    assert len(index.caps) > 3
    index.set_parameters(probes=index.largest_reach(), votes=1)
    found, wanted = index.search(normal(30, 9, seed=5), 12), exact.search(normal(30, 9, seed=5), 12)
    assert torch.equal(found.ids, wanted.ids)


@pytest.mark.parametrize("form", ["LSH16x7", "WTA16x4of4"])
def test_few_items_are_scored_and_the_right_ones_are_found(form: str) -> None:
    vectors, queries = clustered(6000, 200)
    index, exact = built(form, vectors), ExactIndex()
    exact.build(vectors)
    assert index.caps == pytest.approx([1.0])
    truth, recalls, shares = exact.search(queries, 10), [], []
    for probes, votes in ((4, 3), (8, 2), (16, 1)):
        index.set_parameters(probes=probes, votes=votes)
        recalls.append(float(index_recall(index.search(queries, 10), truth).mean()))
        shares.append(index.scored_share)
    assert recalls == sorted(recalls) and recalls[-1] > 0.9
    assert shares == sorted(shares) and shares[0] < 0.1


def test_a_longer_vector_is_not_lost() -> None:
    """One direction, one item ten times as long as the others, far from the query: the largest product all the same."""
    vectors = torch.nn.functional.normalize(normal(4000, 16), dim=1)
    queries = torch.nn.functional.normalize(normal(50, 16, seed=9), dim=1)
    vectors[:40] *= 10
    exact = ExactIndex()
    exact.build(vectors)
    truth = exact.search(queries, 5)
    assert float((truth.ids < 40).double().mean()) > 0.95
    index = built("LSH24x6", vectors)
    index.set_parameters(probes=16, votes=1)
    assert float(index_recall(index.search(queries, 5), truth).mean()) > 0.9
    assert index.scored_share < 0.5


def test_caps_hold_their_norms() -> None:
    norms = torch.rand(1000, generator=torch.Generator().manual_seed(1)) ** 4
    caps = hash_index._caps(norms)
    assert caps == sorted(caps, reverse=True) and 1 < len(caps) <= hash_index.MOST_RANGES
    which = hash_index._ranges(norms, caps)
    assert bool((torch.tensor(caps, dtype=torch.float64)[which] >= norms).all())
    below = which < len(caps) - 1
    assert bool((torch.tensor(caps)[(which + 1).clamp(max=len(caps) - 1)][below] < norms[below]).all())
    assert hash_index._caps(torch.full((5,), 2.0)) == [2.0]
    assert hash_index._caps(torch.zeros(5)) == [0.0]


@pytest.mark.parametrize("form", FORMS)
def test_hash_tables_are_saved_and_loaded(form: str, tmp_path) -> None:
    vectors, queries = clustered(800, 30)
    vectors[:100] *= 3
    index = built(form, vectors)
    index.set_parameters(probes=3, votes=2)
    save_index(index, tmp_path / "index", binding="run")
    loaded = load_index(tmp_path / "index", binding="run", vectors=vectors)
    assert isinstance(loaded, HashIndex)
    assert loaded.parameters == {"probes": 3, "votes": 2} and loaded.caps == index.caps
    assert torch.equal(loaded.search(queries, 9).ids, index.search(queries, 9).ids)


@pytest.mark.parametrize("spoil", ["item", "negative", "bounds", "end", "shape", "type"])
def test_hash_tables_that_name_what_is_not_there(spoil: str) -> None:
    vectors, _ = clustered(200, 1)
    index = built("LSH2x3", vectors)
    order, starts = index.order.copy(), index.starts.copy()
    change: dict[str, Callable[[], object]] = {
        "item": lambda: order.__setitem__((0, 5), 200),
        "negative": lambda: order.__setitem__((1, 5), -1),
        "bounds": lambda: starts.__setitem__((0, 3), 201),
        "end": lambda: starts.__setitem__((0, -1), 100),
        "shape": lambda: None,
        "type": lambda: None,
    }
    change[spoil]()
    order = order[:, :-1] if spoil == "shape" else order.astype(np.int64) if spoil == "type" else order
    with pytest.raises(ArtefactError, match="hash tables"):
        HashIndex("lsh", "LSH2x3").restore(order, starts, index.caps, vectors, 0.0)


def test_parameters_that_are_none() -> None:
    index = built("LSH2x3", clustered(200, 1)[0])
    with pytest.raises(InputError, match="no such search parameter"):
        index.set_parameters(nprobe=3)
    with pytest.raises(InputError, match="too small"):
        index.set_parameters(probes=0)
    with pytest.raises(ConfigError, match="kind and factory"):
        build_index(clustered(200, 1)[0], IndexConfig(kind="hnsw", factory="LSH2x3"))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**30), st.integers(1, 12), st.integers(1, 40), st.integers(1, 20))
def test_rescoring_is_a_sort_of_products(seed: int, queries: int, finds: int, keep: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-2, 3, (60, 3), generator=generator).float()
    asked = torch.randint(-2, 3, (queries, 3), generator=generator).float()
    ids = torch.rand(queries, 60, generator=generator).argsort(1)[:, :finds]
    ids[torch.rand(queries, finds, generator=generator) < 0.2] = -1
    lengths = torch.randint(0, 12, (queries,), generator=generator)
    hidden = Ragged(offsets_of(lengths), torch.randint(60, (int(lengths.sum()),), generator=generator))
    products = asked @ vectors.T
    scored = torch.where(ids < 0, -torch.inf, products.gather(1, ids.clamp(min=0)))
    order = scored.argsort(1, descending=True)  # equal scores in any order
    in_order = ids.gather(1, order), scored.gather(1, order)
    for gone in (None, hidden):
        found = [
            rescoring.best_of(TensorVectors(vectors), asked, ids, keep, gone),
            rescoring._plain(TensorVectors(vectors), asked, ids, keep, gone),
            rescoring.best_scored(*in_order, keep, gone),
            rescoring._kept(*in_order, keep, gone),
        ]
        for b, out in enumerate([[]] * queries if gone is None else gone.to_lists()):
            proposed = [i for i in ids[b].tolist() if i >= 0]
            left = [i for i in proposed if i not in out]
            best = sorted(left, key=lambda i: (-float(products[b, i]), i))[:keep]
            missing = keep - len(best)
            for got in found:
                assert got.ids[b].tolist() == best + [-1] * missing
                assert got.scores[b].tolist() == [float(products[b, i]) for i in best] + [-math.inf] * missing
                assert (int(got.lengths[b]), int(got.hits[b])) == (len(best), len(proposed) - len(left))
