"""Every distillation config of ours builds and takes a step on the CPU, and so does what it derives."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, PARAM_SCHEDULERS, TRANSFORMS
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from mmnas_ext.archs import METRICS, CellSpace, Limit, cost, zoo
from mmnas_ext.distill import BlockDistiller
from mmnas_ext.distill.stitch import find_loose_widths
from mmnas_ext.engine.block_optim import BlockOptimWrapper, BlockOptimWrapperConstructor
from mmnas_ext.registry import MODELS
from mmnas_ext.runs.derived import distilled_config
from mmnas_ext.runs.training import is_distillation
from tests.small import CONFIGS, CROP, read
from tests.test_configs import one_step

# rates of the blocks, weight decay of parameters of several dimensions and of one
SETTINGS = {
    'dna_imagenet.py': ([0.002, 0.005, 0.005, 0.005, 0.005, 0.002], (1e-4, 0)),
    'dna_coco.py': ([0.002] * 6, (1e-4, 0)),
    'dna_lite0_128.py': ([0.002] * 6, (1e-2, 1e-2)),
    'demo_dna.py': ([0.002] * 6, (1e-2, 1e-2)),
}
RETRAIN, LARGE = 'dna_c_imagenet.py', 'dna_c_imagenet_4096.py'
DISTILLATIONS = [name for name in CONFIGS if is_distillation(read(name))]


def small(cfg: Config) -> dict[str, Any]:
    """The override: no download. All else is the config's."""
    model = dict(cfg.model)
    teacher = dict(model['teacher'])
    if 'timm' in teacher:
        teacher['pretrained'] = False
    return {**model, 'teacher': teacher}


def wrapper_of(cfg: Config, model: BlockDistiller) -> BlockOptimWrapper:
    build = {key: value for key, value in cfg.optim_wrapper.items() if key not in ('constructor', 'paramwise_cfg')}
    return BlockOptimWrapperConstructor(build, cfg.optim_wrapper.get('paramwise_cfg'))(model)


def assert_settings(
    wrapper: BlockOptimWrapper, model: BlockDistiller, rates: list[float], decays: tuple[float, float]
) -> None:
    """Of every block: its rate, the decay of its parameters of several dimensions and of one, and no clipping."""
    groups = [wrapper[f'block{k}'].optimizer.param_groups for k in range(len(model.blocks))]
    assert [{group['lr'] for group in block} for block in groups] == [{rate} for rate in rates]
    found = {p: group['weight_decay'] for block in groups for group in block for p in group['params']}
    assert found == {p: decays[p.ndim == 1] for p in model.blocks.parameters()}
    assert not any(each.clip_grad_kwargs for each in wrapper.values())


def values(model: BlockDistiller) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_there_are_distillation_configs() -> None:
    assert {'dna_imagenet.py', 'dna_coco.py', 'dna_lite0_128.py', 'demo_dna.py'} <= set(DISTILLATIONS)


@pytest.mark.parametrize('name', DISTILLATIONS)
def test_a_distillation_takes_a_step(name: str) -> None:
    cfg = read(name)
    model = MODELS.build(small(cfg))
    model.init_weights()
    model.train()
    wrapper = wrapper_of(cfg, model)
    assert_settings(wrapper, model, *SETTINGS[name])
    if (cfg.get('derived') or {}).get('weights') == 'distilled':
        assert find_loose_widths(model) == {}
    images = {'inputs': [torch.randint(256, (3, *CROP), dtype=torch.uint8) for _ in range(2)]}
    model.calibrate([model.data_preprocessor(images, False)['inputs']])
    before, taught = values(model), [p.clone() for p in model.teacher.parameters()]
    model.start(0, 0)
    losses = model.train_step(images, optim_wrapper=wrapper)
    assert set(losses) == {'loss', *(f'loss_block{k}' for k in range(len(model.blocks)))}
    assert all(torch.isfinite(value) and value > 0 for value in losses.values())
    moved = {name.split('.')[1] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {str(k) for k in range(len(model.blocks))}
    assert all(torch.equal(p, kept) for p, kept in zip(model.teacher.parameters(), taught, strict=True))


@pytest.mark.parametrize('name', [name for name in DISTILLATIONS if read(name).get('derived')])
def test_what_a_distillation_derives_takes_a_step(name: str) -> None:
    cfg = read(name)
    space = CellSpace.parse(cfg.model.space)
    cells = [len(stage.cells) - 1 for stage in space.stages]
    path = tuple((0,) * len(stage.layers) for stage in space.space(cells).stages)
    derived = distilled_config(cfg, space.arch(cells, path))
    one_step(derived)


def test_limits_and_sizes_are_those_of_the_networks_they_name() -> None:
    # the limits in the configs' comments, counted anew
    assert read('dna_lite0_128.py').val_cfg.limits.macs == cost(zoo.arch('efficientnet_lite0'), (128, 128)).macs
    demo = read('demo_dna.py').val_cfg.limits.macs / cost(zoo.arch('efficientnet_lite0'), (128, 128)).macs
    assert demo == pytest.approx(0.8, abs=0.01)


def test_dna_a_meets_the_limit_that_is_named_after_it_and_nothing_more_expensive_does() -> None:
    macs = cost(zoo.arch('dna_a'), (224, 224)).macs
    limit = Limit.parse(read('dna_imagenet.py').val_cfg.limits.macs, 'limit')
    limit.check(METRICS['macs'], (macs, macs), 'limit')
    with pytest.raises(ValueError, match='limit.max must be at least'):
        limit.check(METRICS['macs'], (macs + 1, macs + 1), 'limit')


def test_a_distillation_sees_the_authors_images_in_their_batches() -> None:
    cfg = read('dna_imagenet.py')
    assert (cfg.train_dataloader.batch_size * 8, cfg.auto_scale_lr.base_batch_size) == (512, 512)
    (schedule,) = cfg.param_scheduler
    # x0.9 after every epoch, from the first on
    assert (schedule.type, schedule.step_size, schedule.gamma, schedule.begin) == ('StepLR', 1, 0.9, 0)
    assert cfg.train_cfg.max_epochs == schedule.end == 20
    image = np.random.RandomState(0).randint(256, size=(300, 280, 3), dtype=np.uint8)
    steps = [TRANSFORMS.build(step) for step in cfg.train_dataloader.dataset.pipeline[1:]]
    np.random.seed(0)
    inputs = [Compose(steps)(dict(img=image.copy()))['inputs'] for _ in range(40)]
    assert {(tuple(x.shape), x.dtype) for x in inputs} == {((3, 224, 224), torch.uint8)}
    # erased in the mean colour, in BGR as the file was read
    colour = torch.tensor([103, 116, 123], dtype=torch.uint8)[:, None, None]
    erased = [(x == colour).all(0).float().mean() for x in inputs]
    shares = [float(share) for share in erased if share > 0.015]
    assert 10 <= len(shares) <= 30  # of 40 half, four deviations
    assert max(shares) < 0.36
    means = torch.stack([x.float().mean() for x, share in zip(inputs, erased, strict=True) if share < 0.015])
    assert means.max() > 1.2 * image.mean() and means.min() < 0.8 * image.mean()


def rates(cfg: Config) -> list[float]:
    """Learning rates of all epochs, by MMEngine."""
    model = nn.Linear(1, 1)
    optim = build_optim_wrapper(model, cfg.optim_wrapper)
    schedulers = [PARAM_SCHEDULERS.build(dict(optimizer=optim, **copy.deepcopy(s))) for s in cfg.param_scheduler]
    found = []
    for _ in range(cfg.train_cfg.max_epochs):
        found.append(optim.param_groups[0]['lr'])
        optim.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


@pytest.mark.parametrize(('name', 'rate'), [(RETRAIN, 0.064), (LARGE, 0.256)])
def test_learning_rates_are_those_that_timm_gives_the_authors_settings(name: str, rate: float) -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=rate)
    theirs, epochs = create_scheduler_v2(
        optimizer, 'step', num_epochs=500, decay_epochs=3, decay_rate=0.963, warmup_epochs=5, warmup_lr=1e-4
    )
    wanted = [theirs._get_lr(epoch)[0] for epoch in range(epochs)]
    assert rates(read(name)) == pytest.approx(wanted, rel=1e-9)
    # by hand: five epochs without decay, then as if it had been counted from the first
    assert wanted[:7] == pytest.approx(
        [1e-4 + t * (rate - 1e-4) / 5 for t in range(5)] + [rate * 0.963, rate * 0.963**2]
    )


def test_the_published_batch_is_gathered_and_averaged_once_an_update() -> None:
    cfg = read(LARGE)
    gathered = cfg.optim_wrapper.accumulative_counts
    assert gathered * 8 * cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 4096
    model = nn.Linear(1, 1, bias=False)
    optim = build_optim_wrapper(model, cfg.optim_wrapper)
    optim.initialize_count_status(model, 0, 3 * gathered)
    hook = HOOKS.build(cfg.custom_hooks[0])
    runner = SimpleNamespace(model=model, iter=0, epoch=0)
    hook.before_run(runner)
    weights = []
    for runner.iter in range(3 * gathered):
        optim.update_params(model(torch.ones(1, 1)).sum())
        weights.append(model.weight.item())
        hook.after_train_iter(runner, runner.iter)
    assert [i for i in range(1, len(weights)) if weights[i] != weights[i - 1]] == [3, 7, 11]
    # one share of 2e-4 per update; of the last one's it takes the next iteration
    average = weights[0]
    for updated in weights[gathered::gathered]:
        average += 2e-4 * (updated - average)
    assert hook.ema_model.module.weight.item() == pytest.approx(average, rel=1e-6)
    assert cfg.optim_wrapper.optimizer.lr == 0.256
