"""Novelty filter: what of a frame cannot be made of those before it (Kohonen and Oja 1976, Biol. Cybern. 21).

Shapes: B episodes, T frames, Q frames read, L frames a chunk, H heads, K key width, M model width.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.config import Count, MixerConfig
from models.linear_attention import at_least_float32
from models.mixer import Mixer

LEAST_RIDGE = 0.03  # with less, float32 cannot tell 9,000 equal frames and a ridge from a singular matrix

State = tuple[Tensor, Tensor]  # the sum of products of keys, (B, H, K, K), and the number of frames


class NoveltyFilter(Mixer):
    """A ridge regression of each frame on all before it, of which the residual is told.

    Per head, with k the key of a frame and q its query, both of unit length:
        C_t = C_{t-1} + k k'        novelty_t = r q' (C_{t-1} + r)^-1 q = 1 - q' C_{t-1} (C_{t-1} + r)^-1 q
    between 0, for what was seen many times, and 1, for what is at right angles to all that was seen. Each head's r,
    LEAST_RIDGE + exp(log_ridge), is learned. What the layer gives is a linear map of few numbers: each head's novelty
    and its logarithm, and the load, log(1 + frames so far).

    C is a sum, so the order of frames does not matter and study is one product of matrices. Frames that are read on
    the way are done chunk by chunk, with two Cholesky factors a chunk. All of it in float32.
    """

    chunk = 128  # frames at a time; changes speed, memory and rounding only

    class Config(MixerConfig):
        residual: bool = False
        n_heads: Count = 1
        d_key: Count | None = None  # K, d_embed if not given
        ridge: float = Field(0.1, gt=LEAST_RIDGE)  # r at the start
        tie_qk: bool = True  # one projection for keys and queries; if not, two that start equal

    def __init__(self, config: Config):
        super().__init__()
        self.num_heads, self.d_key = config.n_heads, config.d_key or config.d_embed
        width = self.num_heads * self.d_key
        self.key = nn.Linear(config.d_embed, width, bias=False)
        nn.init.orthogonal_(self.key.weight)
        if config.match_init and width <= config.d_embed:
            nn.init.eye_(self.key.weight)
        self.query = None if config.tie_qk else nn.Linear(config.d_embed, width, bias=False)
        if self.query is not None:
            self.query.load_state_dict(self.key.state_dict())
        self.log_ridge = nn.Parameter(torch.full((self.num_heads,), math.log(config.ridge - LEAST_RIDGE)))
        self.output = nn.Linear(2 * self.num_heads + 1, config.d_embed)

    def forward(self, x: Tensor, num_last: int | None = None) -> Tensor:
        """x (B, T, M) to (B, T, M), or to the last `num_last` frames alone. A frame is read before it is added."""
        num_seen = 0 if num_last is None else x.shape[1] - num_last
        seen, x = x.split([num_seen, x.shape[1] - num_seen], 1)
        return self._in_turn(x, self._add(seen, self.start(len(x))))[0]

    def study(self, x: Tensor, ends: Sequence[int], is_read: bool = True) -> tuple[Tensor | None, list[State]]:
        states = [self.start(len(x))]
        for first, end in pairwise([0, *ends]):
            states.append(self._add(x[:, first:end], states[-1]))
        return self(x) if is_read else None, states[1:]

    def read(self, queries: Tensor, state: State) -> Tensor:
        gram, num_frames = state
        with torch.autocast(queries.device.type, enabled=False):
            q = self._unit(queries, self.query or self.key)  # (B, H, Q, K)
            energy = _whiten(self._with_ridge(gram), q).square().sum(2)  # (B, H, Q)
            return self._tell(energy, num_frames + torch.zeros(q.shape[2], dtype=torch.int64, device=q.device))

    def start(self, num_rows: int) -> State:
        gram = self.key.weight.new_zeros(num_rows, self.num_heads, self.d_key, self.d_key)
        return gram, torch.zeros((), dtype=torch.int64, device=gram.device)

    def step(self, x: Tensor, state: State, is_read: bool = True) -> tuple[Tensor | None, State]:
        return self._in_turn(x, state) if is_read else (None, self._add(x, state))

    def state_size(self, num_frames: int) -> int:
        """Floats kept from study to probe: a symmetric K x K matrix a head, and the number of frames."""
        return self.num_heads * self.d_key * (self.d_key + 1) // 2 + 1

    def _add(self, x: Tensor, state: State) -> State:
        """The state after frames (B, T, M) that are not read."""
        with torch.autocast(x.device.type, enabled=False):
            keys = self._unit(x, self.key)
            return state[0] + keys.mT @ keys, state[1] + x.shape[1]

    def _in_turn(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Each frame read, then added: (B, T, M) to (B, T, M), and the state after them."""
        gram, num_frames = state
        with torch.autocast(x.device.type, enabled=False):
            keys = self._unit(x, self.key)  # (B, H, T, K)
            queries = keys if self.query is None else self._unit(x, self.query)
            energies = []
            for k, q in zip(keys.split(self.chunk, 2), queries.split(self.chunk, 2), strict=True):
                energies.append(_energy_in_turn(q, k, self._with_ridge(gram)))
                gram = gram + k.mT @ k
            y = self._tell(torch.cat(energies, 2), num_frames + torch.arange(x.shape[1], device=x.device))
        return y, (gram, num_frames + x.shape[1])

    def _ridge(self) -> Tensor:
        return LEAST_RIDGE + torch.exp(self.log_ridge)[:, None]  # (H, 1)

    def _with_ridge(self, gram: Tensor) -> Tensor:
        """C + r: (B, H, K, K)."""
        return gram + torch.diag_embed(self._ridge().expand(-1, self.d_key))

    def _unit(self, x: Tensor, projection: nn.Linear) -> Tensor:
        """Keys or queries, of unit length: (B, T, M) to (B, H, T, K)."""
        projected = projection(at_least_float32(x)).unflatten(2, (self.num_heads, self.d_key))
        return F.normalize(projected, dim=3).transpose(1, 2)

    def _tell(self, energy: Tensor, num_frames: Tensor) -> Tensor:
        """q' (C + r)^-1 q (B, H, Q), each after as many frames as `num_frames` (Q,) says, to (B, Q, M)."""
        ridge, num_frames = self._ridge(), num_frames.to(energy.dtype)
        # No key is longer than one, so no novelty is below r / (n + r); half of that is rounding, which has no log.
        novelty = torch.maximum(ridge * energy, ridge / (num_frames + ridge) / 2)
        load = torch.log1p(num_frames).expand(len(energy), 1, -1)
        return self.output(torch.cat([novelty, novelty.log(), load], 1).transpose(1, 2))


def _whiten(matrix: Tensor, x: Tensor) -> Tensor:
    """L^-1 x', with LL' the positive definite matrix (..., K, K): x (..., Q, K) to (..., K, Q).

    Where it is not, as when a feature is not finite, all is nan, by which training and evaluation know what to say.
    """
    factor, is_failed = torch.linalg.cholesky_ex(matrix)
    factor = factor.masked_fill(is_failed.bool()[..., None, None], torch.nan)
    return torch.linalg.solve_triangular(factor, x.mT, upper=False)


def _energy_in_turn(q: Tensor, k: Tensor, matrix: Tensor) -> Tensor:
    """q_t' (matrix + sum of k_s k_s' over s < t)^-1 q_t for all t: q, k (B, H, L, K), matrix (B, H, K, K) to (B, H, L).

    By Woodbury's identity, with p = matrix^-1 and G the L x L matrix 1 + k p k', this is q_t' p q_t less the squared
    length of the first t - 1 entries of L^-1 (k p q_t), where G = LL'. Forward substitution finds those of the first
    t - 1 rows alone, so one factor serves all t.
    """
    k, q = _whiten(matrix, torch.cat([k, q], 2)).chunk(2, 3)  # (B, H, K, L)
    among_keys = torch.eye(k.shape[3], dtype=k.dtype, device=k.device) + k.mT @ k
    explained = _whiten(among_keys, q.mT @ k)  # (B, H, L of keys, L of queries)
    return q.square().sum(2) - explained.triu(1).square().sum(2)
