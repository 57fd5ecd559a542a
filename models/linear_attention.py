"""Causal linear attention with decay, chunk by chunk: the core that mLSTM and Mamba2 share.

On a GPU its many small operations can go through torch.compile: GPU_PATHS=all, see models/gpu_paths.py.

Shapes: B episodes, H heads, T frames, K key width, V value width, N chunks, L frames a chunk.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from models.gpu_paths import GPUPath

BACKEND = "inductor"

_path = GPUPath("Linear attention runs as it is written, not compiled", level="all", compiles=True)

State = tuple[Tensor, Tensor]  # the memory divided by exp(scale), (B, H, K, V), and the scale, (B, H)


def in_segments(
    project: Callable,
    step: Callable,
    x: Tensor,
    num_last: int | None,
    size: int,
    ends: Sequence[int] = (),
    state: Any = None,
) -> tuple[Tensor, list[Any]]:
    """Run a causal layer over up to `size` frames at a time: x (B, T, M) to (B, num_last, M), and its states after the
    first n frames for each n of `ends`, ascending.

    `step(project(x), num_last, state) -> (y, state)` does one segment; the first gets `state`, None for nothing.
    Gradients keep the projected inputs of each segment alone and compute the step again, which is cheap beside the
    projection: so memory grows little with T, and caches serve better.
    """
    num_frames = x.shape[1]
    num_unread = 0 if num_last is None else num_frames - num_last
    marks = sorted({*range(size, num_frames, size), *ends, num_frames})
    outputs, states = [], {}
    for first, stop in itertools.pairwise([0, *marks]):
        num_read = min(max(stop - num_unread, 0), stop - first)
        projected = project(x[:, first:stop])
        if torch.is_grad_enabled() and num_frames > size:
            y, state = checkpoint(step, projected, num_read, state, use_reentrant=False, preserve_rng_state=False)
        else:
            y, state = step(projected, num_read, state)
        outputs.append(y)
        states[stop] = state
    return torch.cat(outputs, 1), [states[end] for end in ends]


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 if it is of half precision; float64, in which references are computed, stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    """Convolve every channel with the K - 1 frames before it: x (B, T, C), weight (C, 1, K) and bias (C,) to (B, T, C).

    `past` (B, K - 1, C) holds the frames before x, None for zeros; the one for the next frames is returned too.
    """
    num_frames, num_past = x.shape[1], weight.shape[2] - 1
    x = F.pad(x, (0, 0, num_past, 0)) if past is None else torch.cat([past, x], 1)
    return _Conv1d.apply(x, weight[:, 0], bias), x[:, num_frames:].clone()  # a view would keep all of x


def conv1d_next(x: Tensor, weight: Tensor, bias: Tensor, past: Tensor) -> Tensor:
    """What `causal_conv1d` makes of each frame of x (B, Q, C) if it alone came next, after `past` (B, K - 1, C)."""
    before = torch.einsum("bkc,ck->bc", past, weight[:, 0, :-1].to(past.dtype))
    return torch.addcmul(before[:, None] + bias, x, weight[:, 0, -1])


class _Conv1d(torch.autograd.Function):
    """A sum of K shifted products: x (B, K - 1 + T, C), weight (C, K) and bias (C,) to (B, T, C).

    torch's conv1d takes three times as long backwards, and gradients of K slices of x would each be as large as x.
    Under autocast x is of half precision and the weights, so y and all sums, of full.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        num_taps = weight.shape[1]
        num_frames = x.shape[1] - num_taps + 1
        y = torch.addcmul(bias, x[:, :num_frames], weight[:, 0])
        for k in range(1, num_taps):
            y.addcmul_(x[:, k : k + num_frames], weight[:, k])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        exact = x.to(d_y.dtype)
        d_x, d_weight, num_frames = torch.zeros_like(exact), torch.empty_like(weight), d_y.shape[1]
        for k in range(weight.shape[1]):
            frames = slice(k, k + num_frames)
            d_x[:, frames].addcmul_(d_y, weight[:, k])
            d_weight[:, k] = torch.linalg.vecdot(exact[:, frames].flatten(0, 1), d_y.flatten(0, 1), dim=0)
        return d_x.to(x.dtype), d_weight, d_y.sum((0, 1))


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    log_input: Tensor,
    num_last: int | None = None,
    state: State | None = None,
    chunk_size: int = 128,
    is_stabilised: bool = True,
    is_written: bool = True,
) -> tuple[Tensor, Tensor, State]:
    """Read a state S_t = exp(log_decay_t) S_{t-1} + exp(log_input_t) k_t v_t^T with queries: y_t = S_t^T q_t.

    Equal to y_t = sum over s <= t of exp(b_t - b_s + log_input_s) (q_t . k_s) v_s with b the running sum of log_decay.
    Within a chunk the sum is a masked product of matrices, between chunks the state is carried, so time and memory
    grow linearly with T. The input weights may be enormous (mLSTM's are exponentials of what it reads), so results are
    returned divided by exp(m), where m is the running maximum of the exponents.

    Args:
        q, k: (B, H or 1, T, K), float32. One head is shared by all.
        v: (B, H, T, V).
        log_decay: (B, H, T), at most 0.
        log_input: (B, H, T).
        num_last: compute y for the last `num_last` frames only; all if None.
        state: what earlier frames left, None for nothing.
        chunk_size: L. Changes speed and rounding only.
        is_stabilised: False where input weights cannot be enormous: nothing is divided, m is 0.
        is_written: whether a frame is read after it was written; if not, y_t = exp(log_decay_t) S_{t-1}^T q_t.

    Returns:
        y exp(-m), (B, H, num_last, V); m, (B, H, num_last); and the state after the last frame. m is a constant to
        autograd: what is computed from y exp(-m) and m together must not depend on the choice of m.

    Sources: Beck et al. (2024), "xLSTM", arXiv:2405.04517, appendix A.3; Dao and Gu (2024), "Transformers are SSMs",
    arXiv:2405.21060, section 6.
    """
    num_last = v.shape[2] if num_last is None else num_last
    sizes = [v.shape[2] - num_last, num_last]
    if state is None:
        state = v.new_zeros(*v.shape[:2], k.shape[3], v.shape[3]), v.new_zeros(v.shape[:2])
    (k_before, k), (v_before, v), (decay_before, log_decay), (input_before, log_input) = (
        x.split(sizes, 2) for x in (k, v, log_decay, log_input)
    )
    if sizes[0]:  # not read: one chunk, however long, of which the state alone is wanted
        after = decay_before.flip(2).cumsum(2).flip(2)  # (B, H, T), sums from a frame on
        to_end = F.pad(after[..., 1:], (0, 1)) + input_before
        gain, peak = _gain(k_before, v_before, to_end, is_stabilised)
        state = _advance(*state, after[..., 0], gain, peak, is_stabilised)
    if num_last == 0:
        return v, log_decay, state
    if num_last == 1:
        return _read_one(q[:, :, sizes[0] :], k, v, log_decay, log_input, state, is_stabilised, is_written)
    args = q[:, :, sizes[0] :], k, v, log_decay, log_input, *state, chunk_size, is_stabilised, is_written
    y, m, memory, log_scale = _path(_read_compiled, _read, args)
    return y, m, (memory, log_scale)


def read_next(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, log_input: Tensor, state: State, is_written: bool = True
) -> tuple[Tensor, Tensor]:
    """What each frame reads if it alone came next, after `state`: as `gated_linear_attention`, y exp(-m) and m."""
    memory, log_scale = state
    before = log_decay + log_scale[..., None]  # (B, H, Q)
    if not is_written:
        return q @ memory, before
    m = torch.maximum(before, log_input).detach()
    own = torch.exp(log_input - m) * torch.linalg.vecdot(q, k)
    return torch.exp(before - m)[..., None] * (q @ memory) + own[..., None] * v, m


def _read_one(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    log_input: Tensor,
    state: State,
    is_stabilised: bool,
    is_written: bool,
) -> tuple[Tensor, Tensor, State]:
    """The recurrence itself, for a frame that comes alone: a chunk would be filled up with frames that are none."""
    y, m = read_next(q, k, v, log_decay, log_input, state, is_written)
    if not is_stabilised:
        y, m = torch.exp(m)[..., None] * y, torch.zeros_like(m)
    state = _advance(*state, log_decay[..., 0], *_gain(k, v, log_input, is_stabilised), is_stabilised)
    return y, m, state


def _read(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    log_input: Tensor,
    memory: Tensor,
    log_scale: Tensor,
    chunk_size: int,
    is_stabilised: bool,
    is_written: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y exp(-m) and m of all frames, and the state after them."""
    num_frames = v.shape[2]
    padding = -num_frames % chunk_size  # at the end; no decay and no gain leave the state as it is

    def chunks(x: Tensor, value: float = 0.0) -> Tensor:  # (B, H, T, ...) -> (B, H, N, L, ...)
        if padding:
            x = F.pad(x, (0, 0, 0, padding) if x.ndim == 4 else (0, padding), value=value)
        return x.unflatten(2, (-1, chunk_size))

    q, k, v, log_decay, log_input = chunks(q), chunks(k), chunks(v), chunks(log_decay), chunks(log_input, -torch.inf)
    decay = log_decay.cumsum(-1)  # (B, H, N, L), from the chunk's start to each frame inclusive
    total = decay[..., -1]  # (B, H, N)
    to_end = total[..., None] - decay + log_input  # (B, H, N, L), weight of a frame in the state at the chunk's end
    gain, peak = _gain(k, v, to_end, is_stabilised)

    states = [(memory, log_scale)]
    # Not gain[:, :, n]: the gradient of each index would fill a tensor of the size of all.
    for of_chunk in zip(total.unbind(2), gain.unbind(2), peak.unbind(2), strict=True):
        states.append(_advance(*states[-1], *of_chunk, is_stabilised))
    *earlier, last = states
    memory, log_scale = (torch.stack(x, 2) for x in zip(*earlier, strict=True))  # (B, H, N, K, V), (B, H, N)

    # In this order: differences of decays are small where the sums are large.
    within = decay[..., :, None] - decay[..., None, :] + log_input[..., None, :]  # (B, H, N, L, L)
    is_past = torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=q.device)
    is_past = is_past.tril(0 if is_written else -1)
    within = within.masked_fill(~is_past, -torch.inf)
    before = decay + log_scale[..., None]  # (B, H, N, L)
    if is_stabilised:
        m = torch.maximum(within.detach().amax(-1), before.detach())
        within, before = within - m[..., None], before - m
    else:
        m = torch.zeros_like(before)
    y = ((q @ k.transpose(-1, -2)) * torch.exp(within)) @ v  # (B, H, N, L, V)
    y = y + (q * torch.exp(before)[..., None]) @ memory
    return y.flatten(2, 3)[:, :, :num_frames], m.flatten(2, 3)[:, :, :num_frames], *last


def _read_compiled(*args: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _compile_read(BACKEND)(*args)


@functools.cache
def _compile_read(backend: str) -> Callable:
    """`_read` compiled at its first call for each kind of inputs.

    Each kind has code of its own, so that a checkpoint that computes again keeps what was kept before.
    """
    return torch.compile(_read, backend=backend, fullgraph=True, dynamic=False)


def _gain(k: Tensor, v: Tensor, to_end: Tensor, is_stabilised: bool) -> tuple[Tensor, Tensor]:
    """What frames add to the state, (..., K, V), divided by exp(peak), (...): weights are exp(to_end), (..., L)."""
    peak = to_end.detach().amax(-1) if is_stabilised else torch.zeros_like(to_end[..., 0])
    return k.transpose(-1, -2) @ (v * torch.exp(to_end - peak[..., None])[..., None]), peak


def _advance(
    memory: Tensor, log_scale: Tensor, total: Tensor, gain: Tensor, peak: Tensor, is_stabilised: bool
) -> State:
    """The state after frames with this total decay and gain."""
    if not is_stabilised:
        return torch.exp(total)[..., None, None] * memory + gain, log_scale
    carried = log_scale + total
    log_scale = torch.maximum(carried.detach(), peak)
    keep, add = torch.exp(carried - log_scale), torch.exp(peak - log_scale)
    return keep[..., None, None] * memory + add[..., None, None] * gain, log_scale
