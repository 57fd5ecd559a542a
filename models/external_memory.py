"""A store of keys and values outside the network, searched by similarity; of a full one the oldest entries leave first.

Shapes: B rows, G heads of keys, H heads of queries (a multiple of G), C capacity, N new entries or queries,
K neighbours, D width of keys and values.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Backend = Literal["exact", "faiss"]
IndexKind = Literal["flat", "hnsw"]
Rows = slice | Sequence[int] | Tensor
QUERIES_AT_ONCE, MIN_KEYS_AT_ONCE = 256, 1024
NUM_LINKS, SEARCH_WIDTH = 32, 256  # of an HNSW graph


class Retrieved(NamedTuple):
    """The entries most similar to each query, the most similar first."""

    keys: Tensor  # (B, H, N, K, D), like the queries
    values: Tensor  # (B, H, N, K, D)
    mask: Tensor  # (B, H, N, K), False where there are fewer than K entries
    ids: Tensor  # (B, H, N, K), how many entries were added before this one; -1 where there is none


class ExternalMemory(nn.Module):
    """A ring of the last C keys and values for every row of a batch. Nothing in it has a gradient.

    With unit-length keys and queries the similarity, an inner product, is the cosine. Rows are filled, cleared and
    searched each for itself. An id counts all that was ever added to its row since it was cleared, so that it says
    which frame of a stream was found.

    Args:
        num_rows, capacity, width, num_heads: B, C, D and G.
        dtype: of what is stored; float16 halves it, rounds it by 0.05 % and is searched exactly as it was stored.
        device: where it is stored. Queries may live elsewhere: the store then comes to them piece by piece, and need
            not fit beside them.
        backend: "exact" compares every query with every key; "faiss" asks an index of the package faiss-cpu, on the
            CPU, for more than some 100,000 entries.
        faiss_index: "flat" compares with every key too; "hnsw" walks a graph and misses a few.
        tile: similarities held at once in an exact search; changes memory and speed alone.

    `add` and `search` raise ValueError for shapes that do not fit the store. Without the package faiss-cpu the back end
    of that name raises ImportError.
    """

    keys: Tensor  # (B, G, C, D)
    values: Tensor
    count: Tensor  # (B,), how many entries were ever added

    def __init__(
        self,
        num_rows: int,
        capacity: int,
        width: int,
        num_heads: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        backend: Backend = "exact",
        faiss_index: IndexKind = "flat",
        tile: int = 1 << 24,
    ):
        super().__init__()
        self.capacity, self.backend, self.faiss_index, self.tile = capacity, backend, faiss_index, tile
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(num_rows, num_heads, capacity, width, dtype=dtype, device=device))
        self.register_buffer("count", torch.zeros(num_rows, dtype=torch.int64, device=device))
        self._chosen: Tensor | None = None  # by `rows`
        self._indexes: list[list[_FaissIndex]] = []  # (B, G)
        if backend == "faiss":
            self._build_indexes()
            self.register_load_state_dict_post_hook(lambda memory, _: memory._build_indexes())

    @torch.no_grad()
    def add(self, keys: Tensor, values: Tensor, rows: Rows | None = None) -> None:
        """Append entries (B, N, D), or (B, G, N, D) where heads have their own, to some rows; to all if None."""
        chosen = self._select(rows)
        keys, values = (x[:, None] if x.ndim == 3 else x for x in (keys, values))
        num_new = keys.shape[2]
        expected = (len(chosen), self.keys.shape[1], num_new, self.keys.shape[3])
        for name, x in (("keys", keys), ("values", values)):
            if x.shape != expected:
                raise ValueError(f"{name}: expected shape {expected}, found {tuple(x.shape)}")
        first = max(0, num_new - self.capacity)  # what would leave at once is not written at all
        slots = (self.count[chosen, None] + torch.arange(first, num_new, device=self.count.device)) % self.capacity
        for table, x in ((self.keys, keys), (self.values, values)):
            table[chosen[:, None], :, slots] = x[:, :, first:].transpose(1, 2).to(table)
        self.count[chosen] += num_new
        if self.backend == "faiss":
            for row, of_heads in zip(chosen.tolist(), keys, strict=True):
                for head, new in enumerate(of_heads):
                    self._extend_index(row, head, new)

    @torch.no_grad()
    def search(self, q: Tensor, k: int) -> Retrieved:
        """Find the `k` entries most similar to each query (B, H, N, D); the last ones are masked if there are fewer."""
        chosen, num_heads = self._select(None), self.keys.shape[1]
        if q.ndim != 4 or len(q) != len(chosen) or q.shape[1] % num_heads or q.shape[3] != self.keys.shape[3]:
            expected = f"({len(chosen)}, a multiple of {num_heads}, any number, {self.keys.shape[3]})"
            raise ValueError(f"q: expected shape {expected}, found {tuple(q.shape)}")
        find = self._find_exactly if self.backend == "exact" else self._find_in_indexes
        ids = find(q.to(torch.promote_types(q.dtype, torch.float32)), k, chosen)
        slots = (ids % self.capacity).to(self.keys.device)
        keys, values = (take(self._chosen_part(table), slots).to(q) for table in (self.keys, self.values))
        return Retrieved(keys, values, ids >= 0, ids)

    def held(self) -> tuple[Tensor, Tensor]:
        """The keys and values in it, (B, G, at most C, D) each, in no order. All rows must have as many."""
        num_used = min(self.capacity, int(self.count.max()))
        return self.keys[:, :, :num_used], self.values[:, :, :num_used]

    def clear(self, rows: Rows | None = None) -> None:
        """Forget everything in some rows, all if None; their ids start again at 0."""
        chosen = self._select(rows)
        self.count[chosen] = 0
        if self.backend == "faiss":
            self._build_indexes()

    @contextmanager
    def rows(self, chosen: Rows) -> Iterator[None]:
        """Within this context the memory consists of some rows alone: for batches that are computed in parts."""
        before, self._chosen = self._chosen, self._select(chosen)
        try:
            yield
        finally:
            self._chosen = before

    def _select(self, rows: Rows | None) -> Tensor:
        """Numbers of rows, those of the context if None."""
        every = torch.arange(len(self.count), device=self.count.device)
        if rows is None:
            return every if self._chosen is None else self._chosen.to(every.device)
        return every[rows if isinstance(rows, slice) else torch.as_tensor(rows, device=every.device)]

    def _chosen_part(self, table: Tensor) -> Tensor:
        """What the rows of the context hold; without one the table itself, which may be large, is not copied."""
        return table if self._chosen is None else table[self._chosen]

    def _find_exactly(self, q: Tensor, k: int, chosen: Tensor) -> Tensor:
        """Ids (B, H, N, K) by comparing with all keys, some queries and some keys at a time."""
        counts = self.count[chosen].tolist()
        num_used = min(self.capacity, max(counts, default=0))
        has_gaps = min(counts, default=0) < num_used  # as where rows are not equally long
        last = self.count[chosen, None, None, None].to(q.device) - 1  # (B, 1, 1, 1)
        found = []
        for queries in q.split(QUERIES_AT_ONCE, 2):
            best = queries.new_empty(*queries.shape[:3], 0)
            ids = torch.empty(best.shape, dtype=torch.int64, device=q.device)
            at_once = max(MIN_KEYS_AT_ONCE, self.tile // max(1, queries[..., 0].numel()))
            for first in range(0, num_used, at_once):
                piece = slice(first, min(first + at_once, num_used))
                similarity = inner_products(queries, self._chosen_part(self.keys)[:, :, piece].to(q))  # (B, H, N, keys)
                if has_gaps:
                    is_empty = torch.arange(piece.start, piece.stop, device=q.device) > last
                    similarity = similarity.masked_fill(is_empty, -torch.inf)
                near, place = similarity.topk(min(k, similarity.shape[3]), dim=3)
                slots = place + first
                near_ids = slots + self.capacity * ((last - slots) // self.capacity)
                if first:
                    near, near_ids = torch.cat([best, near], 3), torch.cat([ids, near_ids], 3)
                    near, order = near.topk(min(k, near.shape[3]), dim=3)
                    near_ids = near_ids.gather(3, order)
                best, ids = near, near_ids
            found.append(F.pad(ids.masked_fill(best == -torch.inf, -1), (0, k - ids.shape[3]), value=-1))
        return torch.cat(found, 2)

    def _find_in_indexes(self, q: Tensor, k: int, chosen: Tensor) -> Tensor:
        """Ids (B, H, N, K) from the indexes of faiss."""
        queries = q.unflatten(1, (self.keys.shape[1], -1)).flatten(2, 3).float().cpu().numpy()  # (B, G, H / G * N, D)
        found = [
            [index.search(queries[row, head], k) for head, index in enumerate(self._indexes[number])]
            for row, number in enumerate(chosen.tolist())
        ]
        return torch.from_numpy(np.array(found)).view(*q.shape[:3], k).to(q.device)

    def _extend_index(self, row: int, head: int, new: Tensor) -> None:
        """Add to an index what the ring was given; build it anew where a quarter of its entries have left the ring."""
        index, count = self._indexes[row][head], int(self.count[row])
        index.oldest, index.count = max(0, count - self.capacity), count
        if 4 * (index.oldest - index.first) > count - index.first:
            self._indexes[row][head] = self._index(row, head)
        else:
            index.add(new.to(self.keys.dtype))

    def _build_indexes(self) -> None:
        num_rows, num_heads = self.keys.shape[:2]
        self._indexes = [[self._index(row, head) for head in range(num_heads)] for row in range(num_rows)]

    def _index(self, row: int, head: int) -> "_FaissIndex":
        """An index of what the ring holds."""
        count = int(self.count[row])
        index = _FaissIndex(self.keys.shape[3], self.faiss_index, max(0, count - self.capacity), count)
        live = torch.arange(index.oldest, count, device=self.keys.device) % self.capacity
        index.add(self.keys[row, head, live])
        return index


class _FaissIndex:
    """An index of the keys of one row and head, with consecutive ids from `first` on. Nothing can be taken out of it:
    searches pass over what came before `oldest`."""

    def __init__(self, width: int, kind: IndexKind, oldest: int, count: int):
        import faiss

        self.faiss, self.is_graph = faiss, kind == "hnsw"
        self.first = self.oldest = oldest
        self.count = count  # id of the next entry
        if self.is_graph:
            self.index = faiss.IndexHNSWFlat(width, NUM_LINKS, faiss.METRIC_INNER_PRODUCT)
        else:
            self.index = faiss.IndexFlatIP(width)

    def add(self, keys: Tensor) -> None:
        """keys (N, D)"""
        self.index.add(np.ascontiguousarray(keys.float().cpu().numpy()))

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Ids (N, K) of the keys nearest to queries (N, D), -1 where there are too few."""
        options: dict[str, Any] = {"sel": self.faiss.IDSelectorRange(self.oldest - self.first, self.count - self.first)}
        if self.is_graph:
            parameters = self.faiss.SearchParametersHNSW(efSearch=max(SEARCH_WIDTH, 2 * k), **options)
        else:
            parameters = self.faiss.SearchParameters(**options)
        _, place = self.index.search(np.ascontiguousarray(queries), k, params=parameters)
        return np.where(place < 0, -1, place + self.first)


def take(table: Tensor, places: Tensor) -> Tensor:
    """Rows of a table (B, G, S, D) at places (B, H, N, K): (B, H, N, K, D). Negative places give any row."""
    num_rows, num_heads, size, width = table.shape
    first = size * torch.arange(num_rows * num_heads, device=places.device).view(num_rows, num_heads, 1)
    rows = (
        places.clamp(min=0).reshape(num_rows, num_heads, -1) + first
    )  # whole rows are copied at once, gather's are not
    return table.reshape(-1, width).index_select(0, rows.flatten()).view(*places.shape, width)


def inner_products(queries: Tensor, keys: Tensor) -> Tensor:
    """(B, H, N, D) and (B, G, S, D) to (B, H, N, S), in full precision: TF32 would blur what tells neighbours apart."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(queries.device.type, enabled=False):
            if queries.shape[1] == keys.shape[1]:
                return queries @ keys.mT
            # Queries that share a head of keys are rows of one matrix: broadcast, its keys would be copied for each.
            shared = queries.unflatten(1, (keys.shape[1], -1))  # (B, G, H / G, N, D)
            return (shared.flatten(2, 3) @ keys.mT).unflatten(2, shared.shape[2:4]).flatten(1, 2)
    finally:
        torch.set_float32_matmul_precision(before)
