"""The recurrence of ur_lstm.py compiled for the CPU by numba, forwards and backwards, in float32.

Lay this file beside ur_lstm.py; nothing else is needed but numba. `scan` gives what `URLSTMCell.scan` gives.

Shapes: B sequences, T steps, I inputs, H hidden units; gates in the order r, f, u, o as in ur_lstm.py.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

# Wider weights do not fit into a core's cache: every step then multiplies all sequences at once by torch's BLAS.
MAX_COMPILED_WIDTH = 192
# Steps whose pre-activations have their gradients in memory at once.
PIECE = 1024

# No flag here lets the compiler assume that numbers are finite: a NaN that comes in has to come out.
# The kernels are not cached on disk: they compile in two seconds, and an installation may be read-only.
_compile = njit(nogil=True, error_model="numpy", fastmath={"contract", "arcp", "nsz"})
_inline = njit(inline="always", fastmath={"contract", "arcp", "nsz"})
ONE, TWO = np.float32(1), np.float32(2)


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
        ctx: FunctionCtx,
        x: Tensor,
        weight_ih: Tensor,
        bias: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        c0: Tensor,
        refine: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        (num_sequences, num_steps, _), width = x.shape, h0.shape[1]
        gates = _empty(num_sequences, num_steps, 4 * width)  # at first W_ih x, then overwritten step by step
        if torch.is_autocast_enabled("cpu"):
            gates.copy_(torch.nn.functional.linear(x, weight_ih))
        else:
            torch.mm(x.flatten(0, 1), weight_ih.T, out=gates.flatten(0, 1))
        hs, cs = _empty(num_sequences, num_steps, width), _empty(num_sequences, num_steps, width)
        h0, c0, w, w_t = h0.contiguous(), c0.contiguous(), weight_hh.contiguous(), weight_hh.T.contiguous()
        arrays = [y.detach().numpy() for y in (gates, bias, w, h0, c0, hs, cs)]
        if width <= MAX_COMPILED_WIDTH:
            _share(_forward, *arrays, refine, True, 0, num_steps, num_sequences=num_sequences)
        else:
            for t, (gate, h) in enumerate(zip(gates.unbind(1), [h0, *hs.unbind(1)], strict=False)):
                gate.addmm_(h, w_t)
                _forward(*arrays, refine, False, t, t + 1, 0, num_sequences)
        ctx.save_for_backward(x, weight_ih, weight_hh, h0, c0, gates, hs, cs)
        ctx.refine = refine
        return hs, hs[:, -1].clone(), cs[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, d_hs: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, h0, c0, gates, hs, cs = ctx.saved_tensors
        (num_sequences, num_steps, width), num_inputs = hs.shape, x.shape[2]
        d_hs, d_h, d_c, w, w_t = d_hs.contiguous(), d_h.clone(), d_c.clone(), weight_hh, weight_hh.T.contiguous()
        d_x = _empty(*x.shape) if ctx.needs_input_grad[0] else None
        d_weight_ih, d_weight_hh, d_bias = (torch.zeros(4 * width, *size) for size in ([num_inputs], [width], []))
        for stop in range(num_steps, 0, -PIECE):
            start = max(0, stop - PIECE)
            d_gates = _empty(num_sequences, stop - start, 4 * width)
            arrays = [y.numpy() for y in (gates, w_t, c0, cs, d_hs, d_h, d_c, d_gates)]
            if width <= MAX_COMPILED_WIDTH:
                _share(_backward, *arrays, ctx.refine, True, start, stop, start, num_sequences=num_sequences)
            else:
                for t in range(stop - 1, start - 1, -1):
                    _backward(*arrays, ctx.refine, False, t, t + 1, start, 0, num_sequences)
                    torch.mm(d_gates[:, t - start], w, out=d_h)
            d_weight_ih.addbmm_(d_gates.mT, x[:, start:stop].float())
            d_weight_hh.addmm_(d_gates[:, 0].T, hs[:, start - 1] if start else h0)
            d_weight_hh.addbmm_(d_gates[:, 1:].mT, hs[:, start : stop - 1])
            d_bias += d_gates.sum((0, 1))
            if d_x is not None:
                torch.bmm(d_gates, weight_ih.expand(num_sequences, -1, -1), out=d_x[:, start:stop])
        return d_x, d_weight_ih, d_bias, d_weight_hh, d_h, d_c, None


def _empty(*shape: int) -> Tensor:
    """Memory by numpy, which asks for huge pages: otherwise a tenth of the time would go into mapping small ones."""
    return torch.from_numpy(np.empty(shape, np.float32))


def _share(kernel: Callable, *args: object, num_sequences: int) -> None:
    """Run the kernel on all sequences, shared among as many threads as torch uses."""
    num_threads = min(torch.get_num_threads(), num_sequences)
    cuts = [num_sequences * k // num_threads for k in range(num_threads + 1)]
    if num_threads == 1:
        kernel(*args, *cuts)
    else:
        list(_threads(os.getpid(), num_threads).map(lambda k: kernel(*args, cuts[k], cuts[k + 1]), range(num_threads)))


@functools.cache
def _threads(process_id: int, num_threads: int) -> ThreadPoolExecutor:
    """Threads of this process: a forked one inherits none and starts its own."""
    return ThreadPoolExecutor(num_threads, thread_name_prefix="ur_lstm")


@_inline
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


@_inline
def _sigmoid(x):
    return ONE / (TWO + _expm1(-x))


@_inline
def _tanh(x):
    e = _expm1(x + x)
    return e / (e + TWO)


@_inline
def _quarters(row):
    width = len(row) // 4
    return row[:width], row[width : 2 * width], row[2 * width : 3 * width], row[3 * width :]


@njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})  # sums in any order
def _add_product(out, t, v, s, m, start, stop):
    """out[b, t] += m @ v[b, s] for b from start to stop; out (B, ., N), v (B, ., K), m (N, K).

    Four sequences meet four rows of m at a time, so that each number read is used four times and all sums stay in
    registers. Where fewer are left the last one stands in for the missing, and its sums are stored again.
    """
    for b in range(start, stop, 4):
        b1, b2, b3 = min(b + 1, stop - 1), min(b + 2, stop - 1), min(b + 3, stop - 1)
        v0, v1, v2, v3 = v[b, s], v[b1, s], v[b2, s], v[b3, s]
        p, q, r, o = out[b, t], out[b1, t], out[b2, t], out[b3, t]
        end = len(m) - 1
        for j in range(0, len(m), 4):
            j1, j2, j3 = min(j + 1, end), min(j + 2, end), min(j + 3, end)
            m0, m1, m2, m3 = m[j], m[j1], m[j2], m[j3]
            p0, p1, p2, p3 = p[j], p[j1], p[j2], p[j3]
            q0, q1, q2, q3 = q[j], q[j1], q[j2], q[j3]
            r0, r1, r2, r3 = r[j], r[j1], r[j2], r[j3]
            o0, o1, o2, o3 = o[j], o[j1], o[j2], o[j3]
            for k in range(m.shape[1]):
                x0, x1, x2, x3 = v0[k], v1[k], v2[k], v3[k]
                y0, y1, y2, y3 = m0[k], m1[k], m2[k], m3[k]
                p0, p1, p2, p3 = p0 + x0 * y0, p1 + x0 * y1, p2 + x0 * y2, p3 + x0 * y3
                q0, q1, q2, q3 = q0 + x1 * y0, q1 + x1 * y1, q2 + x1 * y2, q3 + x1 * y3
                r0, r1, r2, r3 = r0 + x2 * y0, r1 + x2 * y1, r2 + x2 * y2, r3 + x2 * y3
                o0, o1, o2, o3 = o0 + x3 * y0, o1 + x3 * y1, o2 + x3 * y2, o3 + x3 * y3
            p[j], p[j1], p[j2], p[j3] = p0, p1, p2, p3
            q[j], q[j1], q[j2], q[j3] = q0, q1, q2, q3
            r[j], r[j1], r[j2], r[j3] = r0, r1, r2, r3
            o[j], o[j1], o[j2], o[j3] = o0, o1, o2, o3


@_compile
def _forward(gates, bias, w, h0, c0, hs, cs, refine, multiply, start, stop, first, last):
    """Steps `start` to `stop` of sequences `first` to `last`: W_ih x in `gates` becomes the gates, hs and cs are set.

    w (4H, H) is W_hh. With `multiply` off W_hh h is in `gates` already.
    """
    width = h0.shape[1]
    h0 = h0.reshape(len(h0), 1, width)
    for t in range(start, stop):
        if multiply:
            if t:
                _add_product(gates, t, hs, t - 1, w, first, last)
            else:
                _add_product(gates, t, h0, 0, w, first, last)
        for b in range(first, last):
            all_gates = gates[b, t]
            for j in range(4 * width):
                all_gates[j] += bias[j]
            r, f, u, o = _quarters(all_gates)
            before, c, h = cs[b, t - 1] if t else c0[b], cs[b, t], hs[b, t]
            for i in range(width):
                r[i], f[i], u[i], o[i] = _sigmoid(r[i]), _sigmoid(f[i]), _tanh(u[i]), _sigmoid(o[i])
                g = TWO * r[i] * f[i] + (ONE - TWO * r[i]) * f[i] * f[i] if refine else f[i]
                c[i] = u[i] + g * (before[i] - u[i])
                h[i] = o[i] * _tanh(c[i])


@_compile
def _backward(gates, w, c0, cs, d_hs, d_h, d_c, d_gates, refine, multiply, start, stop, origin, first, last):
    """Steps `stop` to `start` backwards: the gradients of the pre-activations go to `d_gates`, whose first step is
    `origin`; those of the state after a step, d_h and d_c (B, H), become those of the state before it.

    w (H, 4H) is W_hh transposed. With `multiply` off d_h is not brought across W_hh.
    """
    width = c0.shape[1]
    d_h_steps = d_h.reshape(len(d_h), 1, width)
    for t in range(stop - 1, start - 1, -1):
        for b in range(first, last):
            r, f, u, o = _quarters(gates[b, t])
            d_r, d_f, d_u, d_o = _quarters(d_gates[b, t - origin])
            before, c, d_out, d_h_b, d_c_b = cs[b, t - 1] if t else c0[b], cs[b, t], d_hs[b, t], d_h[b], d_c[b]
            for i in range(width):
                ri, fi, ui, oi, tanh_c = r[i], f[i], u[i], o[i], _tanh(c[i])
                g = TWO * ri * fi + (ONE - TWO * ri) * fi * fi if refine else fi
                d_h_i = d_h_b[i] + d_out[i]
                d_c_i = d_c_b[i] + d_h_i * oi * (ONE - tanh_c * tanh_c)
                d_c_b[i] = d_c_i * g
                d_logit = d_c_i * (before[i] - ui) * fi * (ONE - fi)
                d_r[i] = TWO * d_logit * ri * (ONE - ri) if refine else np.float32(0)
                d_f[i] = TWO * d_logit * (ri + (ONE - TWO * ri) * fi) if refine else d_logit
                d_u[i] = d_c_i * (ONE - g) * (ONE - ui * ui)
                d_o[i] = d_h_i * tanh_c * oi * (ONE - oi)
            d_h_b[:] = 0
        if multiply:
            _add_product(d_h_steps, 0, d_gates, t - origin, w, first, last)
