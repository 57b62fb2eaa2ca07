"""What members of a supernet learn from a teacher."""

import pytest
import torch
import torch.nn.functional as F
from tiny_elastic import MEMBERS, tiny_images, tiny_supernet
from torch.testing import assert_close

from supernetnas.search.distillation import (
    FromLabels,
    FromTeacher,
    adaptive_divergence,
    divergence,
    kl_divergence,
)


def scores(seed, n=5, classes=4, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(n, classes, generator=generator, dtype=torch.float64)


def test_kl_divergence_is_its_definition():
    q, p = scores(0).softmax(1), scores(1).softmax(1)
    assert_close(kl_divergence(scores(0), scores(1)), (p * (p / q).log()).sum(1))


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 2.0])
def test_alpha_divergence_is_its_definition(alpha):
    """Where nothing is clipped, value and gradient are those of the formula."""
    student = scores(0).requires_grad_()
    q, p = student.softmax(1), scores(1).softmax(1)
    expected = ((q * ((p / q) ** alpha - 1)).sum(1)) / (alpha * (alpha - 1))
    found = adaptive_divergence(student, scores(1), (alpha, alpha), clip=1e9)
    assert_close(found, expected)
    (gradient,) = torch.autograd.grad(expected.sum(), student)
    assert_close(torch.autograd.grad(found.sum(), student)[0], gradient)


def test_adaptive_divergence_takes_the_larger():
    student = scores(0).requires_grad_()
    each = [
        adaptive_divergence(student, scores(1), (alpha, alpha), clip=1e9) for alpha in (-1.0, 1.0)
    ]
    assert_close(each[1], kl_divergence(student, scores(1)))
    first_is_larger = each[0] > each[1]
    assert 0 < first_is_larger.sum() < len(first_is_larger)
    assert_close(adaptive_divergence(student, scores(1), clip=1e9), torch.maximum(*each))


def test_adaptive_divergence_is_bounded_where_the_student_is_far_off():
    student = scores(0, spread=50.0).requires_grad_()
    value = adaptive_divergence(student, scores(1, spread=50.0))
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= 5 * 2
    assert_close(adaptive_divergence(scores(0), scores(0)), torch.zeros(5, dtype=torch.float64))
    with pytest.raises(ValueError, match="differ from 0"):
        adaptive_divergence(student, student, (0.0, 1.0))


def test_gradients_keep_their_size_at_any_temperature():
    norms = []
    for temperature in (50.0, 100.0):
        student = scores(0).requires_grad_()
        divergence(student, scores(1), "kl", temperature).backward()
        norms.append(float(student.grad.norm()))
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


@pytest.mark.parametrize("kind", ["kl", "adaptive"])
def test_from_a_teacher(kind):
    supernet, images = tiny_supernet(), tiny_images()
    weight, bias = scores(0, 6, 9), scores(1, 1, 6)[0]
    scale, targets = scores(2, 1, 9)[0].abs() + 0.5, scores(3, 3, 9)
    distillation = FromTeacher(
        weight, bias, scale, feature_weight=3.0, divergence=kind, temperature=2.0
    )
    losses = list(distillation.losses(supernet, images, targets, MEMBERS[:2]))
    for loss, architecture in zip(losses, MEMBERS[:2], strict=True):
        features = supernet.features(images, architecture)
        expected = 3 * F.smooth_l1_loss(features / scale, targets / scale) + divergence(
            features @ weight.T + bias, targets @ weight.T + bias, kind, 2.0
        )
        assert_close(loss, expected)
        same = distillation.losses(supernet, images, features.detach(), [architecture])
        assert float(next(same).detach()) == pytest.approx(0, abs=1e-12)


def test_labels_of_several_datasets():
    """Scores of other datasets' classes do not count, and a label is smoothed over its own's."""
    scores = torch.tensor([[1.0, 2.0, 9.0, 0.0, 3.0], [5.0, 5.0, 0.5, 1.5, 2.5]])
    labels, owners = torch.tensor([1, 4]), torch.tensor([0, 0, 1, 1, 1])
    seen = []
    teaching = FromLabels(
        0.1, dataset_of_class=owners, observe=lambda scores, labels: seen.append((scores, labels))
    )
    scores.requires_grad_()
    (loss,) = teaching.losses(lambda images, architecture: scores, None, labels, ["a"])
    parts = [
        F.cross_entropy(own[None], torch.tensor([label]), label_smoothing=0.1)
        for own, label in ((scores[0, :2], 1), (scores[1, 2:], 2))
    ]
    assert_close(loss, sum(parts) / 2)
    loss.backward()
    assert torch.equal(scores.grad == 0, owners[None] != owners[labels][:, None])
    ((observed, given),) = seen
    assert given is labels and observed.argmax(1).tolist() == [1, 4]
    assert torch.equal(observed.isinf(), scores.grad == 0)
