"""Teachers and spaces small enough to compute every path by hand."""

from typing import Any

import torch
from torch import Tensor, nn

from mmnas_ext.archs import CellSpace
from mmnas_ext.distill import BlockDistiller, Teacher
from mmnas_ext.registry import MODELS

ARCH = '[[8, 8], ["k3_e1"], 1]|[[8, 12], ["k3_e3", "k5_e3"], 2]|[[12, 16], ["k3_e3"], 2]'
CANDIDATES = ['k3_e3', 'k5_e6', 'k3_e6']
# one stride more than the teacher has
DEEP = [{'stride': 2, 'channels': [8], 'depths': [1], 'candidates': CANDIDATES}] * 3


def space(second: int = 12, third: int = 16, depths: tuple[int, ...] = (1, 2), **changes: Any) -> CellSpace:
    """A fixed stage, one with two depths, and one of one layer; their widths are the teacher's unless given."""
    return CellSpace.parse(
        {
            'stem_channels': 8,
            'stages': [
                {'stride': 1, 'channels': [8], 'depths': [1], 'candidates': ['k3_e1']},
                {'stride': 2, 'channels': [second], 'depths': list(depths), 'candidates': CANDIDATES},
                {'stride': 2, 'channels': [third], 'depths': [1], 'candidates': CANDIDATES[:2]},
            ],
            **changes,
        }
    )


def teacher(**kwargs: Any) -> Teacher:
    """A random `MBNet` whose batch norms do something."""
    torch.manual_seed(1)
    net = Teacher(backbone=dict(type='mmnas_ext.MBNet', arch=ARCH, out_indices=(2,)), **kwargs)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
    return net


def distiller(cells: CellSpace | None = None, train_mode: bool = False, **kwargs: Any) -> BlockDistiller:
    """A distiller in training mode, calibrated on random images."""
    built = MODELS.build(
        dict(
            type='mmnas_ext.BlockDistiller', teacher=teacher(train_mode=train_mode), space=cells or space(),
            input_size=(32, 32), **kwargs,
        )
    )  # fmt: skip
    torch.manual_seed(2)
    built.init_weights()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):  # residual branches begin at zero
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
    if built.standardize:
        built.calibrate([images(16)])
    return built.train()


def images(count: int, seed: int = 0) -> Tensor:
    """Random images with some structure, ``(count, 3, 32, 32)``."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 8, 8, generator=generator)
    fine = torch.randn(count, 3, 32, 32, generator=generator)
    return nn.functional.interpolate(coarse, scale_factor=4) + 0.3 * fine


def batches(model: BlockDistiller, block: int, sizes: tuple[int, ...], seed: int) -> list[tuple[Tensor, Tensor]]:
    """What enters a block and what it should give, in batches of these sizes."""
    found = []
    for number, size in enumerate(sizes):
        x = images(size, seed + number)
        features = model.features(x)
        found.append((model.entering(block, x, features), features[model.all_blocks()[block].plan.target]))
    return found
