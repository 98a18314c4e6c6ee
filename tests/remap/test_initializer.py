"""``init_cfg=dict(type='mmnas_ext.Remapped', …)`` in backbones, alone and inside a detector-like module."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.archs import ArchSpec, SearchSpace, SpaceStage, StageSpec
from mmnas_ext.backbones import MBNet, SuperNet
from mmnas_ext.registry import WEIGHT_INITIALIZERS
from mmnas_ext.remap import Seed, initializer, remap
from mmnas_ext.remap.initializer import RemappedInit
from tests.remap.samples import seed_of

ARCH = ArchSpec((StageSpec(4, 3, ('k3_e1',), 1), StageSpec(3, 5, ('k3_e2', 'k3_e3_se0.5'), 2)), 6, bn_eps=3e-3)
TARGET = ArchSpec((StageSpec(4, 3, ('k3_e1',), 1), StageSpec(3, 5, ('k5_e2', 'k3_e2_se0.5', 'k3_e2'), 2)))
SPACE = SearchSpace((SpaceStage(4, 3, (('k3_e1',),), 1), SpaceStage(3, 5, (('k3_e2', 'k5_e3'), ('k3_e1', 'skip')), 2)))


@pytest.fixture(scope='module')
def seed() -> Seed:
    return seed_of(ARCH)


@pytest.fixture
def checkpoint(seed: Seed, tmp_path: Path) -> Path:
    path = tmp_path / 'seed.pth'
    torch.save(seed.state_dict, path)
    return path


def config(seed: Any, **options: Any) -> dict[str, Any]:
    return dict(type='mmnas_ext.Remapped', seed=seed, **options)


def holds(module: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    built = module.state_dict()
    return all(torch.equal(built[name], tensor) for name, tensor in state.items())


def norms(module: nn.Module) -> list[float]:
    return [child.eps for child in module.modules() if isinstance(child, _BatchNorm)]


def test_a_network_starts_from_the_seed(seed: Seed, checkpoint: Path) -> None:
    net = MBNet(TARGET, out_indices=(1,), init_cfg=config(dict(checkpoint=str(checkpoint), arch=ARCH)))
    net.init_weights()
    expected, _ = remap(seed, TARGET)
    assert holds(net, expected)
    assert set(norms(net)) == {3e-3} and len(norms(net)) == 12
    assert net.is_init


def test_a_super_network_starts_from_the_seed_and_keeps_its_alphas(seed: Seed, checkpoint: Path) -> None:
    net = SuperNet(
        SPACE, out_indices=(1,), input_size=(32, 32), init_cfg=config(dict(checkpoint=checkpoint, arch=ARCH))
    )
    alphas = [alpha.detach().clone() for alpha in net.arch_parameters()]
    net.init_weights()
    expected, _ = remap(seed, SPACE)
    assert holds(net, expected)
    assert len(alphas) == 2
    assert all(torch.equal(a, b) for a, b in zip(alphas, net.arch_parameters(), strict=True))
    # those of candidates too, which have no tensors
    assert set(norms(net)) == {3e-3} and len(norms(net)) == 1 + 2 + 3 + 3 + 2


def test_policies_and_noise_reach_remap(seed: Seed) -> None:
    options = dict(depth='last', width='l1', kernel='dilated', noise=1e-2)
    wider = TARGET.replace(stages=(TARGET.stages[0], StageSpec(3, 7, TARGET.stages[1].layers, 2)))
    net = MBNet(wider, out_indices=(1,), init_cfg=config(seed, **options))
    net.init_weights()
    assert holds(net, remap(seed, wider, **options)[0])
    assert not holds(net, remap(seed, wider)[0])


def test_epsilon_travels_with_the_weights(seed: Seed) -> None:
    # a seed given whole says nothing when the network is built
    built = [
        MBNet(TARGET, out_indices=(1,), init_cfg=config(seed)),
        SuperNet(SPACE, out_indices=(1,), input_size=(32, 32), init_cfg=config(seed)),
    ]
    assert [set(norms(net)) for net in built] == [{1e-5}, {1e-5}]
    for net in built:
        net.init_weights()
    assert [set(norms(net)) for net in built] == [{3e-3}, {3e-3}]


def test_head_is_loaded_where_it_is_built(seed: Seed) -> None:
    with_head = MBNet(ARCH, out_indices=(2,), init_cfg=config(seed))
    without = MBNet(ARCH, out_indices=(1,), init_cfg=config(seed))
    for net in (with_head, without):
        net.init_weights()
    assert holds(with_head, seed.state_dict)
    assert holds(without, {k: v for k, v in seed.state_dict.items() if not k.startswith('head.')})


class Detector(BaseModule):
    """A backbone and one layer more, initialised as MMEngine's models are."""

    def __init__(self, backbone: dict[str, Any]) -> None:
        super().__init__(init_cfg=dict(type='Constant', layer='Conv2d', val=7.0))
        self.backbone = MODELS.build(backbone)
        self.neck = nn.Conv2d(5, 2, 1)


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmnas_ext'])
def test_a_models_own_initialisation_does_not_overwrite_it(scope: str, seed: Seed, checkpoint: Path) -> None:
    backbone = dict(
        type='mmnas_ext.MBNet',
        arch=TARGET,
        out_indices=(1,),
        init_cfg=config(dict(checkpoint=str(checkpoint), arch=ARCH)),
    )
    with DefaultScope.overwrite_default_scope(scope):
        model = Detector(backbone)
        model.init_weights()
    assert holds(model.backbone, remap(seed, TARGET)[0])
    assert model.neck.weight.flatten().tolist() == [7.0] * 10
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    model.init_weights()
    assert holds(model.backbone, before)


class Plain(BaseModule):
    """Keeps MMEngine's own ``init_weights``, whose children initialise themselves after their parent."""

    def __init__(self, init_cfg: Any) -> None:
        super().__init__(init_cfg)
        built = MBNet(TARGET, out_indices=(1,))
        self.arch = TARGET
        self.stem = built.stem
        self.stages = built.stages
        assert isinstance(self.stem, ConvModule)


@pytest.mark.parametrize('listed', [False, True])
def test_children_of_any_module_are_not_initialised_again(listed: bool, seed: Seed) -> None:
    cfg = config(seed)
    net = Plain([dict(type='Constant', layer='Conv2d', val=7.0), cfg] if listed else cfg)
    net.init_weights()
    assert holds(net, remap(seed, TARGET)[0])


def test_nothing_is_read_before_weights_are_initialised() -> None:
    net = MBNet(TARGET, out_indices=(1,), init_cfg=config('/nowhere/seed.pth'))
    with pytest.raises(FileNotFoundError, match=r'/nowhere/seed\.pth'):
        net.init_weights()


def test_config_is_left_alone(seed: Seed, checkpoint: Path) -> None:
    cfg = config(dict(checkpoint=str(checkpoint), arch=ARCH))
    for _ in range(2):
        MBNet(TARGET, out_indices=(1,), init_cfg=cfg).init_weights()
    assert cfg == config(dict(checkpoint=str(checkpoint), arch=ARCH))


def test_summary_and_table_are_logged(seed: Seed, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[str, int]] = []
    monkeypatch.setattr(
        initializer, 'print_log', lambda text, logger, level=logging.INFO: lines.append((f'{logger}: {text}', level))
    )
    report = RemappedInit(seed)(MBNet(TARGET, out_indices=(1,)))
    assert lines == [
        (f'current: MBNet from a `Seed` object, batch-norm eps 0.003: {report}', logging.INFO),
        (f'current: MBNet, remapped tensors:\n{report.table()}', logging.DEBUG),
    ]


def test_registered_under_its_name() -> None:
    assert WEIGHT_INITIALIZERS.get('Remapped') is RemappedInit
    assert WEIGHT_INITIALIZERS.get('mmnas_ext.Remapped') is RemappedInit


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (dict(seed=3), TypeError, 'seed must be a dict of .* got int'),
        (
            dict(seed=dict(arch='mobilenet_v2')),
            ValueError,
            r"must have the key 'checkpoint' .* got the keys \['arch'\]",
        ),
        (dict(seed=dict(checkpoint='a', network='b')), ValueError, r"got the keys \['checkpoint', 'network'\]"),
        (dict(seed='a.pth', width='widest'), ValueError, 'width must be one of'),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RemappedInit(**arguments)


def test_module_without_an_architecture(seed: Seed) -> None:
    with pytest.raises(TypeError, match='must be an MBNet or a SuperNet, got Conv2d'):
        RemappedInit(seed)(nn.Conv2d(1, 1, 1))


def test_norm_of_another_kind(seed: Seed) -> None:
    net = MBNet(TARGET, out_indices=(1,), norm_cfg=dict(type='GN', num_groups=1))
    with pytest.raises(ValueError, match='must have the tensors of its architecture .norm_cfg must be a batch norm'):
        RemappedInit(seed)(net)
