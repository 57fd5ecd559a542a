"""How familiar a memory finds a frame, told to the layers above in numbers of its own.

Shapes: B episodes, Q probes, H heads, V value width, N further numbers, M model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Familiarity(nn.Module):
    """Adds to a layer's output, for each head, the cosine of what is read with what the frame itself would write.

    An associative memory that holds the frame gives back what was written with it; one that does not gives noise. A
    layer could learn this product of two of its own vectors only slowly.
    """

    def __init__(self, heads: int, width: int, num_further: int = 0):
        super().__init__()
        self.output = nn.Linear(heads * (1 + num_further), width)

    def forward(self, read: Tensor, written: Tensor, *further: Tensor) -> Tensor:
        """read and written (B, H, Q, V), and further numbers (B, H, Q) each, to (B, Q, M)."""
        cosine = F.cosine_similarity(read, written, dim=3)
        return self.output(torch.cat([cosine, *further], 1).transpose(1, 2))
