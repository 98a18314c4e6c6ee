"""Policies, against answers worked out by hand."""

import pytest
import torch

from mmnas_ext.archs import LayerSpec
from mmnas_ext.remap import policies

NARROW = LayerSpec(1, 1).convs(4, 1)
WIDE = LayerSpec(1, 2).convs(1, 1)


@pytest.mark.parametrize(
    ('seed', 'kernel', 'policy', 'taken', 'places'),
    [
        (3, 3, 'center', [0, 1, 2], [0, 1, 2]),
        (3, 7, 'center', [0, 1, 2], [2, 3, 4]),
        (3, 7, 'dilated', [0, 1, 2], [0, 3, 6]),
        (3, 5, 'dilated', [0, 1, 2], [0, 2, 4]),
        # 7 has no room for 5 positions two apart
        (5, 7, 'dilated', [0, 1, 2, 3, 4], [1, 2, 3, 4, 5]),
        (3, 9, 'dilated', [0, 1, 2], [0, 4, 8]),
        (1, 5, 'dilated', [0], [2]),
        (7, 3, 'center', [2, 3, 4], [0, 1, 2]),
        (7, 3, 'dilated', [2, 3, 4], [0, 1, 2]),
        (5, 1, 'center', [2], [0]),
    ],
)
def test_kernel_positions(seed: int, kernel: int, policy: str, taken: list[int], places: list[int]) -> None:
    from_seed, to_target = policies.kernel_positions(seed, kernel, policy)
    assert (list(from_seed), list(to_target)) == (taken, places)


@pytest.mark.parametrize(('index', 'layers', 'expected'), [(0, 1, 0), (3, 1, 0), (1, 4, 1), (5, 4, 3)])
def test_source_layer(index: int, layers: int, expected: int) -> None:
    assert policies.source_layer(index, layers) == expected


@pytest.mark.parametrize(
    ('width', 'keep', 'expected'),
    [
        ('first', 2, [0, 1]),
        ('bn', 2, [1, 3]),
        ('bn', 3, [1, 2, 3]),
        # depthwise 1, 2, 3, 4 and what is read of it 9, 0, 0, 1: sums 10, 2, 3, 5
        ('l1', 2, [0, 3]),
        ('l1', 1, [0]),
        ('l1', 4, [0, 1, 2, 3]),
        ('bn', 9, [0, 1, 2, 3]),
        # standard deviations of (1, -9), (-2, 0), (3, 0), (-4, 1): 5, 1, 1.5, 2.5
        ('std', 1, [0]),
        ('std', 2, [0, 3]),
        ('std', 3, [0, 2, 3]),
    ],
)
def test_hidden_channels(width: str, keep: int, expected: list[int]) -> None:
    tensors = {
        'depthwise.conv.weight': torch.tensor([1.0, -2, 3, -4]).view(4, 1, 1, 1),
        'depthwise.bn.weight': torch.tensor([0.1, -5.0, 1.0, 2.0]),
        'project.conv.weight': torch.tensor([[-9.0, 0, 0, 1]]).view(1, 4, 1, 1),
    }
    assert policies.hidden_channels(tensors, NARROW, keep, width).tolist() == expected


def test_l1_counts_the_expansion() -> None:
    tensors = {
        'depthwise.conv.weight': torch.ones(2, 1, 1, 1),
        'project.conv.weight': torch.ones(1, 2, 1, 1),
        'expand.conv.weight': torch.tensor([[1.0, 1.0], [-3.0, -3.0]]).view(2, 2, 1, 1),
    }
    assert policies.hidden_channels(tensors, WIDE, 1, 'l1').tolist() == [1]


def test_deviation_is_that_of_all_weights_of_a_channel() -> None:
    tensors = {
        'depthwise.conv.weight': torch.tensor([5.0, 5.0]).view(2, 1, 1, 1),
        'project.conv.weight': torch.tensor([[5.0, 4.0]]).view(1, 2, 1, 1),
        'expand.conv.weight': torch.tensor([[5.0, 5.0], [5.0, 4.0]]).view(2, 2, 1, 1),
    }
    # the first channel has the larger weights, all equal; of the second they are 5, 4, 5, 4
    assert policies.hidden_channels(tensors, WIDE, 1, 'l1').tolist() == [0]
    assert policies.hidden_channels(tensors, WIDE, 1, 'std').tolist() == [1]


def test_known_policies_pass() -> None:
    for width in ('first', 'bn', 'l1', 'std'):
        for kernel in ('center', 'dilated'):
            policies.check('last', width, kernel)
    with pytest.raises(ValueError, match='width must be one of'):
        policies.check('last', None, 'center')  # type: ignore[arg-type]
