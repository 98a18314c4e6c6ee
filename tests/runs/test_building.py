"""Met before the first step, in one sentence: models, loaders and classes that cannot be, and keys of a wrong type."""

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import nn

from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine import DeriveHook
from mmnas_ext.runs.building import built
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.classes import check_classes, check_heads, check_names
from mmnas_ext.runs.keys import check_keys, check_shape, fits
from mmnas_ext.runs.later import list_later
from mmnas_ext.runs.run import prepare
from tests.engine import tiny, tiny_distill, tiny_seg, tiny_trials
from tests.runs.tiny_coco import coco_of
from tests.small import CONFIGS, read

NAMES = ('circle', 'square', 'triangle')


def refused(cfg, **how):
    """What a check says of a config."""
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as error:
        check_config(cfg, **how)
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'derived.model.backbone.frozen_stages': -7}, 'derived: model: frozen_stages must lie in -1..3, got -7'),
    ({'train_dataloader.batch_size': 64, 'train_dataloader.drop_last': True},
     'train_dataloader.batch_size is larger than the weights half of its dataset'),
    ({'derived.train_dataloader': {'batch_size': 64, 'drop_last': True}},
     'derived: train_dataloader: batch_size=64 is more than the 12 images that a process has, and drop_last leaves no '
     'batch: take a smaller one'),
    ({'train_cfg.weight_fraction': 0.99, 'train_dataloader.drop_last': True}, 'the arch half'),
    ({'model.type': 'TinyModell'}, "model: type 'TinyModell' is not known: did you mean 'TinyModel'?"),
    ({'derived.model.backbone.type': 'mmnas_ext.MBNett'}, "type 'mmnas_ext.MBNett' is not known"),
    ({'model.dropuot': 0.1}, "TypeError: BaseModel.__init__() got an unexpected keyword argument 'dropuot'"),
    ({'derived.optim_wrapper.optimizer.type': 'SDG'},
     "derived: optim_wrapper: type 'SDG' is not known: did you mean 'SGD'?"),
    ({'derived.optim_wrapper.optimizer.momentm': 0.9}, 'derived: optim_wrapper: '),
    ({'derived.custom_hooks': [{'type': 'ReseedHook'}]}, "default_scope: write 'mmnas_ext.ReseedHook', or"),
    ({'derived.custom_hooks': [{'type': 'EMAHok'}]}, "type 'EMAHok' is not known: did you mean 'EMAHook'"),
    ({'default_hooks.logger.intervall': 3}, "intervall is no argument of LoggerHook: did you mean 'interval'?"),
    ({'derived.train_dataloader': {'dataset': {'pipeline': [{'type': 'TinyPlane'}]}}},
     "derived: train_dataloader.dataset: type 'TinyPlane' is not known: did you mean 'TinyPlain'?"),
    ({'train_dataloader.collate_fn.type': 'default_colate'}, 'train_dataloader: '),
    ({'val_cfg': {}}, 'val_cfg needs val_dataloader and val_evaluator beside it, which this config lacks'),
    ({'derived.train_cfg.max_epochs': 'x'}, "derived: train_cfg: max_epochs must be a positive integer, got 'x'"),
    ({'derived.train_cfg.max_epochs': 0}, 'derived: train_cfg: max_epochs must be a positive integer, got 0'),
    ({'derived.train_cfg.val_interval': -1}, 'derived: train_cfg: val_interval must be a positive integer, got -1'),
    ({'derived.param_scheduler': [{'type': 'LinearLR', 'end': 'abc'}]},
     "derived: param_scheduler.0: end must be an integer, got 'abc'"),
    ({'derived.param_scheduler': [{'type': 'LinearLR', 'start_factor': 2}]}, 'derived: param_scheduler.0: '),
    ({'param_scheduler': [{'type': 'LinearLR', 'by_epoch': False, 'begin': 12}]},
     'param_scheduler.0: end should be larger than begin, but got begin=12, end=12'),
    ({'derived.default_hooks.checkpoint.interval': 'abc'},
     "derived: default_hooks.checkpoint: interval must be an integer, got 'abc'"),
    ({'derived.default_hooks.checkpoint.interval': 0},
     'derived: default_hooks.checkpoint: interval must be a positive integer, or -1 for never, got 0'),
    ({'derived.optim_wrapper.optimizer.lr': 'abc'}, "optim_wrapper: optimizer.lr must be a number, got 'abc'"),
    ({'derived.optim_wrapper.accumulative_counts': 0},
     'derived: optim_wrapper: accumulative_counts must be a positive integer, got 0'),
    ({'train_cfg.split_seed': -1}, 'train_cfg.split_seed must be an integer in 0..4294967295, got -1'),
    ({'train_cfg.weight_fraction': 1.0}, 'train_cfg.weight_fraction must be greater than 0 and less than 1, got 1.0'),
    ({'derived.train_cfgg': {'max_epochs': 1}},
     "derived.train_cfgg has no effect: nothing reads a key of this name: did you mean 'train_cfg'?"),
    ({'derived.work_dir': 'x'}, 'derived.work_dir has no effect: it is of the whole run, set work_dir beside derived'),
    ({'derived.modle': {}}, "did you mean 'model'?"),
    ({'derived.load_from': '/nowhere.pth'}, 'derived: load_from: checkpoint /nowhere.pth does not exist'),
])  # fmt: skip
def test_what_cannot_be_built_is_said_before_the_run(tmp_path, changes, message):
    assert message in refused(tiny.search_cfg(tmp_path / 'run', **changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('changes', [
    {'train_cfg.arch_start': '8'}, {'train_cfg.split_seed': 'x'}, {'train_cfg.split_seed': 1.5},
    {'train_cfg.weight_fraction': '0.5'}, {'train_cfg.arch_interval': 0}, {'train_cfg.arch_interval': None},
    {'train_cfg.max_epochs': 2.5}, {'train_cfg.arch_strat': 1}, {'train_cfg': 3},
    {'optim_wrapper.cost': 3}, {'optim_wrapper.cost.weight': 'much'}, {'optim_wrapper.weights': 3},
    {'optim_wrapper.arch': None}, {'optim_wrapper': 'SGD'},
    {'model.backbone.out_indices': 'abc'}, {'model.backbone.out_indices': [None]}, {'model.backbone.out_indices': 2.0},
    {'model.backbone.input_size': 16}, {'model.backbone.input_size': ('a', 'b')}, {'model.backbone.affine': 'yes'},
    {'model.backbone.output_stride': '8'}, {'model.backbone.frozen_stages': 'all'}, {'model.backbone.with_cp': 1},
    {'model.backbone.norm_cfg': 'BN'}, {'model.backbone.space': 3}, {'model.backbone': 'SuperNet'}, {'model': 3},
    {'derived': 3}, {'derived.model.backbone.drop_path_rate': 'some'}, {'derived.model.backbone.out_indices': 'abc'},
    {'derived.optim_wrapper': 3}, {'derived.train_cfg': [1]}, {'derived.model': 'MBNet'},
    {'custom_hooks': [{'type': 'mmnas_ext.SearchMonitorHook', 'interval': 'often'}]}, {'custom_hooks': 'DeriveHook'},
    {'custom_hooks': [{'type': 'mmnas_ext.DeriveHook', 'interval': 0}]},
    {'train_dataloader.dataset': 'coco'}, {'train_dataloader.batch_size': 'two'}, {'train_dataloader': 3},
    {'train_dataloader.batch_size': None}, {'randomness': 3}, {'randomness.seed': 'x'}, {'param_scheduler': 3},
])  # fmt: skip
def test_values_of_a_wrong_type_are_refused(tmp_path, changes):
    cfg = tiny.search_cfg(tmp_path)
    for key, value in changes.items():
        *above, last = key.split('.')
        owner = cfg
        for name in above:
            owner = owner[name]
        owner[last] = value
    message = refused(cfg)
    assert key.rpartition('.')[2] in message, message
    assert len(message) < 500


@pytest.mark.parametrize('changes', [
    {'limit': 3}, {'limit': {'max': '1e6'}}, {'trial': 'short'}, {'count': '3'}, {'rank_by': 3}, {'seed': None},
    {'keep_checkpoints': 'all'}, {'rule': 1},
])  # fmt: skip
def test_values_of_a_wrong_type_in_a_random_search(tmp_path, changes):
    cfg = tiny_trials.random_cfg(tmp_path)
    cfg.random_search.update(changes)
    assert f'random_search.{next(iter(changes))}' in refused(cfg)


def test_values_of_a_wrong_type_in_a_distillation(tmp_path):
    for key, value in (('model.sampling', 3), ('model.input_size', 'big'), ('train_cfg.calibration_batches', 'x'),
                       ('train_cfg.staged', 'no'), ('val_cfg.max_memory', '4 GB')):  # fmt: skip
        message = refused(tiny_distill.config(tmp_path, **{key: value}))
        assert key in message, message


def test_a_search_class_left_in_a_pure_python_config(tmp_path):
    """Classes as such, not their names: no text has them in quotes."""
    cfg = tiny.search_cfg(tmp_path)
    cfg.derived.model.backbone = {'type': SuperNet, 'space': tiny.SPACE.format(), 'out_indices': (2,)}
    cfg.derived.custom_hooks = [{'type': DeriveHook}]
    assert refused(cfg) == (
        "derived=dict(…) leaves ['DeriveHook', 'SuperNet'] of the search in place: say there what replaces them"
    )


def test_a_search_class_left_in_a_config_of_imports(tmp_path):
    """MMEngine's pure-Python style, in which a config imports classes and their names become text late."""
    cfg = tiny.search_cfg(tmp_path / 'run').to_dict()
    cfg.pop('custom_imports')
    text = '\n'.join(f'{key} = {value!r}' for key, value in cfg.items())
    left = text.replace("'type': 'mmnas_ext.MBNet'", "'type': SuperNet, 'space': 'fna_det'")
    files = {name: tmp_path / f'{name}.py' for name in ('sound', 'left')}
    for file, body in zip(files.values(), (text, left), strict=True):
        body = body.replace("'type': 'mmnas_ext.SuperNet'", "'type': SuperNet")
        file.write_text(f'from mmnas_ext.backbones import SuperNet\n{body}\n')
    assert prepare(str(files['sound'])).model.backbone.type is SuperNet
    check_config(prepare(str(files['sound'])))
    assert "derived=dict(…) leaves ['SuperNet'] of the search in place" in refused(prepare(str(files['left'])))


def test_the_arguments_of_a_class_that_is_no_text(tmp_path):
    cfg = tiny.search_cfg(tmp_path)
    cfg.model.backbone.type = SuperNet
    cfg.model.backbone.with_cp = 'no'
    assert refused(cfg) == "model.backbone.with_cp must be True or False, got 'no'"


def test_annotations_as_values_have_them():
    good = [((1, 2), tuple[int, int]), ([1], list[int]), (1, float), (None, int | None), ('1.expand', list[str] | str)]
    bad = [((1,), tuple[int, int]), (True, int), ('1', float), (1.5, int), (['a'], list[int]), (3, dict[str, int])]
    assert all(fits(value, hint) for value, hint in good)
    assert not any(fits(value, hint) for value, hint in bad)
    check_keys({'model': {'backbone': {'type': 'mmnas_ext.MBNet', 'arch': 'x', 'out_indices': 2}}})


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_of_ours_has_keys_that_are_known(name):
    check_shape(read(name))
    check_keys(read(name))


def test_what_no_check_has_thought_of_is_one_sentence_too(tmp_path, monkeypatch):
    monkeypatch.setattr('mmnas_ext.runs.checks.check_mode', lambda *args: {}['gone'])
    assert refused(tiny.search_cfg(tmp_path)) == "this config cannot be run: KeyError: 'gone'"


def test_a_message_of_ours_is_said_as_it_is_whatever_its_type(tmp_path):
    """A transform of a half that is no list, which its loop refuses by a TypeError."""
    message = refused(tiny.search_cfg(tmp_path, **{'train_cfg.pipelines': {'weights': 3}}))
    assert message == 'train_cfg.pipelines.weights must be a list of transforms, got int'
    with pytest.raises(TypeError, match='got _Pin'):
        check_config(tiny.search_cfg(tmp_path, **{'model.backbone.space': _Pin()}))


class _Pin:
    """Nothing that a space is read of."""


def test_an_error_of_another_process_is_raised_here(tmp_path, monkeypatch):
    monkeypatch.setattr('mmnas_ext.runs.checks.all_gather_object', lambda mine: [mine, 'image 7 cannot be read'])
    assert refused(tiny.search_cfg(tmp_path)) == 'another process: image 7 cannot be read'


class Heads(nn.Module):
    """Heads of some numbers of classes."""

    def __init__(self, **counts):
        super().__init__()
        for name, count in counts.items():
            head = nn.Identity()
            head.num_classes = count
            self.add_module(name, head)


class Named:
    """A dataset of named classes."""

    def __init__(self, *classes):
        self.metainfo = {'classes': classes}


def test_a_head_of_boundaries_counts_other_things():
    model = Heads(decode_head=3)
    model.auxiliary_head = type('STDCHead', (nn.Module,), {})()
    model.auxiliary_head.num_classes = 2
    check_heads(model, {'train': Named(*NAMES)})


@pytest.mark.parametrize('count', [2, 80])
@pytest.mark.parametrize('place', ['bbox_head', 'decode_head', 'auxiliary_head'])
def test_heads_must_have_the_datasets_classes(place, count):
    check_heads(Heads(**{place: 3}), {'train': Named(*NAMES)})
    check_heads(Heads(**{place: count}), {'train': Named()})
    check_heads(Heads(rpn_head=1, backbone=1000, **{place: 3}), {'train': Named(*NAMES)})
    with pytest.raises(ValueError, match=f"model.{place} has num_classes={count}, and val_dataloader.dataset has "
                                         "'circle', 'square', 'triangle': set num_classes=3"):  # fmt: skip
        check_heads(Heads(**{place: count}), {'val': Named(*NAMES)})


def test_sets_must_agree_in_their_classes():
    with pytest.raises(ValueError, match="train_dataloader and test_dataloader must have the same classes .*'sqare'"):
        check_heads(
            Heads(), {'train': Named(*NAMES), 'val': Named(*NAMES), 'test': Named('circle', 'sqare', 'triangle')}
        )


def coco_cfg(root, classes, part='train2017', **changes):
    return {
        'type': 'mmdet.CocoDataset', 'data_root': str(root), 'metainfo': {'classes': classes},
        'ann_file': f'annotations/instances_{part}.json', 'data_prefix': {'img': part}, **changes,
    }  # fmt: skip


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes')
    coco_of(root, 'train2017', NAMES)
    return root


@pytest.mark.parametrize(('classes', 'said'), [
    (('circle', 'sqare', 'triangle'), "has no class 'sqare': did you mean 'square'?"),
    (('Circle', 'Square'),
     "has no class of metainfo.classes: it has 'circle', 'square', 'triangle'; did you mean 'circle'?"),
    (('lorry',), "has no class of metainfo.classes: it has 'circle', 'square', 'triangle'"),
])  # fmt: skip
def test_class_names_that_no_annotation_has(coco, classes, said):
    with pytest.raises(ValueError, match=r'x: .*instances_train2017.json ') as error:
        check_classes(DATASETS.build(coco_cfg(coco, classes)), 'x')
    assert said in str(error.value)


def test_a_subset_of_the_classes_is_no_mistake(coco):
    check_classes(DATASETS.build(coco_cfg(coco, ('square', 'triangle'))), 'x')


def test_class_names_that_a_segmentation_dataset_does_not_know():
    with pytest.raises(ValueError, match="x: class 'rode' is none of the 19 of CityscapesDataset: did you mean 'road'"):
        check_names({'type': 'mmseg.CityscapesDataset', 'metainfo': {'classes': ['rode', 'car']}}, 'x')


def detector(coco, work_dir, **changes):
    """A small detector of the three shapes."""
    backbone = dict(type='ResNet', depth=18, num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,),
                    base_channels=8, stem_channels=8)  # fmt: skip
    head = dict(type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1)
    neck = dict(type='FPN', in_channels=[8], out_channels=8, num_outs=5)
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
    sampler = dict(type='DefaultSampler', shuffle=True)
    loader = dict(batch_size=2, sampler=sampler, dataset=coco_cfg(coco, NAMES, pipeline=steps))
    metric = dict(type='CocoMetric', ann_file=str(coco / 'annotations' / 'instances_train2017.json'))
    cfg = Config(
        dict(
            default_scope='mmdet', work_dir=str(work_dir), log_level='WARNING', randomness=dict(seed=0),
            model=dict(type='RetinaNet', data_preprocessor=dict(type='DetDataPreprocessor'), backbone=backbone,
                       neck=neck, bbox_head=head, test_cfg=dict(nms_pre=9, score_thr=0.05, max_per_img=5,
                                                                nms=dict(type='nms', iou_threshold=0.5))),
            train_dataloader=loader, train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
            val_dataloader=loader, val_cfg=dict(), val_evaluator=metric,
            test_dataloader=loader, test_cfg=dict(), test_evaluator=metric,
        )
    )  # fmt: skip
    cfg.merge_from_dict(changes)
    return cfg


def test_a_detector_of_other_classes_is_refused(coco, tmp_path):
    check_config(detector(coco, tmp_path))
    assert 'model.bbox_head has num_classes=80' in refused(
        detector(coco, tmp_path, **{'model.bbox_head.num_classes': 80})
    )
    misspelt = {'train_dataloader.dataset.metainfo.classes': ('circle', 'sqare', 'triangle')}
    assert "no class 'sqare': did you mean 'square'?" in refused(detector(coco, tmp_path, **misspelt))


def test_missing_files_are_named_all_at_once_and_a_missing_test_set_stops_no_training(coco, tmp_path, monkeypatch):
    missing = {f'{name}_dataloader.dataset.ann_file': f'{name}.json' for name in ('train', 'val')}
    message = refused(detector(coco, tmp_path, **missing, **{'train_dataloader.dataset.data_prefix.img': 'gone'}))
    assert message.startswith(f'train_dataloader.dataset wants {coco}/train.json, which does not exist, nor does ')
    assert f'{coco}/gone, {coco}/val.json of val_dataloader.dataset: put the data there' in message
    warned = []
    monkeypatch.setattr('mmnas_ext.runs.checks.warn', warned.append)
    check_config(detector(coco, tmp_path, **{'test_dataloader.dataset.ann_file': 'test.json'}))
    assert len(warned) == 1
    assert warned[0].startswith(f'test_dataloader.dataset wants {coco}/test.json, which does not exist')


def test_a_set_of_which_a_filter_leaves_nothing(coco, tmp_path):
    filtered = {'train_dataloader.dataset.filter_cfg': {'filter_empty_gt': True, 'min_size': 1000}}
    assert refused(detector(coco, tmp_path, **filtered)).startswith('train_dataloader.dataset has no image')


@pytest.mark.parametrize('wrapped', [False, True])
def test_class_names_are_why_a_filter_leaves_nothing(coco, tmp_path, wrapped):
    cfg = detector(coco, tmp_path, **{'train_dataloader.dataset.metainfo.classes': ('lory', 'Circles', 'bus')})
    leaf = cfg.train_dataloader.dataset
    leaf.filter_cfg = {'filter_empty_gt': True}
    if wrapped:
        cfg.train_dataloader.dataset = {'type': 'RepeatDataset', 'times': 2, 'dataset': leaf}
    assert refused(cfg) == (
        f'train_dataloader.dataset: {coco}/annotations/instances_train2017.json has no class of metainfo.classes: it '
        "has 'circle', 'square', 'triangle'; did you mean 'circle'?"
    )


@pytest.fixture(scope='module')
def voc(tmp_path_factory):
    """Three images: two circles, of which one has a part with a name, a square, and nothing."""
    root = tmp_path_factory.mktemp('voc')
    for folder in ('Annotations', 'JPEGImages'):
        (root / folder).mkdir()
    for number, names in enumerate((['circle', 'circle'], ['square'], [])):
        objects = ''.join(
            f'<object><name>{name}</name><part><name>triangles</name></part><bndbox><xmin>4</xmin><ymin>4</ymin>'
            '<xmax>30</xmax><ymax>30</ymax></bndbox></object>'
            for name in names
        )
        size = '<size><width>48</width><height>40</height></size>'
        (root / 'Annotations' / f'{number}.xml').write_text(f'<annotation>{size}{objects}</annotation>')
    (root / 'train.txt').write_text('0\n1\n2\n')
    return root


def voc_cfg(root, classes, **changes):
    return {
        'type': 'mmdet.XMLDataset', 'data_root': f'{root}/', 'ann_file': 'train.txt',
        'data_prefix': {'sub_data_root': ''}, 'metainfo': {'classes': classes}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(('classes', 'said'), [
    (('circle', 'sqare'), "train.txt has no class 'sqare': did you mean 'square'?"),
    (('circle', 'bus', 'Square'), "train.txt has no class 'Square': did you mean 'square'?"),
    (('bus', 'cirlce'), "has no class of metainfo.classes: it has 'circle', 'square'; did you mean 'circle'?"),
])  # fmt: skip
def test_class_names_that_no_xml_file_has(voc, classes, said):
    with pytest.raises(ValueError, match=r'^x: .*train.txt has no class') as error:
        check_classes(DATASETS.build(voc_cfg(voc, classes)), 'x')
    assert said in str(error.value)


def test_a_class_without_an_object_is_warned_of(voc, monkeypatch):
    """One of a name near to that of another class is no mistake, nor are classes that a subset leaves out."""
    said = []
    monkeypatch.setattr('mmnas_ext.runs.classes.print_log', lambda text, **_: said.append(text))
    for classes in (('circle', 'square', 'squares'), ('square',), ('circle', 'square')):
        check_classes(DATASETS.build(voc_cfg(voc, classes)), 'x')
    assert said == [f"x: no image of {voc}/train.txt has an object of 'squares'"]


def test_xml_files_of_none_of_the_classes(coco, voc, tmp_path):
    cfg = detector(coco, tmp_path)
    steps = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset = voc_cfg(voc, ('bus',), filter_cfg={'filter_empty_gt': True}, pipeline=steps)
    assert "has no class of metainfo.classes: it has 'circle', 'square'" in refused(cfg)


@pytest.mark.parametrize(('changes', 'said'), [
    ({'model.decode_head.ignore_index': 254}, 'model.decode_head has ignore_index=254, and train_dataloader.dataset '
     'has ignore_index=255: pixels without a label would be trained on; give both the same'),
    ({'model.decode_head.loss_decode': {'_delete_': True, 'type': 'TverskyLoss', 'ignore_index': 2}},
     'model.decode_head.loss_decode has ignore_index=2, and train_dataloader.dataset has ignore_index=255'),
])  # fmt: skip
def test_a_head_that_would_train_on_pixels_without_a_label(tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr(tiny_seg.TinyScenes, 'ignore_index', 255, raising=False)
    # to a dice loss it is a class that does not count
    dice = {'model.decode_head.loss_decode': {'_delete_': True, 'type': 'DiceLoss', 'ignore_index': 0}}
    check_config(tiny_seg.training_cfg(tmp_path, **dice))
    assert refused(tiny_seg.training_cfg(tmp_path, **changes)).startswith(said)


def test_a_segmentor_of_other_classes_is_refused(tmp_path):
    check_config(tiny_seg.training_cfg(tmp_path))
    message = refused(tiny_seg.training_cfg(tmp_path, **{'model.decode_head.num_classes': 2}))
    assert message == (
        "model.decode_head has num_classes=2, and train_dataloader.dataset has 'a', 'b', 'c': set num_classes=3, or "
        'metainfo.classes of the datasets'
    )


@pytest.mark.parametrize(('changes', 'message'), [
    ({'val_evaluator.metric': 'bboxx'}, "val_evaluator.0: metric should be one of 'bbox', 'segm', 'proposal'"),
    ({'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'save_best': 'coco/bbox_mAPP'}}},
     "default_hooks.checkpoint.save_best: 'coco/bbox_mAPP' is no metric that val_evaluator gives, such as "
     "coco/bbox_mAP: did you mean 'coco/bbox_mAP'?"),
    ({'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'save_best': 'bbox_mAP'}}}, 'is no metric'),
    ({'custom_hooks': [{'type': 'EarlyStoppingHook', 'monitor': 'mIoU'}]}, "custom_hooks.0.monitor: 'mIoU' is no"),
    ({'model.backbone.norm_cfg': {'type': 'BNN'}}, "model: type 'BNN' is not known: did you mean 'BN'?"),
])  # fmt: skip
def test_what_a_validation_does_not_give(coco, tmp_path, changes, message):
    assert message in refused(detector(coco, tmp_path, **changes))


def test_what_a_validation_gives_is_taken(coco, tmp_path):
    for best in ('auto', 'coco/bbox_mAP_50', ['coco/bbox_mAP', 'coco/bbox_mAP_s']):
        hooks = {'checkpoint': {'type': 'CheckpointHook', 'save_best': best, 'rule': 'greater'}}
        with DefaultScope.overwrite_default_scope('mmdet'):
            check_later(detector(coco, tmp_path, default_hooks=hooks))


def check_later(cfg):
    for _, check in list_later(cfg):
        check()


def test_names_of_a_segmentation_metric(tmp_path):
    for metric, best, said in (
        ('mIou', 'mIoU', "iou_metrics must be of .*'mIou': did you mean 'mIoU'"),
        ('mIoU', 'mDice', "'mDice' is no metric that val_evaluator gives, such as aAcc"),
    ):
        cfg = Config({'val_evaluator': {'type': 'mmseg.IoUMetric', 'iou_metrics': [metric]},
                      'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'save_best': best}}})  # fmt: skip
        with pytest.raises(ValueError, match=said):
            check_later(cfg)
    folder = tmp_path / 'written'
    check_later(Config({'val_evaluator': {'type': 'mmseg.IoUMetric', 'output_dir': str(folder)}}))
    assert not folder.exists()


def test_colours_of_another_number_than_classes():
    cfg = {'type': 'mmseg.BaseSegDataset', 'metainfo': {'classes': ('a', 'b'), 'palette': [[1, 2, 3]] * 9}}
    said = 'x: metainfo.palette has 9 colours for the 2 names of metainfo.classes'
    with pytest.raises(ValueError, match=said), built('x'):
        DATASETS.build(cfg)


def test_keys_of_a_trial_that_nothing_reads(tmp_path):
    cfg = tiny_trials.random_cfg(tmp_path)
    cfg.random_search.trial = {**(cfg.random_search.get('trial') or {}), 'train_cgf': {}}
    assert refused(cfg) == (
        "random_search.trial.train_cgf has no effect: nothing reads a key of this name: did you mean 'train_cfg'?"
    )


def test_a_file_of_annotations_that_is_no_json(coco, tmp_path):
    (tmp_path / 'a.json').write_text('[' * 5)
    message = refused(detector(coco, tmp_path, **{'train_dataloader.dataset.ann_file': str(tmp_path / 'a.json')}))
    assert message.startswith('train_dataloader.dataset: ')
