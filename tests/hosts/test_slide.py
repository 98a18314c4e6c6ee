"""Windows that overlap: FNA's DeepLab adds up the classes' probabilities, MMSegmentation averages logits."""

from collections.abc import Iterator

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import Tensor, nn

from tests.engine.tiny_seg import model_cfg
from tests.small import read

CROP, STRIDE = (24, 24), (16, 16)
SIZE = (40, 50)
# where the windows of 24 begin: every 16 pixels, the last one moved back inside
ROWS, COLUMNS = (0, 16), (0, 16, 26)


@pytest.fixture(autouse=True)
def mmseg_scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    backbone = dict(type='mmnas_ext.MBNet', arch='[[16, 8], ["k3_e1"], 2]', out_indices=(0,))
    net = MODELS.build(model_cfg(backbone)).eval()
    nn.init.normal_(net.decode_head.conv_seg.weight, std=40)  # logits far apart, so that softmax matters
    return net


def predicted(net: nn.Module, image: Tensor, **test_cfg: object) -> tuple[Tensor, Tensor]:
    net.test_cfg = ConfigDict(test_cfg)
    with torch.no_grad():
        (sample,) = net.predict(image)
    return sample.seg_logits.data, sample.pred_sem_seg.data[0]


def by_hand(net: nn.Module, image: Tensor, soft: bool) -> Tensor:
    """Mean over the windows that see a pixel, of probabilities or logits."""
    total, count = torch.zeros(3, *SIZE), torch.zeros(SIZE)
    for y in ROWS:
        for x in COLUMNS:
            window = image[:, :, y : y + CROP[0], x : x + CROP[1]]
            logits, _ = predicted(net, window, mode='whole')
            total[:, y : y + CROP[0], x : x + CROP[1]] += logits.exp() / logits.exp().sum(0) if soft else logits
            count[y : y + CROP[0], x : x + CROP[1]] += 1
    assert set(count.unique().tolist()) == {1, 2, 4}
    return total / count


def test_probabilities_of_windows_are_added_up(net: nn.Module) -> None:
    image = torch.randn(1, 3, *SIZE)
    soft, hard = by_hand(net, image, soft=True), by_hand(net, image, soft=False)
    windows = dict(mode='slide', crop_size=CROP, stride=STRIDE)
    found, labels = predicted(net, image, average='softmax', **windows)
    torch.testing.assert_close(found, soft)
    assert torch.equal(labels, soft.argmax(0))
    # MMSegmentation's own average decides otherwise
    plain, plain_labels = predicted(net, image, **windows)
    torch.testing.assert_close(plain, hard)
    assert torch.equal(predicted(net, image, average='logits', **windows)[0], plain)
    assert 10 < (labels != plain_labels).sum() < labels.numel() / 2


def test_whole_images_are_decided_alike(net: nn.Module) -> None:
    image = torch.randn(1, 3, *SIZE)
    plain, labels = predicted(net, image, mode='whole')
    found, soft_labels = predicted(net, image, mode='whole', average='softmax')
    torch.testing.assert_close(found, plain.softmax(0))
    assert torch.equal(soft_labels, labels)


def test_an_average_that_there_is_not(net: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"test_cfg.average must be one of \('logits', 'softmax'\), got 'median'"):
        predicted(net, torch.zeros(1, 3, *SIZE), mode='whole', average='median')


def test_one_channel_has_no_softmax(net: nn.Module) -> None:
    net.decode_head.out_channels = 1
    with pytest.raises(ValueError, match="average='softmax' needs a channel per class, got decode_head.out_channels=1"):
        predicted(net, torch.zeros(1, 3, *SIZE), mode='whole', average='softmax')


@pytest.mark.parametrize('name', ['deeplabv3_fna_cityscapes.py', 'fna_deeplabv3_cityscapes.py'])
def test_cityscapes_is_tested_by_windows_of_the_crop(name: str) -> None:
    cfg = read(name)
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(769, 769), stride=(513, 513), average='softmax')
    assert not any(step.type in ('Resize', 'RandomCrop') for step in cfg.test_dataloader.dataset.pipeline)


@pytest.mark.parametrize('name', ['fna_deeplabv3_lite0_480.py', 'demo_fna_deeplabv3.py'])
def test_small_images_are_tested_whole(name: str) -> None:
    assert read(name).model.test_cfg == dict(mode='whole')
