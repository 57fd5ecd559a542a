"""The perceptron with one hidden layer of self-supervised learning (BYOL, arXiv:2006.07733)."""

from torch import nn


def perceptron(width: int, hidden: int, width_out: int) -> nn.Sequential:
    """Linear, batch norm, ReLU, linear: (B, width) to (B, width_out). Xavier's weights, no biases at the start."""
    layers = nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width_out)
    )
    for linear in (layers[0], layers[3]):
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
    return layers
