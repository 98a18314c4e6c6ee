"""The search of the embedded default, RetinaNet and all, on a handful of small generated images."""

import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmnas_ext.archs import ArchSpec, zoo
from mmnas_ext.datasets import make_detection
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.resolve import resolve
from mmnas_ext.runs.run import run
from tests.engine.kept import loaded

DEMO = Path(__file__).parents[2] / 'configs' / 'demo_fna_retinanet.py'
SIZE = (64, 64)


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes') / 'det'
    make_detection(root, train=8, val=2, size=(96, 96))  # the pipelines make them 64 px
    return root


def demo(shapes, work_dir):
    """Two epochs of two iterations, the second with arch steps, and one of adaptation."""
    cfg = resolve(Config.fromfile(DEMO))
    cfg.merge_from_dict({
        'work_dir': str(work_dir),
        'log_level': 'WARNING',
        'model.backbone.input_size': SIZE,
        'model.bbox_head.stacked_convs': 1,
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.pipeline.2.scale': SIZE,
        'train_cfg.max_epochs': 2,
        'train_cfg.arch_start': 1,
        'optim_wrapper.selection': dict(
            first=1, networks=3, rounds=1, batches=1, finalists=2, most=2,
            front=dict(networks=3, candidates=1, calibration=1),
        ),
        'derived.train_dataloader.batch_size': 8,
        'derived.train_cfg.max_epochs': 1,
        'derived.train_cfg.val_interval': 1,
    })  # fmt: skip
    for name in ('train', 'val', 'test'):
        cfg[f'{name}_dataloader'].dataset.data_root = f'{shapes}/'
        if name != 'train':
            cfg[f'{name}_dataloader'].dataset.pipeline[1].scale = SIZE
            cfg[f'{name}_evaluator'].ann_file = f'{shapes}/annotations/instances_val2017.json'
    return cfg


def test_a_detector_is_searched_and_what_is_found_is_trained(shapes, tmp_path):
    cfg = demo(shapes, tmp_path)
    check_config(cfg)
    run(cfg)
    records = [json.loads(line) for line in (tmp_path / 'search_log.jsonl').read_text().splitlines()]
    assert [record['iter'] for record in records] == [2, 4]
    assert records[0]['alpha'] != records[1]['alpha']
    assert all(sum(counts) == 4 for counts in records[1]['drawn'].values())
    assert len(records[1]['drawn']) == 21
    found = ArchSpec.parse(tmp_path / 'derived' / 'arch.json')
    assert found.replace(bn_eps=zoo.space('efficientnet_lite0_det').bn_eps) in zoo.space('efficientnet_lite0_det')
    assert found.bn_eps == 1e-3  # the seed's
    assert 'SuperNet' not in (tmp_path / 'derived' / 'config.py').read_text()
    state = loaded(tmp_path / 'adapt' / 'epoch_1.pth')['state_dict']
    first = found.stages[1].specs[0]
    assert state['backbone.stages.1.0.depthwise.conv.weight'].shape[-1] == first.kernel
    scalars = [
        line for path in tmp_path.glob('adapt/*/vis_data/scalars.json') for line in path.read_text().splitlines()
    ]
    assert any('coco/bbox_mAP' in line for line in scalars)


def test_the_steps_of_a_detector_change_what_they_should(shapes, tmp_path):
    cfg = demo(shapes, tmp_path)
    cfg.custom_hooks = []
    runner = Runner.from_cfg(cfg)
    loop = runner.train_loop
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner._init_model_weights()
    model, wrapper = runner.model.train(), runner.optim_wrapper
    batch = next(loop.weight_batches)

    def tensors():
        return {
            name: tensor.clone()
            for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items()
        }

    def moved(before):
        return {name for name, tensor in tensors().items() if not torch.equal(before[name], tensor)}

    reference = copy.deepcopy(model)
    reference.backbone.set_path(None)
    data = reference.data_preprocessor(copy.deepcopy(batch), True)
    loss, _ = reference.parse_losses(reference(**data, mode='loss'))
    macs = sum((layer.alpha.softmax(0) * layer.macs).sum() for layer in reference.backbone.mixed_layers().values())
    (loss + 0.02 * torch.log10(macs / 1e9)).backward()
    wanted = [alpha.grad for alpha in reference.backbone.arch_parameters()]

    got = [None] * len(wanted)
    for number, alpha in enumerate(model.backbone.arch_parameters()):
        alpha.register_hook(lambda grad, number=number: got.__setitem__(number, grad.clone()))
    before = tensors()
    wrapper.start('arch', 0)
    model.train_step(copy.deepcopy(batch), optim_wrapper=wrapper)
    assert moved(before) == {name for name in before if name.endswith('.alpha')}
    for ours, plain in zip(got, wanted, strict=True):
        # the reference's weights have gradients, so another function computes it: batch norms enlarge the rounding
        torch.testing.assert_close(ours, plain, rtol=2e-3, atol=2e-3 * float(plain.abs().max()))

    before = tensors()
    wrapper.start('weights', 0)
    model.train_step(batch, optim_wrapper=wrapper)
    layers = model.backbone.mixed_layers()
    path = {f'{n}.candidates.{layer.tokens[layer.choice]}.' for n, layer in layers.items()}
    candidates = {name for name in moved(before) if '.candidates.' in name}
    assert candidates == {
        n for n in before if '.candidates.' in n and n.removeprefix('backbone.stages.').startswith(tuple(path))
    }
    assert {name for name in moved(before) if name.endswith('.alpha')} == set()
    assert {'neck.lateral_convs.0.conv.weight', 'bbox_head.retina_cls.weight'} <= moved(before)
