"""What every network of the zoo keeps to, under its own name."""

import pytest
import torch

from mmnas_ext.archs import zoo
from mmnas_ext.backbones.named import NAMES
from mmnas_ext.registry import MODELS


def test_every_network_of_the_zoo_has_a_name() -> None:
    spaces = {'fna_det', 'fna_seg', 'efficientnet_lite0_det'}
    assert sorted(NAMES.values()) == sorted(set(zoo.names()) - spaces)
    assert len(NAMES) == 17


@pytest.mark.parametrize(
    ('name', 'eps'),
    [
        ('MobileNetV2MB', 1e-5),
        ('EfficientNetLite0MB', 1e-3),
        ('FNA_SSDLite', 1e-5),
        ('DNA_a', 1e-5),
        ('ResNet18MB', 1e-5),
        ('MobileNetV3LargeMB', 1e-3),
    ],
)
def test_epsilon_of_the_batch_norms(name: str, eps: float) -> None:
    net = MODELS.build(dict(type=name))
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) >= 20
    assert {norm.eps for norm in norms} == {eps}


def test_a_named_network_says_which_arguments_it_does_not_take() -> None:
    with pytest.raises(TypeError, match="multiple values for keyword argument 'arch'"):
        MODELS.build(dict(type='DNA_a', arch='dna_b'))
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        MODELS.build(dict(type='DNA_a', depth=50))
