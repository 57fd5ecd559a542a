"""kNN memory: attention to the most similar frames of an external store (Wu et al. 2022, "Memorizing Transformers",
arXiv:2203.08913), made a memory for recognition.

Shapes: B episodes, T frames, S of them studied, P probes, M model width, H heads, G heads of keys and values,
D width of a head, K neighbours, L segments read at once of N frames each, which see C keys each.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.config import Count, MixerConfig
from models.external_memory import Backend, ExternalMemory, IndexKind, Retrieved, inner_products, take
from models.mixer import Mixer
from models.norm import LayerNorm
from models.optional import find_module

NUM_BUCKETS, MAX_DISTANCE = 32, 128  # of relative positions, as T5's (Raffel et al. 2020, arXiv:1910.10683)
AT_ONCE = 1 << 24  # floats that segments of short episodes may take to be read all at once
KeysValues = tuple[Tensor, Tensor]  # (B, G, frames, D) each


class KNNMemory(Mixer):
    """Pre-norm block x + Attn(LN(x + c)), then x + FF(LN x), whose attention also reads a store of earlier segments.

    Study frames come in segments: each sees its own segment, looks up its K most similar frames of earlier segments,
    and only then is the segment written. With a cache (Transformer-XL, Dai et al. 2019, arXiv:1901.02860) it sees the
    frames just before its segment too, which are written when they leave the cache. Probes are not written, and each
    reads the store, which has all study frames by then, and itself alone: what is answered to one cannot depend on the
    others. With unit-length queries q and keys k, m and a temperature s:
        local logits L_ij = s q_i . k_j (+ relative bias)        memory logits M_ij = s q_i . m_j
        fusion "gate":   V = g softmax(M) v_m + (1 - g) softmax(L) v,  g = sigmoid(beta), 0 where nothing is stored
        fusion "joint":  V = softmax([M, L]) [v_m, v]

    It starts as a nearest-neighbour memory: the projection of keys is orthogonal and that of queries equal to it, so
    that similarities are the cosines of what comes in, and the greatest of them is added to the output of each head.
    Cosines of frames from which their mean has been taken would be blind to how far from it they are, so a constant
    vector, learned from a random one on, is added before the norm: cosines then fall with the distance of frames.

    Attributes:
        num_probes: how many of the last frames are probes. If None, all that are read where `num_last` is given, else
            none: a layer below others must be told.
        retrieved: after a call in evaluation mode with probes, the study frames that they found, (B, P, H K), counted
            from 0, the most similar first, the finds of all heads together; -1 where there were too few.
        weights: the shares of these frames in what the memory says, (B, P, H K): softmax(M), the mean over heads, so
            that they add up to 1 unless nothing is stored.
    """

    is_causal = True  # in what the probes are answered; study frames see all of their segment unless told not to
    stores_probes = False
    limit = "capacity"
    page = "retrieval"

    class Config(MixerConfig):
        residual: bool = False  # the block brings its own
        n_heads: Count = 1
        d_head: Count | None = None  # d_embed / n_heads unless given
        kv_heads: Count = 1  # 1: all heads share keys and values; n_heads: each has its own
        k: Count = 32  # entries that each query looks up
        capacity: Count = 9000  # frames in the store; the oldest leave first
        segment: Count = 300
        xl: int = Field(0, ge=0)  # frames in the cache; as `relative_bias`, it does nothing in a stack's last layer
        fusion: Literal["gate", "joint"] = "gate"
        causal: bool = False  # study frames do not see later ones of their segment
        relative_bias: bool = False  # nothing learns it in a stack's last layer, where probes alone are read
        tie_qk: bool = True  # queries are projected as keys are, also after training
        familiarity: bool = True  # add the greatest similarity to the output
        memory_grad: Literal["selected", "none"] = "selected"  # train the stored entries that probes found, or none
        d_feedforward: Count | None = None  # 4 * d_embed unless given
        dropout: float = Field(0.0, ge=0, lt=1)
        store: Literal["float32", "float16"] = "float32"
        store_device: Literal["model", "cpu"] = "model"  # cpu: for streams that a GPU cannot hold
        backend: Backend = "exact"
        faiss_index: IndexKind = "hnsw"

        @model_validator(mode="after")
        def _check(self) -> "KNNMemory.Config":
            if self.d_head is None and self.d_embed % self.n_heads:
                raise ValueError(f"d_embed {self.d_embed} cannot be shared among n_heads {self.n_heads}")
            if self.n_heads % self.kv_heads:
                raise ValueError(f"n_heads {self.n_heads} cannot be shared among kv_heads {self.kv_heads}")
            if self.tie_qk and self.kv_heads != self.n_heads:
                raise ValueError(f"tie_qk true needs kv_heads {self.n_heads}, as many as n_heads, or set it to false")
            if self.backend == "faiss" and (faiss := find_module("faiss")).module is None:
                reason = f", which fails ({faiss.error})" if faiss.error else ""
                raise ValueError(
                    f"backend faiss needs the package faiss-cpu{reason}; install it anew, or set backend to exact"
                )
            return self

    def __init__(self, config: Config):
        super().__init__()
        self.config, self.looks_ahead = config, not config.causal
        self.num_probes: int | None = None
        self.retrieved: Tensor | None = None
        self.weights: Tensor | None = None
        width, heads, kv_heads = config.d_embed, config.n_heads, config.kv_heads
        self.d_head = config.d_head or width // heads
        self.offset = nn.Parameter(torch.randn(width))
        self.norm_attention, self.norm_feedforward = LayerNorm(width), LayerNorm(width)
        self.key = nn.Linear(width, kv_heads * self.d_head, bias=False)
        self.value = nn.Linear(width, kv_heads * self.d_head, bias=False)
        self.query = None if config.tie_qk else nn.Linear(width, heads * self.d_head, bias=False)
        self.output = nn.Linear(heads * self.d_head, width, bias=False)
        self.log_temperature = nn.Parameter(torch.full((heads,), math.log(20)))
        self.gate = nn.Parameter(torch.zeros(heads)) if config.fusion == "gate" else None
        self.familiarity = nn.Linear(heads, width, bias=False) if config.familiarity else None
        self.relative_bias = nn.Parameter(torch.zeros(NUM_BUCKETS, heads)) if config.relative_bias else None
        inner = config.d_feedforward or 4 * width
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(config.dropout)

        nn.init.orthogonal_(self.key.weight)
        if self.query is not None:
            of_heads = self.key.weight.detach().unflatten(0, (kv_heads, -1)).repeat_interleave(heads // kv_heads, 0)
            self.query.weight.data.copy_(of_heads.flatten(0, 1))
        if self.familiarity is not None:
            nn.init.normal_(self.familiarity.weight, std=1 / math.sqrt(width))

    @property
    def gates(self) -> Tensor | None:
        """How much each head relies on the memory, (H,), from 0 to 1; None with joint fusion, which has no gate."""
        return None if self.gate is None else torch.sigmoid(self.gate.detach())

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone. Every call starts with an empty store."""
        num_frames, num_read = x.shape[1], x.shape[1] if num_last is None else num_last
        num_probes = (num_last or 0) if self.num_probes is None else self.num_probes
        if num_read == num_frames and num_probes == 0 and self._is_short(x):
            return self._read_at_once(x)
        study, probes = x.split([num_frames - num_probes, num_probes], 1)
        memory = self.build_memory(len(x), study.shape[1], x.device)
        graph = self._keys_values(study) if self._trains_memory and study.shape[1] else None
        outputs: list[Tensor] = []
        cache: KeysValues | None = None
        for first in range(0, study.shape[1], self.config.segment):
            segment = study[:, first : first + self.config.segment]
            size = segment.shape[1]
            keys, values = self._keys_values(segment) if graph is None else _frames(graph, first, first + size)
            if cache:
                keys, values = torch.cat([cache[0], keys], 2), torch.cat([cache[1], values], 2)
            local = keys, values
            if first + size > num_frames - num_read:  # read from here on; what lies before is only written
                outputs.append(self._read(segment, size, local, self._search(segment, memory), graph, lean=True))
            num_leaving = max(0, keys.shape[2] - self.config.xl)
            memory.add(*_frames(local, 0, num_leaving))
            if self.config.xl:
                keys, values = _frames(local, num_leaving, None)
                cache = (keys, values) if graph else (keys.detach(), values.detach())
        if cache:
            memory.add(*cache)
        if num_probes:
            outputs.append(self.probe(probes, memory, graph))
        y = torch.cat(outputs, 1)
        return y[:, y.shape[1] - num_read :]

    def study(self, x: Tensor, ends: Sequence[int], is_read: bool = True) -> tuple[Tensor | None, list[Tensor]]:
        return self(x) if is_read else None, [x[:, :end] for end in ends]

    def read(self, queries: Tensor, state: Tensor | ExternalMemory) -> Tensor:
        if isinstance(state, ExternalMemory):
            return self.probe(queries, state)
        memory = self.build_memory(len(state), state.shape[1], state.device)
        graph = self._keys_values(state) if self._trains_memory else None
        with torch.no_grad():
            memory.add(*(graph or self._keys_values(state)))
        return self.probe(queries, memory, graph)

    def start(self, num_rows: int) -> ExternalMemory:
        return self.build_memory(num_rows, self.config.capacity, self.key.weight.device)

    def step(self, x: Tensor, state: ExternalMemory, is_read: bool = True) -> tuple[Tensor | None, ExternalMemory]:
        if not is_read:
            self.write(x, state)
            return None, state
        y = []
        for frame in x.split(1, 1):
            own = self._keys_values(frame)
            y.append(self._probe(frame, own, state))
            state.add(*own)
        return torch.cat(y, 1), state

    def cannot_stream(self, is_last: bool) -> str | None:
        config = self.config
        if is_last or (config.causal and config.segment == 1 and not config.xl):
            return None
        return "below other layers its segments look ahead; it would need causal true, segment 1 and xl 0"

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: keys and values of the frames in the store."""
        return 2 * self.config.kv_heads * self.d_head * min(num_frames, self.config.capacity)

    def place(self, num_probes: int, clip_frames: int | None) -> None:
        self.num_probes = num_probes

    def tell(self) -> dict[str, Tensor]:
        return {} if self.retrieved is None else {"retrieved": self.retrieved.int()}

    def describe(self) -> dict[str, Any]:
        gates = None if self.gates is None else self.gates.tolist()
        return {"k": self.config.k, "capacity": self.config.capacity, "gates": gates}

    def change(self, **settings: Any) -> None:
        """k and capacity: what was learned serves with any number of neighbours and a store of any size."""
        if others := settings.keys() - {"k", "capacity"}:
            raise ValueError(f"a kNN memory that has learned cannot change {', '.join(sorted(others))}")
        self.config = self.Config(**{**self.config.model_dump(), **settings})

    def build_memory(self, num_episodes: int, num_frames: int, device: torch.device) -> ExternalMemory:
        """An empty store for streams of up to `num_frames` frames, of which the last `capacity` are kept."""
        config = self.config
        return ExternalMemory(
            num_episodes,
            max(1, min(config.capacity, num_frames)),
            self.d_head,
            config.kv_heads,
            torch.float16 if config.store == "float16" else self.key.weight.dtype,
            device if config.store_device == "model" else "cpu",
            config.backend,
            config.faiss_index,
        )

    def write(self, x: Tensor, memory: ExternalMemory) -> None:
        """Store study frames x (B, any number, M) without reading: a stream may come in as many parts as it likes."""
        with torch.no_grad():
            memory.add(*self._keys_values(x))

    def probe(self, x: Tensor, memory: ExternalMemory, graph: KeysValues | None = None) -> Tensor:
        """Read probes x (B, P, M) to (B, P, M), each alone; `graph` is all that was stored, where that is trained."""
        return self._probe(x, self._keys_values(x), memory, graph)

    def _probe(self, x: Tensor, own: KeysValues, memory: ExternalMemory, graph: KeysValues | None = None) -> Tensor:
        with torch.no_grad():
            queries = own[0] if self.query is None else self._queries(x)
            found = memory.search(queries, self.config.k)
        if not self.training:
            self.retrieved, self.weights = self._in_order(queries, found)
        return self._read(x, 1, own, found, graph)

    def step_of_segment(self, x: Tensor, memory: ExternalMemory) -> Tensor:
        """`forward`, one segment a call: read x (B, any number, M) against what is stored, then store it, untrained.

        In evaluation mode `retrieved` is what its frames found. Raises ValueError with `xl`: there is no cache.
        """
        if self.config.xl:
            raise ValueError(f"xl {self.config.xl}: a kNN memory that goes on step by step has no cache, set it to 0")
        found = self._search(x, memory)
        if not self.training:
            self.retrieved, self.weights = self._in_order(self._queries(x), found)
        local = self._keys_values(x)
        y = self._read(x, x.shape[1], local, found, None)
        memory.add(*local)
        return y

    def _is_short(self, x: Tensor) -> bool:
        """Whether x (B, T, M) is whole segments that all stay in a store, few enough to be read at once."""
        config, num_frames = self.config, x.shape[1]
        is_plain = not config.xl and config.backend == "exact" and config.store == "float32"
        is_kept = num_frames % config.segment == 0 and config.segment < num_frames <= config.capacity
        most = max(num_frames, min(config.k, num_frames) * self.d_head)  # floats of a frame and head
        return is_plain and is_kept and len(x) * config.n_heads * num_frames * most <= AT_ONCE

    def _read_at_once(self, x: Tensor) -> Tensor:
        """What `forward` says of x, without a store: each segment looks up what stands before it."""
        num_frames, size = x.shape[1], self.config.segment
        keys, values = self._keys_values(x)
        place = torch.arange(num_frames, device=x.device)
        mask = (place < (place // size * size)[:, None]).expand(len(x), self.config.n_heads, -1, -1)  # (B, H, T, T)
        if self.config.k < num_frames - size:  # else all that is stored is found
            with torch.no_grad():
                similarity = inner_products(self._queries(x), keys).masked_fill(~mask, -torch.inf)
                near, ids = similarity.topk(self.config.k, dim=3)
                mask = torch.zeros_like(mask).scatter(3, ids, near > -torch.inf)
        stored = (keys, values) if self._trains_memory else (keys.detach(), values.detach())
        # For so few it is cheaper to read all and give no weight to what was not found than to copy what was.
        return self._block(x, size, (keys, values), _Entries(*stored, None), mask)

    @property
    def _trains_memory(self) -> bool:
        return self.config.memory_grad == "selected" and torch.is_grad_enabled()

    def _project(self, x: Tensor, *linears: nn.Linear) -> list[Tensor]:
        """The norm of x + c (B, T, M) through each projection, in full precision: (B, H or G, T, D)."""
        with torch.autocast(x.device.type, enabled=False):
            x = self.norm_attention(x.to(self.key.weight.dtype) + self.offset)
            return [F.linear(x, y.weight).unflatten(2, (-1, self.d_head)).transpose(1, 2) for y in linears]

    def _queries(self, x: Tensor) -> Tensor:
        [queries] = self._project(x, self.query or self.key)
        return F.normalize(queries, dim=3)

    def _keys_values(self, x: Tensor) -> KeysValues:
        keys, values = self._project(x, self.key, self.value)
        return F.normalize(keys, dim=3), values

    @torch.no_grad()
    def _search(self, x: Tensor, memory: ExternalMemory) -> Retrieved:
        return memory.search(self._queries(x), self.config.k)

    @torch.no_grad()
    def _in_order(self, queries: Tensor, found: Retrieved) -> tuple[Tensor, Tensor]:
        """Ids found by all heads together, the most similar first, and their weights: (B, P, H K) each."""
        similarity = torch.einsum("bhpd,bhpkd->bhpk", queries, found.keys)
        logits = self.log_temperature.exp()[:, None, None] * similarity
        logits = logits.masked_fill(~found.mask, torch.finfo(logits.dtype).min)  # finite: there may be nothing else
        weights = logits.softmax(3) * found.mask / len(self.log_temperature)
        if len(self.log_temperature) == 1:  # already in order
            return found.ids[:, 0], weights[:, 0]
        similarity = similarity.masked_fill(~found.mask, -torch.inf)
        similarity, ids, weights = (x.transpose(1, 2).flatten(2) for x in (similarity, found.ids, weights))
        order = similarity.argsort(dim=2, descending=True, stable=True)
        return ids.gather(2, order), weights.gather(2, order)

    def _read(
        self,
        x: Tensor,
        size: int,
        keys_values: KeysValues,
        found: Retrieved,
        graph: KeysValues | None,
        lean: bool = False,
    ) -> Tensor:
        """The block on x (B, L N, M): L segments of N = `size` frames that do not see each other.

        With `lean`, gradients keep what comes in alone and compute the rest again; what was found stays the same.
        """
        # Of what was found and is also in the graph, a checkpoint need not keep a copy.
        entries = _Entries(found.keys, found.values, None) if graph is None else _Entries(*graph, found.ids)
        if lean and torch.is_grad_enabled():
            return checkpoint(self._block, x, size, keys_values, entries, found.mask, use_reentrant=False)
        return self._block(x, size, keys_values, entries, found.mask)

    def _block(self, x: Tensor, size: int, seen: KeysValues, entries: "_Entries", mask: Tensor) -> Tensor:
        stored = entries.taken()
        queries = seen[0][:, :, -x.shape[1] :] if self.query is None else self._queries(x)
        with torch.autocast(x.device.type, enabled=False):
            mixed, familiarity = self._attend(queries, size, seen, stored, mask)
        y = self.dropout(self.output(mixed.transpose(1, 2).flatten(2)))
        if self.familiarity is not None:
            y = y + self.familiarity(familiarity.transpose(1, 2))
        x = x + y
        inner = self.dropout(F.gelu(self.expand(self.norm_feedforward(x))))
        return x + self.dropout(self.contract(inner))

    def _attend(
        self, queries: Tensor, size: int, seen: KeysValues, stored: KeysValues, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What each head reads, (B, H, L N, D), and s (greatest similarity - 1), (B, H, L N). What is stored are the
        entries found, (B, H, L N, K, D), or all K that there are, (B, G, K, D), of which the mask shows those found."""
        (keys, values), (stored_keys, stored_values) = seen, stored
        temperature = self.log_temperature.exp()[:, None, None]  # (H, 1, 1)
        of_head = queries.shape[1] // keys.shape[1]
        segments = (queries.shape[2] // size, -1)
        scaled = temperature * queries  # (B, H, L N, D)
        local_keys, local_values = (x.repeat_interleave(of_head, 1).unflatten(2, segments) for x in (keys, values))
        local = scaled.unflatten(2, segments) @ local_keys.mT  # (B, H, L, N, C)
        num_seen = local.shape[4]  # of them the last are the segment's own
        if self.relative_bias is not None:
            buckets = relative_buckets(num_seen, self.config.causal, queries.device)[-size:]
            bias = math.sqrt(self.d_head) * self.relative_bias[buckets].movedim(2, 0)  # (H, N, C)
            local = local + bias[:, None]
        if self.config.causal:
            is_later = torch.ones(size, num_seen, dtype=torch.bool, device=queries.device).triu(1 + num_seen - size)
            local = local.masked_fill(is_later, -torch.inf)
        is_all = stored_keys.ndim == 4
        if is_all:
            stored_keys, stored_values = (x.repeat_interleave(of_head, 1) for x in stored)
            memory = scaled @ stored_keys.mT
        else:
            memory = torch.einsum("bhtd,bhtkd->bhtk", scaled, stored_keys)
        is_any = mask.any(3, keepdim=True)  # (B, H, L N, 1)
        memory = memory.masked_fill(~mask, torch.finfo(memory.dtype).min)  # finite: a row may have nothing else
        greatest = memory.max(3, keepdim=True).values if is_all else memory[..., :1]
        similarity = torch.where(is_any, greatest, 0)
        if self.gate is None:
            num_found = memory.shape[3]
            weights = torch.cat([memory, local.flatten(2, 3)], 3).softmax(3)  # (B, H, L N, K + C)
            memory, local = weights.split([num_found, num_seen], 3)
            local = local.unflatten(2, segments)
        else:
            gate = torch.where(is_any, torch.sigmoid(self.gate)[:, None, None], 0)
            memory, local = gate * memory.softmax(3), (1 - gate).unflatten(2, segments) * local.softmax(4)
        stored_mixed = memory @ stored_values if is_all else torch.einsum("bhtk,bhtkd->bhtd", memory, stored_values)
        mixed = stored_mixed + (local @ local_values).flatten(2, 3)
        return mixed, (similarity - temperature).squeeze(3)


class _Entries(NamedTuple):
    """Keys and values that queries found, (B, H, L N, K, D), or tables (B, G, S, D) that have them at `places`; without
    places, all of the tables."""

    keys: Tensor
    values: Tensor
    places: Tensor | None  # (B, H, L N, K)

    def taken(self) -> KeysValues:
        if self.places is None:
            return self.keys, self.values
        return take(self.keys, self.places), take(self.values, self.places)


def _frames(of: KeysValues, first: int, stop: int | None) -> KeysValues:
    return of[0][:, :, first:stop], of[1][:, :, first:stop]


def relative_buckets(size: int, is_causal: bool, device: torch.device) -> Tensor:
    """T5's buckets of the distances i - j of `size` queries i and keys j, (N, N).

    Half of the buckets hold one distance each, the others grow in proportion up to MAX_DISTANCE, the last has all
    beyond. Where later frames are seen, they have half of all buckets.
    """
    place = torch.arange(size, device=device)
    distance = place[:, None] - place
    buckets = NUM_BUCKETS if is_causal else NUM_BUCKETS // 2
    offset = 0 if is_causal else buckets * (distance < 0)
    distance = distance.clamp(min=0) if is_causal else distance.abs()
    exact = buckets // 2
    share = torch.log(distance.clamp(min=1) / exact) / math.log(MAX_DISTANCE / exact)
    far = (exact + (share * (buckets - exact)).long()).clamp(max=buckets - 1)
    return offset + torch.where(distance < exact, distance, far)
