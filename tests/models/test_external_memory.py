"""The store of keys and values: against a plain list for each row, as a ring, row by row, and against faiss."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.external_memory import ExternalMemory, inner_products, take

B, G, H, D, C = 3, 2, 4, 7, 23

needs_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss-cpu is not installed")
BACKENDS = [
    pytest.param({}, id="exact"),
    pytest.param({"backend": "faiss", "faiss_index": "flat"}, id="faiss-flat", marks=needs_faiss),
    pytest.param({"backend": "faiss", "faiss_index": "hnsw"}, id="faiss-hnsw", marks=needs_faiss),
]
over_backends = pytest.mark.parametrize("options", BACKENDS)


def unit(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1).to(dtype)


class Reference:
    """What every row was given, as lists; the last C of them count."""

    def __init__(self, num_rows: int, capacity: int):
        self.capacity, self.entries = capacity, [[] for _ in range(num_rows)]

    def add(self, keys: Tensor, values: Tensor, rows: list[int]) -> None:
        for row, of_keys, of_values in zip(rows, keys, values, strict=True):
            for place in range(keys.shape[2]):
                self.entries[row].append((of_keys[:, place], of_values[:, place]))

    def nearest(self, row: int, head: int, query: Tensor, k: int) -> list[int]:
        """Ids of the `k` nearest, the nearest first."""
        first = max(0, len(self.entries[row]) - self.capacity)
        live = range(first, len(self.entries[row]))
        return sorted(live, key=lambda n: -float(query @ self.entries[row][n][0][head]))[:k]


def check(memory: ExternalMemory, reference: Reference, k: int, seed: int, num_queries: int = 5) -> None:
    """A search finds what the reference holds, with the keys, values and masks that belong to it."""
    q = unit(B, H, num_queries, D, seed=seed)
    found = memory.search(q, k)
    assert found.keys.shape == found.values.shape == (B, H, num_queries, k, D)
    for row in range(B):
        for head in range(H):
            for n in range(num_queries):
                group = head // (H // G)
                ids = reference.nearest(row, group, q[row, head, n], k)
                assert found.ids[row, head, n].tolist() == ids + [-1] * (k - len(ids))
                assert found.mask[row, head, n].tolist() == [True] * len(ids) + [False] * (k - len(ids))
                for place, number in enumerate(ids):
                    key, value = (x[group] for x in reference.entries[row][number])
                    assert torch.equal(found.keys[row, head, n, place], key)
                    assert torch.equal(found.values[row, head, n, place], value)


@over_backends
def test_ring_holds_the_last_entries_of_each_row_and_their_own_values(options):
    """With parts of any size, one longer than the whole ring, and rows that are filled unequally."""
    memory, reference = ExternalMemory(B, C, D, G, **options), Reference(B, C)
    every, sizes = list(range(B)), (0, 4, 9, 17, 1, 50, 3, C, 8)
    check(memory, reference, 3, 0)
    for step, size in enumerate(sizes):
        rows = every if step % 3 else [2, 0]
        keys, values = unit(len(rows), G, size, D, seed=10 + step), torch.randn(len(rows), G, size, D)
        memory.add(keys, values, rows)
        reference.add(keys, values, rows)
        check(memory, reference, 6, 100 + step)
    assert memory.count.tolist() == [len(entries) for entries in reference.entries]


def test_writing_to_some_rows_leaves_the_others_as_they_were():
    memory = ExternalMemory(B, C, D)
    memory.add(unit(B, 5, D), unit(B, 5, D, seed=2))
    before = {name: x.clone() for name, x in memory.state_dict().items()}
    memory.add(unit(1, 4, D, seed=3), unit(1, 4, D, seed=4), rows=[1])
    assert memory.count.tolist() == [5, 9, 5]
    for name in ("keys", "values"):
        assert torch.equal(memory.state_dict()[name][[0, 2]], before[name][[0, 2]])


@over_backends
def test_fewer_entries_than_asked_for_are_masked(options):
    memory = ExternalMemory(B, C, D, **options)
    memory.add(unit(B, 4, D), unit(B, 4, D))
    found = memory.search(unit(B, H, 2, D), 30)
    assert found.mask.sum(3).eq(4).all()
    assert found.ids.eq(-1).sum(3).eq(26).all()


def test_pieces_of_keys_and_queries_do_not_change_what_is_found(monkeypatch):
    monkeypatch.setattr("models.external_memory.MIN_KEYS_AT_ONCE", 3)
    results = []
    for at_once, tile in ((256, 1 << 24), (5, 1), (1, 100), (7, 1000)):
        monkeypatch.setattr("models.external_memory.QUERIES_AT_ONCE", at_once)
        memory = ExternalMemory(B, C, D, G, tile=tile)
        memory.add(unit(B, G, 61, D), unit(B, G, 61, D, seed=2))
        results.append(memory.search(unit(B, H, 19, D, seed=3), 8))
    for found in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found, results[0], strict=True))


@over_backends
def test_rows_of_the_context_are_all_there_is_and_the_others_come_back(options):
    memory = ExternalMemory(B, C, D, **options)
    memory.add(unit(B, 5, D), unit(B, 5, D))
    with memory.rows([2, 1]):
        memory.add(unit(2, 3, D, seed=2), unit(2, 3, D, seed=2))
        found = memory.search(unit(2, 3, D, seed=2)[:, None], 1)
        assert found.ids[:, 0, :, 0].tolist() == [[5, 6, 7]] * 2
        with memory.rows(slice(0, 1)):
            assert len(memory.search(unit(1, 1, 2, D), 1).ids) == 1
        assert len(memory.search(unit(2, 1, 2, D), 1).ids) == 2
    assert memory.count.tolist() == [5, 8, 8]
    with pytest.raises(KeyError), memory.rows([0]):
        raise KeyError
    assert len(memory.search(unit(B, 1, 2, D), 1).ids) == B


@over_backends
def test_cleared_rows_are_empty_and_count_again_from_nothing(options):
    memory = ExternalMemory(B, C, D, **options)
    memory.add(unit(B, 30, D), unit(B, 30, D))
    memory.clear([1])
    memory.add(unit(1, 2, D, seed=5), unit(1, 2, D, seed=5), [1])
    found = memory.search(unit(B, 1, 1, D, seed=6), C)
    assert found.mask.sum(3)[:, 0, 0].tolist() == [C, 2, C]
    assert sorted(found.ids[1, 0, 0, :2].tolist()) == [0, 1]
    memory.clear()
    assert not memory.search(unit(B, 1, 1, D), 4).mask.any()


@over_backends
def test_saved_store_finds_the_same(options):
    memory, other = (ExternalMemory(B, C, D, G, **options) for _ in range(2))
    memory.add(unit(B, G, 40, D), unit(B, G, 40, D, seed=2))
    other.load_state_dict(memory.state_dict())
    for mine, its in zip(memory.search(unit(B, H, 9, D), 4), other.search(unit(B, H, 9, D), 4), strict=True):
        assert torch.equal(mine, its)


def test_half_precision_finds_what_it_stored_and_answers_in_the_precision_of_the_query():
    memory = ExternalMemory(B, C, D).to(torch.float16)
    memory.add(unit(B, 20, D), unit(B, 20, D, seed=2))
    q = unit(B, 1, 20, D)
    found = memory.search(q, 1)
    assert found.ids[:, 0, :, 0].tolist() == [list(range(20))] * B
    assert found.keys.dtype == torch.float32
    torch.testing.assert_close(found.keys[:, 0, :, 0], q[:, 0], rtol=0, atol=5e-4)


def test_nothing_in_the_store_has_a_gradient():
    memory = ExternalMemory(B, C, D)
    keys = unit(B, 5, D).requires_grad_()
    memory.add(keys, keys)
    assert not any(x.requires_grad for x in memory.search(keys[:, None], 2))


@pytest.mark.parametrize(
    ("keys", "values", "named"),
    [((B, 4, D), (B, 5, D), "values"), ((2, 4, D), (2, 4, D), "keys"), ((B, G, 4, D), (B, G, 4, D), "keys")],
)
def test_entries_that_do_not_fit_are_refused(keys, values, named):
    memory = ExternalMemory(B, C, D)
    with pytest.raises(ValueError, match=f"{named}: expected shape"):
        memory.add(torch.zeros(keys), torch.zeros(values))
    assert memory.count.tolist() == [0] * B


def test_queries_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a multiple of 2"):
        ExternalMemory(B, C, D, G).search(torch.zeros(B, 3, 1, D), 1)


def test_heads_of_queries_share_the_heads_of_a_table_in_order():
    table, places = unit(B, G, 9, D), torch.randint(0, 9, (B, H, 5, 3))
    taken = take(table, places)
    for b, h, n, k in ((0, 0, 0, 0), (2, 1, 4, 2), (1, 2, 3, 1), (2, 3, 0, 2)):
        assert torch.equal(taken[b, h, n, k], table[b, h // 2, places[b, h, n, k]])
    strided = table.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    index = places.reshape(B, G, -1, 1).expand(-1, -1, -1, D)
    found, due = take(strided, places), strided.gather(2, index).view(*places.shape, D)
    assert torch.equal(found, due)
    given = torch.randn(found.shape)
    torch.testing.assert_close(*(torch.autograd.grad(x, strided, given)[0] for x in (found, due)))


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_similarity_of_queries_that_share_heads_is_that_of_each_with_its_own(num_heads):
    queries, keys = unit(B, 5, 4, D).transpose(1, 2), unit(B, num_heads, 9, D)
    found = inner_products(queries, keys)
    assert found.shape == (B, 4, 5, 9)
    for head in range(4):
        due = queries[:, head] @ keys[:, head // (4 // num_heads)].mT
        torch.testing.assert_close(found[:, head], due)


@needs_faiss
@pytest.mark.parametrize("faiss_index", ["flat", "hnsw"])
def test_faiss_finds_what_an_exact_search_finds_also_after_the_ring_was_overwritten(faiss_index):
    memories = [ExternalMemory(1, 3000, 32, **o) for o in ({}, {"backend": "faiss", "faiss_index": faiss_index})]
    for size in (2500, 900, 700, 1300):
        keys = unit(1, size, 32, seed=size)
        for memory in memories:
            memory.add(keys, keys)
    assert memories[1]._indexes[0][0].first > 0  # it was built anew
    exact, approximate = (memory.search(unit(1, 1, 200, 32), 32).ids[0, 0] for memory in memories)
    shared = [len(set(a.tolist()) & set(b.tolist())) / 32 for a, b in zip(exact, approximate, strict=True)]
    assert sum(shared) / len(shared) >= (0.95 if faiss_index == "hnsw" else 0.999)
