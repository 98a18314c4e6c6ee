"""The head of MobileNetV3's segmentor: MMSegmentation's wherever that works, and of small images as well."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.models.decode_heads import LRASPPHead

from mmnas_ext.registry import MODELS

CHANNELS = (4, 6, 8)
SETTINGS = dict(
    in_channels=CHANNELS, in_index=(0, 1, 2), channels=5, branch_channels=(2, 3), num_classes=3,
    input_transform='multiple_select', norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'), align_corners=False,
)  # fmt: skip


def heads() -> tuple[LRASPPHead, LRASPPHead]:
    """MMSegmentation's and ours with the same weights."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        theirs = LRASPPHead(**SETTINGS)
        ours = MODELS.build(dict(type='mmnas_ext.LRASPPHead', **SETTINGS))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs.eval(), ours.eval()


def features(side: int) -> list[torch.Tensor]:
    """Of strides 2, 4 and 8 of an image of that side, which is not square."""
    return [torch.rand(1, each, side // s, (side + 40) // s) for each, s in zip(CHANNELS, (2, 4, 8), strict=True)]


@pytest.mark.parametrize('side', [392, 520])
def test_where_the_window_fits_outputs_are_those_of_mmsegmentation(side: int) -> None:
    theirs, ours = heads()
    given = features(side)
    with torch.no_grad():
        assert torch.equal(ours(given), theirs(given))


def test_of_a_smaller_feature_the_window_is_the_whole() -> None:
    theirs, ours = heads()
    given = features(48)
    with torch.no_grad(), pytest.raises(RuntimeError, match='too small'):
        theirs(given)
    with torch.no_grad():
        pooled = ours.image_pool[0](given[-1])
        found = ours(given)
    assert pooled.shape == (1, 8, 1, 1)
    torch.testing.assert_close(pooled, given[-1].mean((2, 3), keepdim=True))
    assert found.shape == (1, 3, 24, 44)


def test_a_window_that_fits_in_one_direction_is_cut_in_the_other() -> None:
    _, ours = heads()
    x = torch.rand(1, 8, 20, 69)
    expected = torch.stack([x[..., start : start + 49].mean((2, 3)) for start in (0, 20)], dim=-1)
    torch.testing.assert_close(ours.image_pool[0](x)[:, :, 0], expected)
