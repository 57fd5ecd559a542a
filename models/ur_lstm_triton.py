"""The recurrence of ur_lstm.py as Triton kernels, forwards and backwards, in float32.

The plain loop is a dozen small kernels a step, and more backwards, each of which costs more to start than to run. Where
layers are narrow, here one kernel goes through all steps, with a program for each sequence that holds its state and all
weights in registers. Where they are wide, weights are more than one processor could read again at each step: there BLAS
multiplies, and one kernel a step does all the rest; the kernels of so many steps are started as one CUDA graph.

Shapes: B sequences, T steps, H hidden units; gates in the order r, f, u, o as in ur_lstm.py.
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.gpu_paths import GPUPath

MAX_NARROW = 64  # hidden units whose weights, 16 H^2 bytes, stay in registers; those of 128 do not
STEP_BLOCK = 128  # units of one program where there is one kernel a step
PIECE = 64  # steps that are one CUDA graph
MAX_GRAPHS = 16  # that are kept, each with as much memory as its steps need

_path = GPUPath("UR-LSTM runs as a plain loop on the GPU, a dozen small kernels a step")


def scan(
    plain: Callable, projected: Tensor, weight_hh: Tensor, h: Tensor, c: Tensor, refine: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What plain(projected, weight_hh, h, c, refine) gives, the loop of ur_lstm.py: by it if kernels cannot be had."""
    # Of wide layers a graph and some more, where there are as many.
    num_steps = PIECE + 3 if h.shape[1] > MAX_NARROW and projected.shape[1] >= PIECE + 3 else 3
    few = [projected[:2, :num_steps].contiguous(), weight_hh, h[:2].contiguous(), c[:2].contiguous(), refine]
    with torch.cuda.device_of(projected):
        return _path(fused_scan, plain, (projected, weight_hh, h, c, refine), few)


def fused_scan(
    projected: Tensor, weight_hh: Tensor, h: Tensor, c: Tensor, refine: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """All steps from the projected input (B, T, 4H) and a state, each (B, H): outputs (B, T, H), the last h and c.

    All in float32. Gradients keep 6 B T H floats.
    """
    return _Scan.apply(projected, weight_hh, h, c, refine)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, weight_hh: Tensor, h0: Tensor, c0: Tensor, refine: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_sequences, num_steps, width = *projected.shape[:2], h0.shape[1]
        h0, c0, w_t = h0.contiguous(), c0.contiguous(), weight_hh.T.contiguous()
        hs, cs = (projected.new_empty(num_sequences, num_steps, width) for _ in range(2))
        if width <= MAX_NARROW:
            gates = torch.empty_like(projected, memory_format=torch.contiguous_format)
            arrays = projected.contiguous(), w_t, h0, c0, gates, hs, cs
            _forward[num_sequences,](*arrays, num_steps, width, refine=refine, **_sizes(width))
        else:
            gates = projected.clone(memory_format=torch.contiguous_format)
            for start in range(0, num_steps, PIECE):
                steps = slice(start, min(start + PIECE, num_steps))
                before = (hs[:, start - 1], cs[:, start - 1]) if start else (h0, c0)
                if not _run_graph(_forward_steps, refine, w_t, *before, *(y[:, steps] for y in (gates, hs, cs))):
                    _forward_steps(steps, refine, w_t, h0, c0, gates, hs, cs)
        ctx.save_for_backward(weight_hh, h0, c0, gates, hs, cs)
        ctx.refine = refine
        return hs, hs[:, -1].clone(), cs[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hs: Tensor, d_h: Tensor, d_c: Tensor) -> tuple[Tensor | None, ...]:
        weight_hh, h0, c0, gates, hs, cs = ctx.saved_tensors
        (num_steps, width), refine = hs.shape[1:], ctx.refine
        d_hs, d_gates = d_hs.contiguous(), torch.empty_like(gates)
        d_h, d_c = (x.clone(memory_format=torch.contiguous_format) for x in (d_h, d_c))
        if width <= MAX_NARROW:
            arrays = weight_hh.contiguous(), gates, c0, cs, d_hs, d_h, d_c, d_gates
            _backward[len(hs),](*arrays, num_steps, width, refine=refine, **_sizes(width))
        else:
            w = weight_hh.contiguous()
            for start in reversed(range(0, num_steps, PIECE)):
                steps = slice(start, min(start + PIECE, num_steps))
                before = cs[:, start - 1] if start else c0
                here = [y[:, steps] for y in (gates, cs, d_hs, d_gates)]
                if not _run_graph(_backward_steps, refine, w, before, *here[:3], d_h, d_c, here[3]):
                    _backward_steps(steps, refine, w, c0, gates, cs, d_hs, d_h, d_c, d_gates)
        before = torch.cat([h0[:, None], hs[:, :-1]], 1)
        d_weight_hh = d_gates.flatten(0, 1).T @ before.flatten(0, 1) if ctx.needs_input_grad[1] else None
        return d_gates, d_weight_hh, d_h, d_c, None


def _forward_steps(
    steps: slice, refine: bool, w_t: Tensor, h0: Tensor, c0: Tensor, gates: Tensor, hs: Tensor, cs: Tensor
) -> None:
    """Steps of a wide layer, with pre-activations in `gates` (B, T, 4H), which become the gates; sets hs and cs."""
    for t in range(steps.start, steps.stop):
        gates[:, t].addmm_(hs[:, t - 1] if t else h0, w_t)
        sizes = hs.shape[1], hs.shape[2], t
        _forward_step[_grid(hs)](gates, c0, hs, cs, *sizes, refine=refine, BLOCK=STEP_BLOCK)


def _backward_steps(
    steps: slice,
    refine: bool,
    w: Tensor,
    c0: Tensor,
    gates: Tensor,
    cs: Tensor,
    d_hs: Tensor,
    d_h: Tensor,
    d_c: Tensor,
    d_gates: Tensor,
) -> None:
    """The same backwards: sets d_gates, and takes d_h and d_c (B, H) to before the steps."""
    for t in reversed(range(steps.start, steps.stop)):
        sizes = cs.shape[1], cs.shape[2], t
        _backward_step[_grid(cs)](gates, c0, cs, d_hs, d_h, d_c, d_gates, *sizes, refine=refine, BLOCK=STEP_BLOCK)
        torch.mm(d_gates[:, t], w, out=d_h)


class _Graph:
    """What `steps` does with PIECE steps as a CUDA graph, on memory of its own; the last three arrays are written."""

    def __init__(self, steps: Callable, refine: bool, arrays: list[Tensor]):
        self.arrays = [torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in arrays]
        num_steps = PIECE
        self.run = lambda: steps(slice(0, num_steps), refine, *self.arrays)
        if not arrays[0].is_cuda:  # Triton's interpreter
            return
        self.run()  # compiles what has not been; a graph must not
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with (
            torch.cuda.stream(torch.cuda.current_stream()),  # to come back to, should the capture fail
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            self.run()
        self.run = graph.replay

    def __call__(self, arrays: list[Tensor]) -> None:
        for own, given in zip(self.arrays, arrays, strict=True):
            own.copy_(given)
        self.run()
        for own, given in zip(self.arrays[-3:], arrays[-3:], strict=True):
            given.copy_(own)


_graphs: dict[tuple, _Graph | None] = {}


def _run_graph(steps: Callable, refine: bool, *arrays: Tensor) -> bool:
    """Do PIECE steps by a graph; False if these are fewer, or if graphs cannot be had or are too many."""
    if arrays[-1].shape[1] != PIECE or (arrays[-1].is_cuda and torch.cuda.is_current_stream_capturing()):
        return False
    # On two streams at once, one graph would overwrite its own memory.
    stream = torch.cuda.current_stream() if arrays[-1].is_cuda else None
    kind = (steps, refine, stream, *(x.shape for x in arrays))
    if kind not in _graphs:
        try:
            _graphs[kind] = _Graph(steps, refine, list(arrays)) if len(_graphs) < MAX_GRAPHS else None
        except RuntimeError as error:
            _graphs[kind] = None
            _warn_of_no_graphs(str(error))
    if graph := _graphs[kind]:
        graph(list(arrays))
    return graph is not None


@cache
def _warn_of_no_graphs(reason: str) -> None:
    logging.getLogger(__name__).warning("UR-LSTM's steps are started one by one, not as CUDA graphs: %s", reason)


def _sizes(width: int) -> dict[str, int]:
    """How a program that goes through all steps is laid out: each thread holds 32 to 64 of the weights."""
    block = max(16, triton.next_power_of_2(width))
    return {"BLOCK": block, "num_warps": {16: 1, 32: 4, 64: 8}[block]}


def _grid(hs: Tensor) -> tuple[int, int]:
    return len(hs), triton.cdiv(hs.shape[2], STEP_BLOCK)


@triton.jit
def _tanh(x):
    """By a series where 2 sigmoid(2x) - 1 would cancel; the next term is 5e-8 of x at 0.3."""
    y = x * x
    near = x * (1 + y * (-0.3333333333 + y * (0.1333333333 + y * (-0.05396825397 + y * 0.02186948854))))
    return tl.where(tl.abs(x) < 0.3, near, 2 * tl.sigmoid(2 * x) - 1)


@triton.jit
def _cell(a_r, a_f, a_u, a_o, c, refine: tl.constexpr):
    """Pre-activations and the cell before to the gates, the cell and the output."""
    r, f, u, o = tl.sigmoid(a_r), tl.sigmoid(a_f), _tanh(a_u), tl.sigmoid(a_o)
    g = f
    if refine:
        g = 2 * r * f + (1 - 2 * r) * f * f
    c = u + g * (c - u)
    return r, f, u, o, c, o * _tanh(c)


@triton.jit
def _cell_gradients(r, f, u, o, c, before, d_h, d_c, refine: tl.constexpr):
    """Gradients of the pre-activations, and of the cell before; d_h and d_c are those of this step's h and c."""
    tanh_c = _tanh(c)
    d_c += d_h * o * (1 - tanh_c * tanh_c)
    d_o = d_h * tanh_c * o * (1 - o)
    d_logit = d_c * (before - u) * f * (1 - f)  # of the forget gate, were it g
    d_r, d_f, g = 0 * r, d_logit, f
    if refine:
        g = 2 * r * f + (1 - 2 * r) * f * f
        d_r = 2 * d_logit * r * (1 - r)
        d_f = 2 * d_logit * (r + (1 - 2 * r) * f)
    return d_r, d_f, d_c * (1 - g) * (1 - u * u), d_o, d_c * g


@triton.jit
def _load_gates(at, width, is_unit):
    """Four rows of units, `width` apart."""
    return (
        tl.load(at, mask=is_unit, other=0.0),
        tl.load(at + width, mask=is_unit, other=0.0),
        tl.load(at + 2 * width, mask=is_unit, other=0.0),
        tl.load(at + 3 * width, mask=is_unit, other=0.0),
    )


@triton.jit
def _store_gates(at, r, f, u, o, width, is_unit):
    tl.store(at, r, mask=is_unit)
    tl.store(at + width, f, mask=is_unit)
    tl.store(at + 2 * width, u, mask=is_unit)
    tl.store(at + 3 * width, o, mask=is_unit)


@triton.jit(do_not_specialize=["num_steps"])
def _forward(
    projected,
    w_t,
    h0,
    c0,
    gates,
    hs,
    cs,
    num_steps,
    width,
    refine: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """All steps of one sequence. w_t (H, 4H); sets gates (B, T, 4H), hs and cs (B, T, H)."""
    sequence = tl.program_id(0).to(tl.int64)
    unit = tl.arange(0, BLOCK)
    is_unit = unit < width
    source = tl.arange(0, BLOCK)[:, None]
    at_weights = w_t + source * 4 * width + unit[None, :]
    is_weight = (source < width) & is_unit[None, :]
    w_r, w_f, w_u, w_o = _load_gates(at_weights, width, is_weight)
    h = tl.load(h0 + sequence * width + unit, mask=is_unit, other=0.0)
    c = tl.load(c0 + sequence * width + unit, mask=is_unit, other=0.0)
    row = sequence * num_steps
    a_r, a_f, a_u, a_o = _load_gates(projected + row * 4 * width + unit, width, is_unit)
    for t in range(num_steps):
        row = sequence * num_steps + t
        # Asked for a step ahead, so that it comes while this step is computed; at the last step for nothing.
        ahead = sequence * num_steps + tl.minimum(t + 1, num_steps - 1)
        next_r, next_f, next_u, next_o = _load_gates(projected + ahead * 4 * width + unit, width, is_unit)
        x = h[:, None]
        if refine:
            a_r += tl.sum(w_r * x, axis=0)
        a_f += tl.sum(w_f * x, axis=0)
        a_u += tl.sum(w_u * x, axis=0)
        a_o += tl.sum(w_o * x, axis=0)
        r, f, u, o, c, h = _cell(a_r, a_f, a_u, a_o, c, refine)
        _store_gates(gates + row * 4 * width + unit, r, f, u, o, width, is_unit)
        tl.store(hs + row * width + unit, h, mask=is_unit)
        tl.store(cs + row * width + unit, c, mask=is_unit)
        a_r, a_f, a_u, a_o = next_r, next_f, next_u, next_o


@triton.jit(do_not_specialize=["num_steps"])
def _backward(
    w,
    gates,
    c0,
    cs,
    d_hs,
    d_h_last,
    d_c_last,
    d_gates,
    num_steps,
    width,
    refine: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """All steps of one sequence backwards. w (4H, H); sets d_gates (B, T, 4H), and turns the gradients of the last
    state, (B, H), into those of the first."""
    sequence = tl.program_id(0).to(tl.int64)
    unit = tl.arange(0, BLOCK)
    is_unit = unit < width
    source = tl.arange(0, BLOCK)[:, None]
    at_weights = w + source * width + unit[None, :]
    is_weight = (source < width) & is_unit[None, :]
    w_r, w_f, w_u, w_o = _load_gates(at_weights, width * width, is_weight)
    d_h = tl.load(d_h_last + sequence * width + unit, mask=is_unit, other=0.0)
    d_c = tl.load(d_c_last + sequence * width + unit, mask=is_unit, other=0.0)
    row = sequence * num_steps + num_steps - 1
    r, f, u, o = _load_gates(gates + row * 4 * width + unit, width, is_unit)
    d_out = tl.load(d_hs + row * width + unit, mask=is_unit, other=0.0)
    c = tl.load(cs + row * width + unit, mask=is_unit, other=0.0)
    for back in range(num_steps):
        row = sequence * num_steps + num_steps - 1 - back
        ahead = sequence * num_steps + tl.maximum(num_steps - 2 - back, 0)
        at_before = cs + (row - 1) * width
        if back + 1 == num_steps:
            at_before = c0 + sequence * width
        before = tl.load(at_before + unit, mask=is_unit, other=0.0)
        next_r, next_f, next_u, next_o = _load_gates(gates + ahead * 4 * width + unit, width, is_unit)
        next_out = tl.load(d_hs + ahead * width + unit, mask=is_unit, other=0.0)
        d_r, d_f, d_u, d_o, d_c = _cell_gradients(r, f, u, o, c, before, d_h + d_out, d_c, refine)
        _store_gates(d_gates + row * 4 * width + unit, d_r, d_f, d_u, d_o, width, is_unit)
        d_h = tl.sum(w_f * d_f[:, None] + w_u * d_u[:, None] + w_o * d_o[:, None], axis=0)
        if refine:
            d_h += tl.sum(w_r * d_r[:, None], axis=0)
        r, f, u, o, d_out, c = next_r, next_f, next_u, next_o, next_out, before
    tl.store(d_h_last + sequence * width + unit, d_h, mask=is_unit)
    tl.store(d_c_last + sequence * width + unit, d_c, mask=is_unit)


@triton.jit(do_not_specialize=["num_steps", "t"])
def _forward_step(gates, c0, hs, cs, num_steps, width, t, refine: tl.constexpr, BLOCK: tl.constexpr):
    """Step t of all sequences: pre-activations in `gates` (B, T, 4H) become the gates; hs and cs are set."""
    sequence = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_unit, row = unit < width, sequence * num_steps + t
    at_before = cs + (row - 1) * width
    if t == 0:
        at_before = c0 + sequence * width
    before = tl.load(at_before + unit, mask=is_unit, other=0.0)
    a_r, a_f, a_u, a_o = _load_gates(gates + row * 4 * width + unit, width, is_unit)
    r, f, u, o, c, h = _cell(a_r, a_f, a_u, a_o, before, refine)
    _store_gates(gates + row * 4 * width + unit, r, f, u, o, width, is_unit)
    tl.store(hs + row * width + unit, h, mask=is_unit)
    tl.store(cs + row * width + unit, c, mask=is_unit)


@triton.jit(do_not_specialize=["num_steps", "t"])
def _backward_step(
    gates, c0, cs, d_hs, d_h, d_c, d_gates, num_steps, width, t, refine: tl.constexpr, BLOCK: tl.constexpr
):
    """Step t of all sequences backwards: sets `d_gates`, and turns d_c (B, H) into that of the cell before the step."""
    sequence = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_unit, row = unit < width, sequence * num_steps + t
    at_before = cs + (row - 1) * width
    if t == 0:
        at_before = c0 + sequence * width
    before = tl.load(at_before + unit, mask=is_unit, other=0.0)
    r, f, u, o = _load_gates(gates + row * 4 * width + unit, width, is_unit)
    c = tl.load(cs + row * width + unit, mask=is_unit, other=0.0)
    d_out = tl.load(d_hs + row * width + unit, mask=is_unit, other=0.0)
    d_h_here = tl.load(d_h + sequence * width + unit, mask=is_unit, other=0.0)
    d_c_here = tl.load(d_c + sequence * width + unit, mask=is_unit, other=0.0)
    d_r, d_f, d_u, d_o, d_before = _cell_gradients(r, f, u, o, c, before, d_h_here + d_out, d_c_here, refine)
    _store_gates(d_gates + row * 4 * width + unit, d_r, d_f, d_u, d_o, width, is_unit)
    tl.store(d_c + sequence * width + unit, d_before, mask=is_unit)
