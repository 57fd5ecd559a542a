"""A layer of a mapper by its equations, and modules with other than their first weights."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioning.mapper import MapperLayer


def randomised(module: nn.Module) -> nn.Module:
    """In float64, with other than the first weights."""
    torch.manual_seed(1)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module


def attended(layer: MapperLayer, x: Tensor, logit_bias: Tensor | None = None) -> Tensor:
    """A layer by its equations, one head of one token after the other; x (T, W)."""
    width = x.shape[1] // layer.n_heads
    y = F.layer_norm(x, x.shape[1:], layer.norm_attention.weight, layer.norm_attention.bias)
    keys, values = (y @ layer.key_value.weight.T).chunk(2, 1)
    rows = []
    for i, q in enumerate(y @ layer.query.weight.T):
        heads = []
        for h in range(layer.n_heads):
            of, own = slice(h * width, (h + 1) * width), slice(0, width) if layer.kv_heads == 1 else None
            logits = keys[:, own or of] @ q[of] / math.sqrt(width)
            logits = logits if logit_bias is None else logits + logit_bias[h, i]
            heads.append(torch.exp(logits) / torch.exp(logits).sum() @ values[:, own or of])
        rows.append(torch.cat(heads))
    x = x + torch.stack(rows) @ layer.output.weight.T + layer.output.bias
    y = F.layer_norm(x, x.shape[1:], layer.norm_feedforward.weight, layer.norm_feedforward.bias)
    inner = layer.activation(y @ layer.expand.weight.T + layer.expand.bias)
    return x + inner @ layer.contract.weight.T + layer.contract.bias
