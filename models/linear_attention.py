"""Causal linear attention with decay, chunk by chunk: the core that mLSTM and Mamba2 share.

Shapes: B episodes, H heads, T frames, K key width, V value width, N chunks, L frames a chunk.
"""

import torch
from torch import Tensor


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    log_input: Tensor | None = None,
    num_last: int | None = None,
    chunk_size: int = 128,
) -> tuple[Tensor, Tensor]:
    """Read a state S_t = exp(log_decay_t) S_{t-1} + exp(log_input_t) k_t v_t^T with queries: y_t = S_t^T q_t.

    Equal to y_t = sum over s <= t of exp(b_t - b_s + log_input_s) (q_t . k_s) v_s with b the running sum of log_decay.
    Within a chunk the sum is a masked product of matrices, between chunks the state is carried, so time and memory
    grow linearly with T. The input weights may be enormous (mLSTM's are exponentials of what it reads), so results are
    returned divided by exp(m), where m is the running maximum of the exponents.

    Args:
        q, k: (B, H or 1, T, K), float32. One head is shared by all.
        v: (B, H, T, V).
        log_decay: (B, H, T), at most 0.
        log_input: (B, H, T), or None for 0.
        num_last: compute y for the last `num_last` frames only; all if None.
        chunk_size: L. Changes speed and rounding only.

    Returns:
        y exp(-m), (B, H, num_last, V), and m, (B, H, num_last). m is a constant to autograd: what is computed from
        y exp(-m) and m together must not depend on the choice of m. Without log_input, m is 0.

    Sources: Beck et al. (2024), "xLSTM", arXiv:2405.04517, appendix A.3; Dao and Gu (2024), "Transformers are SSMs",
    arXiv:2405.21060, section 6.
    """
    num_frames = v.shape[2]
    num_last = num_frames if num_last is None else num_last
    padding = -num_frames % chunk_size  # at the end, where a causal sum does not look

    def chunks(x: Tensor) -> Tensor:  # (B, H, T, ...) -> (B, H, N, L, ...)
        pad = (0, 0, 0, padding) if x.ndim == 4 else (0, padding)
        return torch.nn.functional.pad(x, pad).unflatten(2, (-1, chunk_size))

    q, k, v, log_decay = chunks(q), chunks(k), chunks(v), chunks(log_decay)
    is_stabilised = log_input is not None
    log_input = chunks(log_input) if is_stabilised else torch.zeros_like(log_decay)
    decay = log_decay.cumsum(-1)  # (B, H, N, L), from the chunk's start to each frame inclusive
    total = decay[..., -1]  # (B, H, N)
    to_end = total[..., None] - decay + log_input  # (B, H, N, L), weight of a frame in the state at the chunk's end

    first = (num_frames - num_last) // chunk_size  # the first chunk that is read
    state, log_scale = _states(k, v, total, to_end, first, is_stabilised)

    q, k, v, decay, log_input = (x[:, :, first:] for x in (q, k, v, decay, log_input))
    within = decay[..., :, None] - decay[..., None, :] + log_input[..., None, :]  # (B, H, N, L, L)
    is_past = torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=q.device).tril()
    within = within.masked_fill(~is_past, -torch.inf)
    before = decay + log_scale[..., None]  # (B, H, N, L)
    m = torch.maximum(within.detach().amax(-1), before.detach()) if is_stabilised else torch.zeros_like(before)
    weights = (q @ k.transpose(-1, -2)) * torch.exp(within - m[..., None])  # (B, H, N, L, L)
    y = weights @ v + torch.exp(before - m)[..., None] * (q @ state)  # (B, H, N, L, V)

    skipped = num_frames - num_last - first * chunk_size
    return tuple(x.flatten(2, 3)[:, :, skipped : skipped + num_last] for x in (y, m))


def _states(
    k: Tensor, v: Tensor, total: Tensor, to_end: Tensor, first: int, is_stabilised: bool
) -> tuple[Tensor, Tensor]:
    """The state before each chunk from `first` on, (B, H, N, K, V), divided by exp(log_scale), (B, H, N)."""
    peak = to_end.detach().amax(-1) if is_stabilised else torch.zeros_like(total)
    gain = k.transpose(-1, -2) @ (v * torch.exp(to_end - peak[..., None])[..., None])  # (B, H, N, K, V)
    state = torch.zeros_like(gain[:, :, 0])
    log_scale = torch.zeros_like(total[:, :, 0])
    states, log_scales = [], []
    # Not gain[:, :, n]: the gradient of each index would fill a tensor of the size of all.
    for n, (gain, total, peak) in enumerate(zip(*(x.unbind(2) for x in (gain, total, peak)), strict=True)):
        if n >= first:
            states.append(state)
            log_scales.append(log_scale)
        carried = log_scale + total
        log_scale = torch.maximum(carried.detach(), peak) if is_stabilised else log_scale
        keep, add = torch.exp(carried - log_scale), torch.exp(peak - log_scale)
        state = keep[..., None, None] * state + add[..., None, None] * gain
    return torch.stack(states, 2), torch.stack(log_scales, 2)
