"""The recurrence of ur_lstm.py compiled for the CPU by numba, forwards and backwards, in float32.

Lay this file beside ur_lstm.py; nothing else is needed but numba. `scan` gives what `URLSTMCell.scan` gives.

Shapes: B sequences, T steps, I inputs, H hidden units; gates in the order r, f, u, o as in ur_lstm.py.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

# Where 4H or I + H is more, every step multiplies all sequences at once by torch's BLAS.
MAX_ROW = 1024
# Steps whose pre-activations have their gradients in memory at once. Without BLAS they have to fit into the cache.
PIECE, BLAS_PIECE = 64, 1024

# No flag here lets the compiler assume that numbers are finite: a NaN that comes in has to come out.
# The kernels compile in some seconds. They are kept on disk only where numba has been told of a folder for that, as an
# installation may be read-only.
_compile: Callable[[Callable], Callable] = njit(
    nogil=True,
    error_model="numpy",
    fastmath={"contract", "arcp", "nsz"},
    cache=bool(os.environ.get("NUMBA_CACHE_DIR")),
)
ONE, TWO = np.float32(1), np.float32(2)
LINE = 16  # numbers in a cache line
# Numbers from row to row of `_four_rows`: a page and a quarter, so that rows of up to 256 share no set of the L1 cache.
# Where they do, products take more than twice as long at some addresses, and so in some processes.
ROW = 1280


def scan(
    x: Tensor, weight_ih: Tensor, bias: Tensor, weight_hh: Tensor, h: Tensor, c: Tensor, refine: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps: x (B, T, I) and a state, each (B, H), to outputs (B, T, H) and the last h and c.

    `bias` (4H,) includes the one that sets the first gates. As many threads as torch uses share the sequences.
    """
    return _Scan.apply(x, weight_ih, bias, weight_hh, h, c, refine)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_ih: Tensor,
        bias: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        c0: Tensor,
        refine: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if torch.is_autocast_enabled("cpu"):
            rounded = torch.get_autocast_dtype("cpu")
            x, weight_ih = x.to(rounded), weight_ih.to(rounded)
        x, weight_ih = x.float().contiguous(), weight_ih.float()
        (num_sequences, num_steps, num_inputs), width = x.shape, h0.shape[1]
        gates, hs, cs = (_empty(num_sequences, num_steps, size * width) for size in (4, 1, 1))
        h0, c0, w_ih, w_hh = h0.contiguous(), c0.contiguous(), weight_ih.T.contiguous(), weight_hh.T.contiguous()
        ctx.is_narrow = max(4 * width, num_inputs + width) <= MAX_ROW
        if ctx.is_narrow:
            arrays = _arrays(x, w_ih, w_hh, bias, h0, c0, gates, hs, cs)
            _share(_forward, *arrays, refine, num_sequences=num_sequences)
        else:
            torch.mm(x.flatten(0, 1), w_ih, out=gates.flatten(0, 1))
            arrays = _arrays(bias, c0, gates, hs, cs)
            for t, (gate, h) in enumerate(zip(gates.unbind(1), [h0, *hs.unbind(1)], strict=False)):
                gate.addmm_(h, w_hh)
                _forward_step(*arrays, refine, t)
        ctx.save_for_backward(x, weight_ih, weight_hh, h0, c0, gates, hs, cs)
        ctx.refine = refine
        return hs, hs[:, -1].clone(), cs[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hs: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, h0, c0, gates, hs, cs = ctx.saved_tensors
        (num_sequences, num_steps, width), num_inputs = hs.shape, x.shape[2]
        d_hs, d_h, d_c = d_hs.contiguous(), d_h.clone(), d_c.clone()
        d_x = _empty(num_sequences, num_steps, num_inputs if ctx.needs_input_grad[0] else 0)
        if ctx.is_narrow:
            w = torch.cat([weight_ih[:, : d_x.shape[2]], weight_hh], 1)
            arrays = _arrays(x, w, h0, hs, d_x, gates, c0, cs, d_hs, d_h, d_c)
            d_weights = sum(_share(_backward, *arrays, ctx.refine, PIECE, num_sequences=num_sequences))
            d_weight_ih, d_weight_hh, d_bias = torch.from_numpy(d_weights).T.split([num_inputs, width, 1], 1)
            d_bias = d_bias[:, 0]
        else:
            d_weight_ih, d_weight_hh, d_bias = (torch.zeros(4 * width, *size) for size in ([num_inputs], [width], []))
            for stop in range(num_steps, 0, -BLAS_PIECE):
                start = max(0, stop - BLAS_PIECE)
                d_gates = _empty(num_sequences, stop - start, 4 * width)
                arrays = _arrays(gates, c0, cs, d_hs, d_h, d_c, d_gates)
                for t in range(stop - 1, start - 1, -1):
                    _backward_step(*arrays, ctx.refine, t, start)
                    torch.mm(d_gates[:, t - start], weight_hh, out=d_h)
                d_weight_ih.addbmm_(d_gates.mT, x[:, start:stop])
                d_weight_hh.addmm_(d_gates[:, 0].T, hs[:, start - 1] if start else h0)
                d_weight_hh.addbmm_(d_gates[:, 1:].mT, hs[:, start : stop - 1])
                d_bias += d_gates.sum((0, 1))
                if ctx.needs_input_grad[0]:
                    torch.bmm(d_gates, weight_ih.expand(num_sequences, -1, -1), out=d_x[:, start:stop])
        return d_x if ctx.needs_input_grad[0] else None, d_weight_ih, d_bias, d_weight_hh, d_h, d_c, None


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    """The tensors' memory, for kernels to read and write."""
    return [y.detach().numpy() for y in tensors]


def _empty(*shape: int) -> Tensor:
    """Memory by numpy, which asks for huge pages: otherwise a tenth of the time would go into mapping small ones."""
    return torch.from_numpy(np.empty(shape, np.float32))


def _share(kernel: Callable, *args: object, num_sequences: int) -> list:
    """Run the kernel on all sequences, shared among as many threads as torch uses; returns what each returned."""
    num_threads = min(torch.get_num_threads(), num_sequences)
    cuts = [num_sequences * k // num_threads for k in range(num_threads + 1)]
    if num_threads == 1:
        return [kernel(*args, *cuts)]
    return list(
        _threads(os.getpid(), num_threads).map(lambda k: kernel(*args, cuts[k], cuts[k + 1]), range(num_threads))
    )


@functools.cache
def _threads(process_id: int, num_threads: int) -> ThreadPoolExecutor:
    """Threads of this process: a forked one inherits none and starts its own."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="ur_lstm")


@_compile
def _expm1(x):
    """exp(x) - 1 to 2e-7 of itself, in operations that compilers turn into vector instructions.

    x = n ln 2 + r with |r| <= ln 2 / 2, so exp(x) - 1 = 2^n (exp(r) - 1) + 2^n - 1; the polynomial is that of the
    Cephes library.
    """
    x = np.float32(-87) if x < np.float32(-87) else x  # a NaN stays one
    x = np.float32(87) if x > np.float32(87) else x
    n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
    r = x - n * np.float32(0.693147181)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r
    power = np.int32((np.int32(n) + 127) << 23).view(np.float32)  # 2^n, written into the exponent's bits
    return power * p + (power - ONE)


@_compile
def _sigmoid(x):
    return ONE / (TWO + _expm1(-x))


@_compile
def _tanh(x):
    e = _expm1(x + x)
    return e / (e + TWO)


@_compile
def _quarters(row):
    width = len(row) // 4
    return row[:width], row[width : 2 * width], row[2 * width : 3 * width], row[3 * width :]


@_compile
def _four_rows():
    """Four rows in one array, ROW apart and each at the start of a cache line."""
    memory = np.empty(4 * ROW + LINE, np.float32)
    start = -memory.ctypes.data // memory.itemsize % LINE
    return memory[start : start + 4 * ROW]


@_compile
def _add_product(sums, p, q, r, s, m):
    """Add to the four rows of `sums`: p @ m, q @ m, r @ m and s @ m, each vector (K,) by m (K, N).

    Four vectors meet four rows of m at a time: their 16 numbers stay in registers, and each number read from memory is
    used four times.
    """
    for k in range(0, len(m) // 4 * 4, 4):
        m0, m1, m2, m3 = m[k], m[k + 1], m[k + 2], m[k + 3]
        p0, p1, p2, p3 = p[k], p[k + 1], p[k + 2], p[k + 3]
        q0, q1, q2, q3 = q[k], q[k + 1], q[k + 2], q[k + 3]
        r0, r1, r2, r3 = r[k], r[k + 1], r[k + 2], r[k + 3]
        s0, s1, s2, s3 = s[k], s[k + 1], s[k + 2], s[k + 3]
        for j in range(m.shape[1]):
            y0, y1, y2, y3 = m0[j], m1[j], m2[j], m3[j]
            sums[j] = (((sums[j] + p0 * y0) + p1 * y1) + p2 * y2) + p3 * y3
            sums[ROW + j] = (((sums[ROW + j] + q0 * y0) + q1 * y1) + q2 * y2) + q3 * y3
            sums[2 * ROW + j] = (((sums[2 * ROW + j] + r0 * y0) + r1 * y1) + r2 * y2) + r3 * y3
            sums[3 * ROW + j] = (((sums[3 * ROW + j] + s0 * y0) + s1 * y1) + s2 * y2) + s3 * y3
    for k in range(len(m) // 4 * 4, len(m)):
        for j in range(m.shape[1]):
            y = m[k, j]
            sums[j] += p[k] * y
            sums[ROW + j] += q[k] * y
            sums[2 * ROW + j] += r[k] * y
            sums[3 * ROW + j] += s[k] * y


@_compile
def _gates(sums, before, gates, c, h, refine):
    """One sequence, one step: pre-activations (4H) and the cell before to the gates, the cell and the output."""
    r_sum, f_sum, u_sum, o_sum = _quarters(sums)
    r, f, u, o = _quarters(gates)
    for i in range(len(c)):
        ri, fi, ui, oi = _sigmoid(r_sum[i]), _sigmoid(f_sum[i]), _tanh(u_sum[i]), _sigmoid(o_sum[i])
        g = TWO * ri * fi + (ONE - TWO * ri) * fi * fi if refine else fi
        ci = ui + g * (before[i] - ui)
        r[i], f[i], u[i], o[i], c[i] = ri, fi, ui, oi, ci
        h[i] = oi * _tanh(ci)


@_compile
def _gate_gradients(gates, before, c, d_out, d_h, d_c, d_gates, refine):
    """Gradients of one sequence's pre-activations at one step, and d_c of the cell before it in place."""
    r, f, u, o = _quarters(gates)
    d_r, d_f, d_u, d_o = _quarters(d_gates)
    for i in range(len(c)):
        ri, fi, ui, oi, tanh_c = r[i], f[i], u[i], o[i], _tanh(c[i])
        g = TWO * ri * fi + (ONE - TWO * ri) * fi * fi if refine else fi
        d_h_i = d_h[i] + d_out[i]
        d_c_i = d_c[i] + d_h_i * oi * (ONE - tanh_c * tanh_c)
        d_c[i] = d_c_i * g
        d_logit = d_c_i * (before[i] - ui) * fi * (ONE - fi)
        d_r[i] = TWO * d_logit * ri * (ONE - ri) if refine else np.float32(0)
        d_f[i] = TWO * d_logit * (ri + (ONE - TWO * ri) * fi) if refine else d_logit
        d_u[i] = d_c_i * (ONE - g) * (ONE - ui * ui)
        d_o[i] = d_h_i * tanh_c * oi * (ONE - oi)


@_compile
def _forward(x, w_ih, w_hh, bias, h0, c0, gates, hs, cs, refine, first, last):
    """All steps of sequences `first` to `last`: sets gates, hs and cs. Weights are transposed, (I, 4H) and (H, 4H).

    Four sequences go together; where fewer are left the last one stands in for the missing.
    """
    sums, size = _four_rows(), len(bias)
    for t in range(x.shape[1]):
        for b in range(first, last, 4):
            b1, b2, b3 = min(b + 1, last - 1), min(b + 2, last - 1), min(b + 3, last - 1)
            for row in range(0, 4 * ROW, ROW):
                for j in range(size):
                    sums[row + j] = bias[j]
            _add_product(sums, x[b, t], x[b1, t], x[b2, t], x[b3, t], w_ih)
            if t:
                _add_product(sums, hs[b, t - 1], hs[b1, t - 1], hs[b2, t - 1], hs[b3, t - 1], w_hh)
            else:
                _add_product(sums, h0[b], h0[b1], h0[b2], h0[b3], w_hh)
            for q in range(min(4, last - b)):
                before = cs[b + q, t - 1] if t else c0[b + q]
                _gates(sums[q * ROW : q * ROW + size], before, gates[b + q, t], cs[b + q, t], hs[b + q, t], refine)


@_compile
def _forward_step(bias, c0, gates, hs, cs, refine, t):
    """Step t of all sequences: pre-activations in `gates`, still without bias, become the gates; hs and cs are set."""
    for b in range(len(c0)):
        before = cs[b, t - 1] if t else c0[b]
        _gates(gates[b, t] + bias, before, gates[b, t], cs[b, t], hs[b, t], refine)


@_compile
def _backward(x, w, h0, hs, d_x, gates, c0, cs, d_hs, d_h, d_c, refine, piece, first, last):
    """All steps of sequences `first` to `last` backwards: sets d_x (B, T, I or 0); the gradients of the state after
    the last step, d_h and d_c (B, H), become those of the state before the first.

    w (4H, I or 0, and H) are the weights side by side. Returns their gradients, and the bias', (I + H + 1, 4H).
    """
    sums, count = _four_rows(), last - first
    width, num_inputs, num_d_x = c0.shape[1], x.shape[2], d_x.shape[2]
    d_weights = np.zeros((num_inputs + width + 1, 4 * width), np.float32)
    read = np.ones((piece, len(d_weights)), np.float32)  # x, h and 1: what the weights and the bias are multiplied by
    d_gates = np.empty((count, piece, 4 * width), np.float32)
    for stop in range(x.shape[1], 0, -piece):
        start = max(0, stop - piece)
        for t in range(stop - 1, start - 1, -1):
            k = t - start
            for b in range(first, last):
                before, d_gate = cs[b, t - 1] if t else c0[b], d_gates[b - first, k]
                _gate_gradients(gates[b, t], before, cs[b, t], d_hs[b, t], d_h[b], d_c[b], d_gate, refine)
            for b in range(0, count, 4):
                b1, b2, b3 = min(b + 1, count - 1), min(b + 2, count - 1), min(b + 3, count - 1)
                for row in range(0, 4 * ROW, ROW):
                    for j in range(w.shape[1]):
                        sums[row + j] = 0
                _add_product(sums, d_gates[b, k], d_gates[b1, k], d_gates[b2, k], d_gates[b3, k], w)
                for q in range(min(4, count - b)):
                    for j in range(num_d_x):
                        d_x[first + b + q, t, j] = sums[q * ROW + j]
                    for j in range(width):
                        d_h[first + b + q, j] = sums[q * ROW + num_d_x + j]
        for b in range(first, last):
            for t in range(start, stop):
                before = hs[b, t - 1] if t else h0[b]
                for j in range(num_inputs):
                    read[t - start, j] = x[b, t, j]
                for j in range(width):
                    read[t - start, num_inputs + j] = before[j]
            _add_weight_gradients(d_weights, read[: stop - start].T, d_gates[b - first, : stop - start], sums)
    return d_weights


@_compile
def _add_weight_gradients(d_weights, read, d_gates, sums):
    """d_weights (N, 4H) += read (N, K) @ d_gates (K, 4H), four rows at a time; the last may be done more than once."""
    num_rows, size = d_weights.shape
    for i in range(0, num_rows, 4):
        i1, i2, i3 = min(i + 1, num_rows - 1), min(i + 2, num_rows - 1), min(i + 3, num_rows - 1)
        for q in range(4):
            for j in range(size):
                sums[q * ROW + j] = d_weights[min(i + q, num_rows - 1), j]
        _add_product(sums, read[i], read[i1], read[i2], read[i3], d_gates)
        for q in range(min(4, num_rows - i)):
            for j in range(size):
                d_weights[i + q, j] = sums[q * ROW + j]


@_compile
def _backward_step(gates, c0, cs, d_hs, d_h, d_c, d_gates, refine, t, origin):
    """Step t of all sequences backwards: sets `d_gates`, whose first step is `origin`, and turns d_c (B, H) into that
    of the cell before the step."""
    for b in range(len(c0)):
        before = cs[b, t - 1] if t else c0[b]
        _gate_gradients(gates[b, t], before, cs[b, t], d_hs[b, t], d_h[b], d_c[b], d_gates[b, t - origin], refine)
