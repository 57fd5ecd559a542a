"""UR-LSTM: an LSTM whose gates start spread over many time scales and can still move when they are nearly shut.

Source: Gu, Gulcehre, Paine, Hoffman, Pascanu (2020), "Improving the Gating Mechanism of Recurrent Neural Networks",
arXiv:1910.09890. This file needs torch alone: copy it into your own work. On the CPU it is many times faster with
ur_lstm_kernel.py beside it and numba installed; for GPUs there are kernels in models/ur_lstm_triton.py, which needs
models/gpu_paths.py.

Shapes: B sequences, T steps, I inputs, H hidden units. Per step, with a fixed bias b and rows in the order r, f, u, o:

    a = W_ih x_t + W_hh h_{t-1} + bias
    r = sigmoid(a_r - b)        refine gate
    f = sigmoid(a_f + b)        forget gate
    g = 2 r f + (1 - 2 r) f^2   effective forget gate = r (1 - (1 - f)^2) + (1 - r) f^2
    c_t = g c_{t-1} + (1 - g) tanh(a_u)
    h_t = sigmoid(a_o) tanh(c_t)
"""

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

State = tuple[Tensor, Tensor]


class URLSTMCell(nn.Module):
    """One layer of UR-LSTM.

    Args:
        input_size: I.
        hidden_size: H.
        uniform_init: draw b so that the forget gates start uniform on (1/H, 1 - 1/H), each unit with a time scale of
            its own; False sets b = 1 for all units.
        refine: use the refine gate; False sets g = f.
        learn_forget_bias: make b a parameter instead of a constant.

    `weight_ih` (4H, I) starts Xavier-uniform, `weight_hh` (4H, H) orthogonal per gate, `bias` (4H) zero, so that
    `forget_bias` (H), drawn once from torch's generator, alone sets the first gates.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        uniform_init: bool = True,
        refine: bool = True,
        learn_forget_bias: bool = False,
    ):
        super().__init__()
        self.hidden_size, self.refine = hidden_size, refine
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        forget_bias = _uniform_gates(hidden_size) if uniform_init else torch.ones(hidden_size)
        if learn_forget_bias:
            self.forget_bias = nn.Parameter(forget_bias)
        else:
            self.register_buffer("forget_bias", forget_bias)
        for gate in self.weight_ih.chunk(4):
            nn.init.xavier_uniform_(gate)
        for gate in self.weight_hh.chunk(4):
            nn.init.orthogonal_(gate)

    def forward(self, x: Tensor, state: State | None = None) -> State:
        """One step: x (B, I) and state (h, c), each (B, H) and zero unless given, to the next (h, c)."""
        if state is None:
            state = (x.new_zeros(len(x), self.hidden_size, dtype=self.weight_hh.dtype),) * 2
        projected = nn.functional.linear(x, self.weight_ih, self.bias)
        with torch.autocast(x.device.type, enabled=False):
            return self.step(projected.to(state[1].dtype) + self.gate_bias(), *state)

    def gate_bias(self) -> Tensor:
        """b with its signs, (4H,): minus for the refine gate, plus for the forget gate."""
        b, zero = self.forget_bias, torch.zeros_like(self.forget_bias)
        return torch.cat([-b, b, zero, zero])

    def step(self, projected: Tensor, h: Tensor, c: Tensor) -> State:
        """One step from the projected input W_ih x + bias + gate_bias, (B, 4H)."""
        return _step(projected, self.weight_hh, h, c, self.refine)

    def read(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All steps from the input x (B, T, I): outputs (B, T, H) and the last h and c, compiled where that can be."""
        can_compile = all(y.is_cpu and y.dtype == torch.float32 for y in (self.weight_hh, h, c))
        if can_compile and not torch.compiler.is_compiling() and (scan := _compiled_scan()):
            bias = self.bias + self.gate_bias()
            return scan(x, self.weight_ih, bias, self.weight_hh, h, c, self.refine)
        projected = nn.functional.linear(x, self.weight_ih, self.bias)
        with torch.autocast(x.device.type, enabled=False):
            projected = projected.to(c.dtype) + self.gate_bias()
            if c.is_cuda and c.dtype == torch.float32 and (scan := _gpu_scan()):
                return scan(_scan, projected, self.weight_hh, h, c, self.refine)
            return self.scan(projected, h, c)

    def scan(self, projected: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All steps from the projected input (B, T, 4H): the plain loop, as the equations are written."""
        return _scan(projected, self.weight_hh, h, c, self.refine)


class URLSTM(nn.Module):
    """A stack of UR-LSTM layers, used like `torch.nn.LSTM`.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: layers, each reading the outputs of the one below.
        batch_first: input and output are (B, T, ...), else (T, B, ...).
        dropout: probability with which outputs are zeroed between layers, in training only.
        uniform_init, refine, learn_forget_bias: see `URLSTMCell`.
        checkpoint_every: keep the state of every so many steps only and recompute the rest in the backward pass:
            memory for T = 9,180 falls from about 8 B T H floats to a few chunks.

    Raises:
        ValueError: for `bidirectional=True`, which this layer does not have, and for sizes that are too small.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        uniform_init: bool = True,
        refine: bool = True,
        learn_forget_bias: bool = False,
        checkpoint_every: int | None = None,
    ):
        super().__init__()
        if bidirectional:
            raise ValueError("URLSTM reads forwards only: bidirectional=True is not implemented")
        if min(input_size, num_layers, checkpoint_every or 1) < 1 or hidden_size < 2:
            raise ValueError("input_size, num_layers and checkpoint_every must be at least 1, hidden_size at least 2")
        self.hidden_size, self.batch_first, self.checkpoint_every = hidden_size, batch_first, checkpoint_every
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            URLSTMCell(input_size if k == 0 else hidden_size, hidden_size, uniform_init, refine, learn_forget_bias)
            for k in range(num_layers)
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x (B, T, I) to outputs (B, T, H) and the last (h, c), each (num_layers, B, H).

        A state of that shape may be given: reading a sequence in two pieces, the state carried over, equals reading
        it in one. Under autocast the input projection uses the lower precision, the recurrence stays in float32.
        """
        if not self.batch_first:
            x = x.transpose(0, 1)
        if state is None:
            zeros = torch.zeros(len(self.layers), len(x), self.hidden_size, device=x.device, dtype=self._state_dtype())
            state = zeros, zeros
        last_h, last_c = [], []
        for k, layer in enumerate(self.layers):
            assert isinstance(layer, URLSTMCell)
            x, h, c = self._read(layer, x if k == 0 else self.dropout(x), state[0][k], state[1][k])
            last_h.append(h)
            last_c.append(c)
        return x if self.batch_first else x.transpose(0, 1), (torch.stack(last_h), torch.stack(last_c))

    def _state_dtype(self) -> torch.dtype:
        return self.layers[0].get_parameter("weight_hh").dtype

    def _read(self, layer: URLSTMCell, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not (self.checkpoint_every and torch.is_grad_enabled()):
            return layer.read(x, h, c)
        outputs = []
        for piece in x.split(self.checkpoint_every, dim=1):
            output, h, c = checkpoint(layer.read, piece, h, c, use_reentrant=False)
            outputs.append(output)
        return torch.cat(outputs, 1), h, c


def _step(projected: Tensor, weight_hh: Tensor, h: Tensor, c: Tensor, refine: bool) -> State:
    r, f, u, o = torch.addmm(projected, h, weight_hh.T).chunk(4, dim=1)
    g = torch.sigmoid(f)
    if refine:
        r = torch.sigmoid(r)
        g = 2 * r * g + (1 - 2 * r) * g * g
    c = torch.lerp(torch.tanh(u), c, g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _scan(projected: Tensor, weight_hh: Tensor, h: Tensor, c: Tensor, refine: bool) -> tuple[Tensor, Tensor, Tensor]:
    outputs = []
    for step in projected.unbind(1):
        h, c = _step(step, weight_hh, h, c, refine)
        outputs.append(h)
    return torch.stack(outputs, 1), h, c


@functools.cache
def _compiled_scan() -> Callable | None:
    """`scan` of ur_lstm_kernel.py, or None, said once, where it or numba is missing."""
    try:
        try:
            from models.ur_lstm_kernel import scan
        except ModuleNotFoundError:  # copied, with that file beside it
            from ur_lstm_kernel import scan  # type: ignore[no-redef]
    except ImportError as error:
        logging.getLogger(__name__).warning(
            "UR-LSTM runs as a plain loop, many times slower on the CPU than compiled by numba: %s", error
        )
        return None
    return scan


@functools.cache
def _gpu_scan() -> Callable | None:
    """`scan` of models/ur_lstm_triton.py, or None, said once, where it or triton is missing."""
    try:
        from models.ur_lstm_triton import scan
    except ImportError as error:
        logging.getLogger(__name__).warning(
            "UR-LSTM runs as a plain loop on the GPU, a dozen small kernels a step, for want of kernels: %s", error
        )
        return None
    return scan


def _uniform_gates(hidden_size: int) -> Tensor:
    """Draw biases b (H,) with sigmoid(b) uniform on (1/H, 1 - 1/H)."""
    v = torch.empty(hidden_size).uniform_(1 / hidden_size, 1 - 1 / hidden_size)
    return torch.log(v / (1 - v))
