"""The perceptron with one hidden layer of self-supervised learning (BYOL, arXiv:2006.07733)."""

from torch import nn


def perceptron(width: int, hidden: int, width_out: int) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear: (B, width) to (B, width_out). Xavier's weights, no biases at the start."""
    first, last = nn.Linear(width, hidden), nn.Linear(hidden, width_out)
    for linear in (first, last):
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
    return nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), last)
