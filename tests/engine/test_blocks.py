"""A search and an adaptation of ResNet's and fused layers, from a seed of such layers, under an exact limit."""

import torch
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, SearchSpace, SpaceStage, cost, prices
from mmnas_ext.backbones import MBNet
from mmnas_ext.remap import load_seed, remap
from mmnas_ext.runs.resolve import resolve
from mmnas_ext.runs.run import run
from tests.engine import tiny
from tests.engine.kept import loaded
from tests.filling import fill_state

LAYERS = ('bottleneck_k3_e0.25', 'bottleneck_k5_e0.5', 'bottleneck_k3_e0.5_g2', 'fused_k3_e2')
SPACE = SearchSpace(
    (
        SpaceStage(8, 8, (('basic_k3_e1',), ('basic_k3_e1', 'basic_k3_e2', 'skip')), 1),
        SpaceStage(8, 16, (LAYERS, (*LAYERS, 'skip')), 2),
    ),
    act='relu',
    stem='conv7_pool',
)
SEED = SPACE.arch(((0, 2), (0, 4)))


def test_both_halves_take_blocks_a_stem_and_a_limit(tmp_path):
    seed = MBNet(SEED, out_indices=(1,))
    seed.load_state_dict(fill_state(seed.state_dict()))
    torch.save(seed.state_dict(), tmp_path / 'seed.pth')
    low, high = prices(SPACE, tiny.SIZE).range()
    limit = (low + high) / 2
    cfg = tiny.search_cfg(tmp_path / 'run')
    init = {'type': 'mmnas_ext.Remapped', 'seed': {'checkpoint': str(tmp_path / 'seed.pth'), 'arch': SEED.format()}}
    cfg.model.backbone = tiny.supernet_cfg(space=SPACE.format(), out_indices=(1,), init_cfg=init, affine=True)
    cfg.derived.model.backbone.out_indices = (1,)
    cfg.optim_wrapper.cost = {'weight': 0.0, 'max': limit}
    cfg.derived.optim_wrapper.optimizer.lr = 1e-3
    run(resolve(cfg))
    found = ArchSpec.parse(tmp_path / 'run' / 'derived' / 'arch.json')
    assert found.replace(bn_eps=None) in SPACE
    assert low <= cost(found, tiny.SIZE).macs <= limit
    derived = Config.fromfile(tmp_path / 'run' / 'derived' / 'config.py').model.backbone
    assert derived.arch.endswith('|act=relu|stem=conv7_pool')
    assert ArchSpec.parse(derived.arch).stages == found.stages
    state = loaded(tmp_path / 'run' / 'adapt' / 'epoch_2.pth')
    weights = {k.removeprefix('backbone.'): v for k, v in state['state_dict'].items() if k.startswith('backbone.')}
    net = MBNet(derived.arch, out_indices=(1,))
    net.load_state_dict(weights)
    assert type(net.stem).__name__ != 'ConvModule'  # with its pooling
    # a found network is read back as a seed, and has learned from where remapping began
    torch.save(net.state_dict(), tmp_path / 'found.pth')
    assert load_seed(tmp_path / 'found.pth', derived.arch).arch.stages == found.stages
    began, _ = remap(load_seed(tmp_path / 'seed.pth', SEED), found)
    stem = [state['stem.conv.weight'] for state in (weights, began)]
    assert 0 < (stem[0] - stem[1]).abs().mean() < 0.2 * stem[1].abs().mean()
