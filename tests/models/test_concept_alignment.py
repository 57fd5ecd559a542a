"""Concept alignment against its equations in plain loops, over steps in which the centre moves."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_key_value_memory import cosine, draw, perceptron_in_loops
from torch import Tensor

from models.concept_alignment import ConceptAlignment
from recognition.training.devices import disconnect

B, DIM, FEATURES, CONCEPTS = 7, 6, 10, 9


def build(recon: str = "cosine") -> ConceptAlignment:
    """Concepts far enough from the start for the softmax to be sharp."""
    torch.manual_seed(0)
    alignment = ConceptAlignment(DIM, FEATURES, CONCEPTS, recon, 0.3, 0.2, 0.7).double()
    for linear in (alignment.source_concepts, alignment.target_concepts):
        linear.weight.data *= 20
    return alignment


def clips(seed: int = 0, num: int = B) -> list[Tensor]:
    """z_source, y_source, z_target, y_target."""
    widths = (DIM, FEATURES, DIM, FEATURES)
    return [draw(num, width, seed=4 * seed + k) for k, width in enumerate(widths)]


def softmax(x: list[float]) -> list[float]:
    return [math.exp(a) / sum(math.exp(b) for b in x) for a in x]


def in_loops(alignment: ConceptAlignment, z_source, y_source, z_target, y_target, centre: list[float]):
    """Both losses and the centre after them, by the equations."""
    q_source = z_source @ alignment.source_concepts.weight.T
    q_target = z_target @ alignment.target_concepts.weight.T
    reconstruction = 0.0
    for layers, q, y in (
        (alignment.source_features, q_source, y_source),
        (alignment.target_features, q_target, y_target),
    ):
        for found, wanted in zip(perceptron_in_loops(layers, q), y, strict=True):
            squared = sum((a - b) ** 2 for a, b in zip(found.tolist(), wanted.tolist(), strict=True))
            reconstruction += (squared if alignment.recon == "l2" else 1 - cosine(found, wanted)) / len(y)
    loss = 0.0
    for source, target in zip(q_source.tolist(), q_target.tolist(), strict=True):
        teacher = softmax([(q - c) / 0.2 for q, c in zip(target, centre, strict=True)])
        student = softmax([q / 0.3 for q in source])
        loss -= sum(p * math.log(s) for p, s in zip(teacher, student, strict=True)) / len(q_source)
    means = [sum(column) / len(column) for column in q_target.T.tolist()]
    return reconstruction, loss, [0.7 * c + 0.3 * mean for c, mean in zip(centre, means, strict=True)]


@pytest.mark.parametrize("recon", ["cosine", "l2"])
@torch.no_grad()
def test_losses_and_centre_equal_the_equations_over_several_steps(recon):
    alignment, centre = build(recon), [0.0] * CONCEPTS
    for step in range(3):
        reconstruction, loss, centre = in_loops(alignment, *clips(step), centre)
        losses = alignment(*clips(step))
        assert losses.reconstruction.item() == pytest.approx(reconstruction, abs=1e-9)
        assert losses.alignment.item() == pytest.approx(loss, abs=1e-9)
        assert alignment.centre.tolist() == pytest.approx(centre, abs=1e-9)
    assert max(map(abs, centre)) > 0.01


@torch.no_grad()
def test_evaluation_gives_the_same_losses_again_and_changes_nothing():
    alignment = build()
    alignment(*clips())
    alignment.eval()
    before = {key: value.clone() for key, value in alignment.state_dict().items()}
    first = alignment(*clips(1))
    torch.testing.assert_close(alignment(*clips(1)), first, rtol=0, atol=0)
    torch.testing.assert_close(dict(alignment.state_dict()), before, rtol=0, atol=0)
    wanted = in_loops(alignment, *clips(1), alignment.centre.tolist())
    assert [loss.item() for loss in first] == pytest.approx(wanted[:2], abs=1e-9)


def gradients(loss_name: str) -> dict[str, bool]:
    """Which weights and inputs one of the losses reaches."""
    alignment, inputs = build(), [x.requires_grad_() for x in clips()]
    getattr(alignment(*inputs), loss_name).backward()
    tensors = dict(zip(("z_source", "y_source", "z_target", "y_target"), inputs, strict=True))
    tensors |= {name: module[0].weight for name, module in alignment.named_children() if name.endswith("features")}
    tensors |= {name: module.weight for name, module in alignment.named_children() if name.endswith("concepts")}
    return {name: x.grad is not None and bool(x.grad.abs().sum() > 0) for name, x in tensors.items()}


def test_alignment_trains_the_source_alone():
    assert {name for name, reached in gradients("alignment").items() if reached} == {"z_source", "source_concepts"}


def test_reconstruction_trains_both_descriptions_and_no_target_network():
    assert {name for name, reached in gradients("reconstruction").items() if not reached} == {
        *("z_target", "y_source", "y_target")
    }


def test_everything_starts_as_the_source_says():
    torch.manual_seed(0)
    alignment = ConceptAlignment(32, 16, 200)
    for linear in (alignment.source_concepts, alignment.target_concepts):
        assert linear.bias is None
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert alignment.centre.abs().sum() == 0
    bound = math.sqrt(6 / (200 + 16))
    assert 0.9 * bound < alignment.source_features[0].weight.abs().max() <= bound
    assert alignment.source_features[0].bias.abs().sum() == 0
    assert "centre" in alignment.state_dict()


def test_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="'cosine' or 'l2', not 'l1'"):
        ConceptAlignment(DIM, FEATURES, CONCEPTS, "l1")


def centre_of_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    alignment = build()
    alignment(*(x[4 * rank : 4 * rank + 4] for x in clips(num=8)))
    torch.save(alignment.centre, f"{folder}/{rank}.pt")
    disconnect()


def test_centre_moves_by_the_mean_over_all_processes(tmp_path):
    mp.start_processes(centre_of_process, (str(tmp_path),), nprocs=2, start_method="fork")
    alone = build()
    alone(*clips(num=8))
    for rank in range(2):
        centre = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(centre, alone.centre, rtol=0, atol=1e-12)
