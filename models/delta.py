"""Fast weights by the delta rule: a matrix that learns, frame by frame, to give back what each frame wrote.

Shapes: B episodes, T frames, S study frames, Q probes asked together, M model width, H heads, K key width, V value
width, N chunks, L frames a chunk.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.config import Count, MixerConfig, Range
from models.familiarity import Familiarity
from models.linear_attention import at_least_float32
from models.mixer import Mixer


class Delta(Mixer):
    """A layer of fast weights (Schlag et al. 2021, arXiv:2102.11174; chunks: Yang et al. 2024, arXiv:2406.06484).

    Per head, with a key k and a value v of unit length and a write rate b in (0, 1):
        S_t = S_{t-1} + b (v - S_{t-1} k) k^T
    One step down the squared error of what S gives back for k, so that a key that comes again corrects what it wrote
    before instead of adding to it. With `gate` S is first multiplied by a = sigmoid(.) (gated delta rule, Yang et al.
    2024, arXiv:2412.06464).

    A frame reads S q before it writes: read afterwards, as in the sources, each frame would find itself. It also gets
    to know its error v - S q, what it would still have to write.
    """

    chunk = 64  # frames at a time; changes speed, memory and rounding only

    class Config(MixerConfig):
        num_heads: Count = 1
        d_key: Count = 64
        d_value: Count = 64
        rate: float = Field(0.1, gt=0, lt=1)  # b at the start
        tie_qk: bool = True  # a frame asks with the key under which it writes
        gate: bool = False
        forget_bias_range: Range = (9.0, 11.0)  # of gates, spread over the heads: exp(9) = 8,100 frames are kept
        familiarity: bool = True  # tell how well what is read fits what the frame would write

    def __init__(self, config: Config):
        super().__init__()
        width, self.num_heads = config.d_embed, config.num_heads
        self.key = nn.Linear(width, config.num_heads * config.d_key, bias=False)
        self.query = None if config.tie_qk else nn.Linear(width, self.key.out_features, bias=False)
        self.value = nn.Linear(width, config.num_heads * config.d_value, bias=False)
        self.rate = nn.Linear(width, config.num_heads)
        nn.init.zeros_(self.rate.weight)
        nn.init.constant_(self.rate.bias, math.log(config.rate / (1 - config.rate)))
        self.gate = nn.Linear(width, config.num_heads) if config.gate else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            with torch.no_grad():
                self.gate.bias.copy_(torch.linspace(*config.forget_bias_range, config.num_heads))
        self.output = nn.Linear(config.num_heads * config.d_value, width, bias=False)
        self.familiarity = (
            Familiarity(config.num_heads, width, num_further=2, scale=1.0) if config.familiarity else None
        )
        if config.match_init:
            self._match()

    def _match(self) -> None:
        """Start with keys that are as alike as their frames, and with values that are the keys if widths agree."""
        nn.init.orthogonal_(self.key.weight)
        nn.init.orthogonal_(self.value.weight)
        with torch.no_grad():
            if self.query is not None:
                self.query.weight.copy_(self.key.weight)
            if self.value.weight.shape == self.key.weight.shape:
                self.value.weight.copy_(self.key.weight)

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone."""
        num_unread = 0 if num_last is None else x.shape[1] - num_last
        unread, x = x.split([num_unread, x.shape[1] - num_unread], 1)
        _, [state] = self._take_in(unread, [num_unread], False)
        y, _ = self._take_in(x, [], True, state)
        assert y is not None
        return y

    def study(self, x: Tensor, ends: Sequence[int], is_read: bool = True) -> tuple[Tensor | None, list[Tensor]]:
        """As `Mixer` says; a state is (B, H, K, V)."""
        return self._take_in(x, ends, is_read)

    def read(self, queries: Tensor, state: Tensor) -> Tensor:
        """Queries (B, Q, M) and a state (B, H, K, V) to (B, Q, M)."""
        q, v = self._unit(self.query or self.key, queries), self._unit(self.value, queries)
        with torch.autocast(queries.device.type, enabled=False):
            return self._tell(q @ state, v)

    def start(self, num_rows: int) -> Tensor:
        widths = (linear.out_features // self.num_heads for linear in (self.key, self.value))
        return self.key.weight.new_zeros(num_rows, self.num_heads, *widths)

    def step(self, x: Tensor, state: Tensor, is_read: bool = True) -> tuple[Tensor | None, Tensor]:
        y, [state] = self._take_in(x, [x.shape[1]], is_read, state)
        return y, state

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: a K x V matrix per head."""
        return self.key.out_features * self.value.out_features // self.num_heads

    def _take_in(
        self, x: Tensor, ends: Sequence[int], is_read: bool, state: Tensor | None = None
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Read frames, if so, and write them, after what has left `state`."""
        k, v = self._unit(self.key, x), self._unit(self.value, x)
        q = None if not is_read else k if self.query is None else self._unit(self.query, x)
        rate, log_decay = self.rate(x), None if self.gate is None else self.gate(x)  # (B, T, H)
        with torch.autocast(x.device.type, enabled=False):
            rate = torch.sigmoid(at_least_float32(rate)).transpose(1, 2)
            if log_decay is not None:
                log_decay = F.logsigmoid(at_least_float32(log_decay)).transpose(1, 2)
            found, states = delta_rule(k, v, rate, log_decay, q, state, ends, self.chunk)
            return None if found is None else self._tell(found, v), states

    def _unit(self, project: nn.Linear, x: Tensor) -> Tensor:
        """Each head's vector of each frame, of unit length: (B, T, M) to (B, H, T, K or V)."""
        return F.normalize(at_least_float32(project(x)).unflatten(2, (self.num_heads, -1)), dim=3).transpose(1, 2)

    def _tell(self, read: Tensor, v: Tensor) -> Tensor:
        """What was read and what would be written, (B, H, Q, V), to (B, Q, M)."""
        y = self.output(read.transpose(1, 2).flatten(2))
        if self.familiarity is None:
            return y
        error = torch.linalg.vector_norm(v - read, dim=3)  # (B, H, Q), 1 if nothing is known
        return y + self.familiarity(read, v, error, torch.log(error + 1e-6))


def delta_rule(
    k: Tensor,
    v: Tensor,
    rate: Tensor,
    log_decay: Tensor | None,
    q: Tensor | None,
    state: Tensor | None,
    ends: Sequence[int],
    chunk_size: int,
) -> tuple[Tensor | None, list[Tensor]]:
    """Write frames into S by the delta rule: S_t = a_t S_{t-1} + b_t k_t (v_t - a_t S_{t-1}^T k_t)^T.

    Within a chunk that begins with S_0, with g_t = a_1 ... a_t,
        S_t = g_t S_0 + sum over s <= t of g_t / g_s k_s u_s^T
        u_t = b_t (v_t - g_t S_0^T k_t - sum over s < t of g_t / g_s (k_s . k_t) u_s)
    so all u of a chunk solve a triangular system, of whose right-hand side only a part has to wait for S_0: all
    chunks are solved at once, and between them goes one product each. This is exact.

    Args:
        k: (B, H, T, K), of unit length, in float32 at least.
        v: (B, H, T, V).
        rate: b, (B, H, T).
        log_decay: log a, (B, H, T); None for no decay.
        q: (B, H, T, K), with which each frame reads what those before it have left, S_{t-1}^T q_t; None if none does.
        state: S before the first frame, (B, H, K, V); None for zero.
        ends: numbers of frames, ascending, after which S is wanted. Frames after the last are of no account to it.
        chunk_size: at most so many frames at a time. Changes speed and rounding only.

    Returns:
        What is read, (B, H, T, V), or None; and S (B, H, K, V) after each number of frames of `ends`.

    Source: Yang et al. (2024), "Parallelizing linear transformers with the delta rule over sequence length",
    arXiv:2406.06484, section 3, and for decay arXiv:2412.06464, section 3.
    """
    if state is None:
        state = k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3])
    num_frames = max(ends, default=0) if q is None else k.shape[2]
    sizes = _sizes(num_frames, ends, chunk_size)
    if not sizes:
        return None if q is None else torch.zeros_like(v), [state for _ in ends]
    log_decay = torch.zeros_like(rate) if log_decay is None else log_decay
    k, v, rate, log_decay = (_chunks(x, sizes) for x in (k, v, rate, log_decay))  # (N, B, H, L, ...)
    decay = log_decay.cumsum(3)  # log g, of each frame inclusive
    weight = _past(decay, decay)
    system = rate[..., None] * weight * (k @ k.mT)  # below the diagonal, of ones, which is not looked at
    known = rate[..., None] * torch.cat([v, torch.exp(decay)[..., None] * k], 4)
    solved = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True)
    u, waits = solved.split([v.shape[4], k.shape[4]], 4)  # u is u - waits S_0
    total = decay[..., -1:]
    kept = (torch.exp(total - decay)[..., None] * k).mT  # (N, B, H, K, L)

    starts, written, after = [], [], {0: state}
    # Not u[n]: the gradient of each index would fill a tensor of the size of all.
    of_chunks = (x.unbind(0) for x in (u, waits, kept, torch.exp(total)[..., None]))
    for end, u_n, waits_n, kept_n, total_n in zip(accumulate(sizes), *of_chunks, strict=True):
        starts.append(state)
        written.append(u_n - waits_n @ state)
        state = total_n * state + kept_n @ written[-1]
        after[end] = state
    states = [after[end] for end in ends]
    if q is None:
        return None, states
    q = _chunks(q, sizes)
    before = F.pad(decay[..., :-1], (1, 0))  # log g of the frame before
    y = (_past(before, decay) * (q @ k.mT)) @ torch.stack(written)
    y = y + (torch.exp(before)[..., None] * q) @ torch.stack(starts)
    return torch.cat([piece[:, :, :size] for piece, size in zip(y.unbind(0), sizes, strict=True)], 2), states


def _sizes(num_frames: int, ends: Sequence[int], chunk_size: int) -> list[int]:
    """Cut frames at `ends`, and what lies between into chunks of about equal size."""
    sizes = []
    for start, end in pairwise(sorted({0, *ends, num_frames})):
        num_chunks = math.ceil((end - start) / chunk_size)
        marks = [start + (end - start) * n // num_chunks for n in range(num_chunks + 1)]
        sizes += [b - a for a, b in pairwise(marks)]
    return sizes


def _chunks(x: Tensor, sizes: list[int]) -> Tensor:
    """(B, H, T, ...) to (N, B, H, L, ...), L the largest size. Zeros fill up: a rate of zero writes nothing."""
    pieces = x[:, :, : sum(sizes)].split(sizes, 2)
    last = (0, 0) * (x.ndim - 3)
    return torch.stack([F.pad(piece, (*last, 0, max(sizes) - piece.shape[2])) for piece in pieces])


def _past(to: Tensor, since: Tensor) -> Tensor:
    """Decay from frame s to frame t, exp(to_t - since_s), for s < t, and zero elsewhere: (..., L) to (..., L, L)."""
    is_past = torch.ones(to.shape[-1], to.shape[-1], dtype=torch.bool, device=to.device).tril(-1)
    return torch.exp((to[..., :, None] - since[..., None, :]).masked_fill(~is_past, -torch.inf))
