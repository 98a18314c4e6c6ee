"""Our cross entropy against PyTorch's own, and where MMSegmentation's says something else."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.losses import CrossEntropyLoss
from mmseg.structures.sampler import OHEMPixelSampler
from torch import Tensor, nn

from mmnas_ext.hosts.seg import SegCrossEntropyLoss
from mmnas_ext.registry import MODELS
from mmnas_ext.upstream import WEIGHS_IGNORED

CLASSES = 5
WEIGHTS = [0.5, 2.0, 0.0, 1.25, 3.0]


def pixels(ignored: float = 0.3, shape: tuple[int, int, int] = (2, 6, 7), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits in double precision, and labels of which a share is 255."""
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape[0], CLASSES, *shape[1:], generator=draw, dtype=torch.float64)
    labels = torch.randint(CLASSES, shape, generator=draw)
    labels[torch.rand(shape, generator=draw) < ignored] = 255
    return logits.requires_grad_(), labels


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize('class_weight', [None, WEIGHTS])
@pytest.mark.parametrize('ignored', [0.0, 0.3, 0.9])
@pytest.mark.parametrize('loss_weight', [1.0, 0.4])
def test_values_and_gradients_are_pytorchs(class_weight: Any, ignored: float, loss_weight: float) -> None:
    logits, labels = pixels(ignored)
    assert (labels == 255).any() == (ignored > 0)
    weights = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64)
    expected = loss_weight * F.cross_entropy(logits, labels, weights, ignore_index=255)
    loss = SegCrossEntropyLoss(class_weight, loss_weight)(logits, labels, ignore_index=255)
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    wanted = gradient(expected, logits)
    torch.testing.assert_close(gradient(loss, logits), wanted, rtol=1e-12, atol=1e-17)
    assert not wanted.permute(0, 2, 3, 1)[labels == 255].any() and wanted.any()


def test_an_ignored_label_is_the_one_named() -> None:
    logits, labels = pixels(0.0)
    expected = F.cross_entropy(logits, labels, ignore_index=3)
    torch.testing.assert_close(SegCrossEntropyLoss()(logits, labels, ignore_index=3), expected)
    assert abs(SegCrossEntropyLoss()(logits, labels, ignore_index=255) - expected) > 1e-3


@pytest.mark.parametrize(
    ('class_weight', 'label'),
    [(None, 255), (WEIGHTS, 255), (WEIGHTS, 2)],  # the class 2 weighs nothing
)
def test_without_any_pixel_that_counts_it_is_zero_and_moves_nothing(class_weight: Any, label: int) -> None:
    logits, labels = pixels()
    labels = torch.full_like(labels, label)
    loss = SegCrossEntropyLoss(class_weight)(logits, labels, ignore_index=255)
    assert loss.item() == 0
    assert torch.equal(gradient(loss, logits), torch.zeros_like(logits))
    # what PyTorch's mean over nothing would do to every weight
    weights = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64)
    assert math.isnan(F.cross_entropy(logits, labels, weights, ignore_index=255))


@pytest.mark.parametrize('class_weight', [None, WEIGHTS])
def test_pixel_weights(class_weight: Any) -> None:
    logits, labels = pixels()
    weight = torch.rand(labels.shape, dtype=torch.float64) * (torch.rand(labels.shape) < 0.7)
    total, shares = 0.0, 0.0
    for n, y, x in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
        label = int(labels[n, y, x])
        if label == 255:
            continue
        share = float(weight[n, y, x]) * (1 if class_weight is None else class_weight[label])
        row = logits[n, :, y, x].tolist()
        total += share * (math.log(math.fsum(map(math.exp, row))) - row[label])
        shares += share
    loss = SegCrossEntropyLoss(class_weight)(logits, labels, weight=weight, ignore_index=255)
    assert loss.item() == pytest.approx(total / shares, rel=1e-12)


def test_pixels_without_weight_only() -> None:
    logits, labels = pixels()
    loss = SegCrossEntropyLoss()(logits, labels, weight=torch.zeros(labels.shape), ignore_index=255)
    assert loss.item() == 0 and not gradient(loss, logits).any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('class_weight', [None, WEIGHTS])
def test_half_precision_sums_in_single(dtype: torch.dtype, class_weight: Any) -> None:
    # more pixels than half precision can count: 65504
    logits, labels = pixels(shape=(2, 256, 256))
    half = logits.detach().to(dtype)
    weights = None if class_weight is None else torch.tensor(class_weight)
    expected = F.cross_entropy(half.float(), labels, weights, ignore_index=255)
    loss = SegCrossEntropyLoss(class_weight)(half, labels, ignore_index=255)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


class _Context(nn.Module):
    """What a pixel sampler reads of a head."""

    ignore_index = 255

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss_decode = loss


def test_pixel_losses_serve_a_sampler_of_hard_pixels() -> None:
    logits, labels = pixels()
    loss = SegCrossEntropyLoss(loss_weight=0.5)
    losses = loss(logits, labels, ignore_index=255, reduction_override='none')
    expected = F.cross_entropy(logits, labels, ignore_index=255, reduction='none')
    torch.testing.assert_close(losses, 0.5 * expected)
    kept = OHEMPixelSampler(_Context(loss), thresh=None, min_kept=4).sample(logits, labels[:, None])
    hardest = expected.flatten().argsort(descending=True)[: 2 * 4]
    assert kept.flatten().nonzero().flatten().tolist() == sorted(hardest.tolist())
    taken = loss(logits, labels, weight=kept, ignore_index=255)
    assert taken.item() == pytest.approx(0.5 * expected.flatten()[hardest].mean().item(), rel=1e-12)


def halved() -> tuple[Tensor, Tensor, Tensor]:
    """Two copies of the same pixels; labels of both, and of the first alone."""
    logits, labels = pixels(0.0, (1, 6, 7))
    both = labels.repeat(2, 1, 1)
    first = both.clone()
    first[1] = 255
    return logits.repeat(2, 1, 1, 1), both, first


def test_unlabelled_pixels_do_not_dilute_the_loss() -> None:
    logits, both, first = halved()
    ours = [SegCrossEntropyLoss()(logits, labels, ignore_index=255).item() for labels in (both, first)]
    assert ours[0] == pytest.approx(ours[1], rel=1e-13)
    # as a recipe gets it that does not know of avg_non_ignore
    with pytest.warns(UserWarning, match='avg_non_ignore'):
        theirs = CrossEntropyLoss()
    diluted = [theirs(logits, labels, ignore_index=255).item() for labels in (both, first)]
    assert diluted[0] == pytest.approx(ours[0], rel=1e-6)
    assert diluted[1] == pytest.approx(ours[0] / 2, rel=1e-6)


@pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore``')
def test_class_weights_go_with_ignored_pixels() -> None:
    logits, labels = pixels()

    def fails(avg_non_ignore: bool) -> bool:
        try:
            CrossEntropyLoss(class_weight=WEIGHTS, avg_non_ignore=avg_non_ignore)(logits, labels, ignore_index=255)
        except IndexError:
            return True
        return False

    # MMSegmentation's fails with the one setting of its losses or with both
    assert [fails(True), fails(False)] == [True, WEIGHS_IGNORED]
    assert SegCrossEntropyLoss(WEIGHTS)(logits, labels, ignore_index=255).isfinite()


def test_class_weights_move_with_the_head_and_stay_out_of_checkpoints() -> None:
    loss = MODELS.build(dict(type='mmnas_ext.SegCrossEntropyLoss', class_weight=WEIGHTS, loss_name='loss_hard'))
    assert isinstance(loss, SegCrossEntropyLoss) and loss.loss_name == 'loss_hard'
    assert loss.state_dict() == {}
    assert loss.to('meta').class_weight.device.type == 'meta'


@pytest.mark.parametrize('weights', [[1.0, -0.1], [1.0, math.nan], [math.inf], ['a'], 'ab', 3, []])
def test_class_weights_that_are_none(weights: Any) -> None:
    with pytest.raises(ValueError, match='class_weight must be a list of finite numbers of at least 0, got'):
        SegCrossEntropyLoss(weights)


def test_as_many_class_weights_as_classes() -> None:
    logits, labels = pixels()
    with pytest.raises(ValueError, match='class_weight must have one entry per class, 5, got 4'):
        SegCrossEntropyLoss(WEIGHTS[:4])(logits, labels)


def test_other_reductions() -> None:
    with pytest.raises(ValueError, match="reduction_override must be None or 'none', got 'sum'"):
        SegCrossEntropyLoss()(*pixels(), reduction_override='sum')
