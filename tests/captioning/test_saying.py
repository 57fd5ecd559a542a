"""What memory read for a clip: shares of earlier clips, by hand."""

import pytest
import torch

from captioning.remembering import Found
from captioning.saying import most_read, shares_of_clips

C, N, Q, K = 4, 2, 3, 5


def test_a_clip_has_the_weight_of_its_frames():
    draw = torch.Generator().manual_seed(0)
    frames = torch.randint(0, C * N, (2, C, Q, K), generator=draw)
    weights = torch.rand(2, C, Q, K, generator=draw).softmax(3)
    shares = shares_of_clips(Found(frames, weights), 1, N)
    for clip in range(C):
        for other in range(C):
            due = weights[1, clip][frames[1, clip] // N == other].sum() / Q
            assert shares[clip, other].item() == pytest.approx(due.item())
    torch.testing.assert_close(shares.sum(1), torch.ones(C))


def test_what_was_not_found_has_no_share():
    nothing = Found(torch.full((1, C, Q, K), -1), torch.zeros(1, C, Q, K))
    assert not shares_of_clips(nothing, 0, N).any()


def test_the_few_clips_with_most_of_the_weight_are_told():
    assert most_read(torch.tensor([0.05, 0.2, 0.5, 0.15, 0.1])) == [(2, 0.5), (1, 0.2), (3, 0.15)]
    assert most_read(torch.tensor([0.5, 0.5, 0.0])) == [(0, 0.5), (1, 0.5)]
    assert most_read(torch.full((20,), 0.05)) == []
    assert most_read(torch.zeros(0)) == []
