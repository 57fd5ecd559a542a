"""The transformer's masked attention by torch's FlexAttention (Dong et al. 2024, arXiv:2412.05496), for GPUs.

One kernel goes over the scores in blocks and looks at the mask where a block is hidden in part alone: with `no_self`
those are the blocks on the diagonal. No mask of T x T is kept, nor read from memory at every use.

Shapes: B episodes, H heads, T frames, R of them read, D head width.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.gpu_paths import GPUPath

if TYPE_CHECKING:  # not in all versions of torch, and slow to import
    from torch.nn.attention.flex_attention import BlockMask

MIN_HEAD_WIDTH = 16
BACKEND = "inductor"

_path = GPUPath("The transformer attends piece by piece, with a dense mask for each", compiles=True)


def attend(plain: Callable, queries: Tensor, keys: Tensor, values: Tensor, no_self: bool, is_causal: bool) -> Tensor:
    """What plain(queries, keys, values) gives: attention of the last R of T frames, (B, H, R, D) and twice (B, H, T, D)
    to (B, H, R, D). By it where FlexAttention cannot be had.
    """

    def in_pieces(queries: Tensor, keys: Tensor, values: Tensor, no_self: bool, is_causal: bool) -> tuple[Tensor]:
        return (plain(queries, keys, values),)

    return _path(flex, in_pieces, (queries, keys, values, no_self, is_causal))[0]


def flex(queries: Tensor, keys: Tensor, values: Tensor, no_self: bool, is_causal: bool) -> tuple[Tensor]:
    """The same by FlexAttention, compiled once for each kind of inputs.

    Raises RuntimeError where it is known not to work.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise RuntimeError(f"FlexAttention is taken from torch 2.6 on; this is {torch.__version__}")
    if queries.shape[3] < MIN_HEAD_WIDTH:
        raise RuntimeError(f"FlexAttention needs heads of {MIN_HEAD_WIDTH} and more; these have {queries.shape[3]}")
    if queries.is_cuda and (capability := torch.cuda.get_device_capability(queries.device)) < (8, 0):
        raise RuntimeError(f"FlexAttention needs a GPU of compute capability 8.0; this one has {capability}")
    mask = block_mask(no_self, is_causal, queries.shape[2], keys.shape[2], queries.device)
    return (_compiled(BACKEND)(queries, keys, values, mask),)


@functools.lru_cache(maxsize=8)
def block_mask(no_self: bool, is_causal: bool, num_read: int, num_keys: int, device: torch.device) -> "BlockMask":
    """What the last `num_read` of `num_keys` frames see, block by block, as `Transformer` says: a `BlockMask`."""
    from torch.nn.attention.flex_attention import create_block_mask

    first = num_keys - num_read

    def is_visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = query + first
        if not no_self:
            return key <= row
        if not is_causal:
            return key != row
        return (key < row) | ((key == 0) & (row == 0))  # the first frame, which has no past, sees itself

    return create_block_mask(is_visible, None, None, num_read, num_keys, device)


@functools.cache
def _compiled(backend: str) -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    def attend(queries: Tensor, keys: Tensor, values: Tensor, block_mask: "BlockMask") -> Tensor:
        return flex_attention(queries, keys, values, block_mask=block_mask)

    # One length a kind of input, and no kernels for all lengths: what was tried is what runs.
    return torch.compile(attend, backend=backend, fullgraph=True, dynamic=False)
