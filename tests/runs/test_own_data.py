"""One variable sets the data of both halves: what their datasets read, what heads count, what evaluators compute."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, DefaultScope
from mmengine.structures import InstanceData

from mmnas_ext.datasets.layouts import CITYSCAPES, OwnData
from mmnas_ext.runs.own_data import check_own_data
from mmnas_ext.runs.run import prepare
from mmnas_ext.runs.trials import TrialPlan
from tests.own_data import (
    COUNTS,
    DETECTOR,
    SEGMENTOR,
    both_halves,
    halves_of,
    make_cityscapes,
    make_coco,
    make_masks,
    make_voc,
)

LOADERS = {'train': 'train_dataloader', 'val': 'val_dataloader', 'test': 'test_dataloader'}


def read(half: Config) -> dict[str, Any]:
    """The datasets of a half, built."""
    with DefaultScope.overwrite_default_scope(half.default_scope):
        return {part: DATASETS.build(half[loader].dataset.to_dict()) for part, loader in LOADERS.items()}


def labels_of(dataset: Any) -> list[int]:
    """Labels of a detection dataset's boxes, an image after the other."""
    return [each['bbox_label'] for i in range(len(dataset)) for each in dataset.get_data_info(i)['instances']]


def metrics(half: Config) -> list[Any]:
    with DefaultScope.overwrite_default_scope(half.default_scope):
        return [METRICS.build(half[name].to_dict()) for name in ('val_evaluator', 'test_evaluator')]


def pixels(dataset: Any) -> set[int]:
    """Values of the label maps that the pipeline of a segmentation dataset gives."""
    return {int(v) for i in range(len(dataset)) for v in np.unique(dataset[i]['data_samples'].gt_sem_seg.data)}


# ---------------------------------------------------------------- what it sets


def test_voc_data_and_their_classes_reach_both_halves(tmp_path: Path) -> None:
    make_voc(tmp_path / 'd' / 'VOC2012')
    halves = halves_of(DETECTOR, data=dict(type='voc', root=f'{tmp_path}/d'))
    for half in halves:
        sets = read(half)
        assert {part: len(dataset) for part, dataset in sets.items()} == {'train': 4, 'val': 2, 'test': 2}
        assert {dataset.metainfo['classes'] for dataset in sets.values()} == {('cat', 'cow', 'dog')}  # sorted
        assert labels_of(sets['train']) == [0, 2, 1, 0]  # cat, dog, cow, cat
        assert half.model.bbox_head.num_classes == 3
        assert [(m.metric, m.eval_mode, m.iou_thrs) for m in metrics(half)] == [('mAP', 'area', [0.5])] * 2
        assert half.train_dataloader.dataset.filter_cfg == dict(filter_empty_gt=True, min_size=32)  # the config's
        assert half.train_dataloader.dataset.pipeline[-2] == dict(type='RandomFlip', prob=0.5)
        assert [half[LOADERS[part]].dataset.get('test_mode') for part in LOADERS] == [None, True, True]
    assert 'data' not in halves[1]  # what is derived is an ordinary config
    check_own_data(halves[0])


def test_voc_data_by_the_measure_of_coco(tmp_path: Path) -> None:
    root = make_voc(tmp_path / 'd')
    for half in halves_of(DETECTOR, data=dict(type='voc', root=str(root), metric='coco')):
        metric, val = metrics(half)[0], read(half)['val']
        metric.dataset_meta = val.metainfo
        samples = [val[i]['data_samples'] for i in range(2)]
        for sample in samples:  # the boxes themselves, found with certainty
            boxes = torch.tensor([each['bbox'] for each in sample.instances], dtype=torch.float32)
            found = dict(bboxes=boxes, labels=torch.tensor([each['bbox_label'] for each in sample.instances]))
            sample.pred_instances = InstanceData(scores=torch.ones(len(boxes)), **found)
        metric.process({}, [sample.to_dict() for sample in samples])
        assert metric.evaluate(2)['coco/bbox_mAP'] == 1.0


def test_voc_images_of_other_endings_are_read(tmp_path: Path) -> None:
    root = make_voc(tmp_path / 'd')
    for number, ending in ((0, 'png'), (1, 'JPG'), (2, 'TIF'), (3, 'Jpg')):
        (root / f'JPEGImages/train_{number}.jpg').rename(root / f'JPEGImages/train_{number}.{ending}')
    cfg, derived = halves_of(DETECTOR, data=dict(type='voc', root=str(root)))
    check_own_data(cfg)
    for half in (cfg, derived):
        train = read(half)['train']
        names = [Path(train.get_data_info(i)['img_path']).name for i in range(4)]
        assert names == ['train_0.png', 'train_1.JPG', 'train_2.TIF', 'train_3.Jpg']
        assert labels_of(train) == [0, 2, 1, 0]
        assert train[1]['inputs'].shape[0] == 3


@pytest.mark.parametrize(
    ('files', 'images'),
    [
        ('annotations/{}.json', '{}'),
        ('annotations/instances_{}2017.json', '{}2017'),
        ('annotations/instances_{}.json', 'images/{}'),
        ('{}/_annotations.coco.json', '{}'),
        ('{}.json', 'images'),
    ],
)
def test_common_layouts_of_coco_are_found(tmp_path: Path, files: str, images: str) -> None:
    root = make_coco(tmp_path / 'd', files=files, images=images)
    if files != '{}.json':
        part = OwnData('coco', str(root)).find('val')
        assert part.labels == root / files.format('val')
        assert (root / part.dataset['data_prefix']['img'] / 'val_0.jpg').is_file()
        return
    halves = halves_of(DETECTOR, data=dict(type='coco', root=str(root)), val_evaluator=dict(classwise=True))
    check_own_data(halves[0])
    for half in halves:
        sets = read(half)
        assert labels_of(sets['train']) == [0, 1, 0, 1]
        assert all(Path(sets['val'].get_data_info(i)['img_path']).is_file() for i in range(2))
        assert half.model.bbox_head.num_classes == 2
        assert [m._coco_api.getImgIds() for m in metrics(half)] == [[0, 1]] * 2
        assert half.val_evaluator.classwise is True  # what else a config says of its evaluator stays


def test_classes_are_numbered_in_the_order_of_a_coco_file(tmp_path: Path) -> None:
    root = make_coco(tmp_path / 'd', ('cow', 'dog', 'cat'))
    cfg, _ = halves_of(DETECTOR, data=dict(type='coco', root=str(root), classes=('cat', 'cow')))
    train = read(cfg)['train']
    # MMDetection gives the file's first chosen category number 0, whatever the order of the names
    assert (train.metainfo['classes'], labels_of(train)) == (('cow', 'cat'), [0, 1, 0])
    assert train.cat2label == {7: 0, 9: 1}


def test_masks_in_folders_reach_both_halves(tmp_path: Path) -> None:
    root = make_masks(tmp_path / 'd', masks='masks/{}/{}_mask.png')
    data = dict(type='folder-masks', root=str(root), classes=('a', 'b', 'c'), palette=[[0, 0, 0]] * 3)
    halves = halves_of(SEGMENTOR, data=data, image_size=(64, 64))
    check_own_data(halves[0])
    for half in halves:
        sets = read(half)
        assert {part: len(dataset) for part, dataset in sets.items()} == {'train': 4, 'val': 2, 'test': 2}
        assert pixels(sets['val']) == {0, 1, 2, 255}
        assert sets['train'].metainfo['palette'] == [(0, 0, 0)] * 3
        assert half.model.decode_head.num_classes == 3
        # weights of the base's eleven classes would end the training at its first step
        assert half.model.decode_head.loss_decode.class_weight is None
        assert [m.ignore_index for m in metrics(half)] == [255, 255]


@pytest.mark.parametrize('count', [10, 11])
def test_weights_of_other_classes_are_dropped_however_many_they_are(count: int, tmp_path: Path) -> None:
    names = tuple(f'c{number}' for number in range(count))
    data = f"data = dict(type='folder-masks', root='x', classes={names})"
    for half in both_halves(tmp_path, SEGMENTOR, data):
        assert half.model.decode_head.loss_decode.class_weight is None
        assert half.model.decode_head.num_classes == count


def weights_of(halves: tuple[Config, Config]) -> list[Any]:
    return [half.model.decode_head.loss_decode.class_weight for half in halves]


def test_weights_of_ones_own_classes_stay(tmp_path: Path) -> None:
    data = "data = dict(type='folder-masks', root='x', classes=('a', 'b', 'c'))"
    weights = 'model = dict(decode_head=dict(loss_decode=dict(class_weight=[0.3, 1.0, 1.7])))'
    assert weights_of(both_halves(tmp_path, SEGMENTOR, data, weights)) == [[0.3, 1.0, 1.7]] * 2
    (tmp_path / 'child.py').rename(tmp_path / 'parent.py')
    # of a file between, too, when another says where the data are
    line = "data = dict(root='elsewhere')"
    assert weights_of(both_halves(tmp_path, str(tmp_path / 'parent.py'), line)) == [[0.3, 1.0, 1.7]] * 2
    # a loss that is made elsewhere
    made = [
        "loss = dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0, 3.0])",
        'model = dict(decode_head=dict(loss_decode=loss))',
    ]
    assert weights_of(both_halves(tmp_path, SEGMENTOR, data, *made)) == [[1.0, 2.0, 3.0]] * 2
    with pytest.raises(ValueError, match=r'^model.decode_head.loss_decode.class_weight must have .* 2 classes, got 4'):
        both_halves(tmp_path, SEGMENTOR, data.replace(", 'c'", ''), weights.replace('[', '[9, '))
    # of its own classes a config keeps them
    assert weights_of(halves_of(SEGMENTOR))[0][:2] == [0.48, 2.21]


def test_weights_go_with_the_names_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmnas_ext.runs.halves.print_log', lambda text, **_: said.append(text))
    for lines, options in ((["classes = ('road', 'sky', 'car')"], {}), ([], {'classes': ('road', 'sky', 'car')})):
        halves = both_halves(tmp_path, SEGMENTOR, *lines, **options)
        assert weights_of(halves) == [None, None]
        assert [half.model.decode_head.num_classes for half in halves] == [3, 3]
    assert 'num_classes: 3, one for each class' in said
    assert not any('instead of 19' in text for text in said)  # the model's, of which the base has left eight out


def test_what_counts_for_nothing_is_left_out_everywhere(tmp_path: Path) -> None:
    root = make_masks(tmp_path / 'd', ignored=9)
    data = dict(type='folder-masks', root=str(root), classes=('a', 'b', 'c'), ignore_index=9)
    halves = halves_of(SEGMENTOR, data=data)
    check_own_data(halves[0])
    for half in halves:
        assert half.model.decode_head.ignore_index == 9
        assert half.model.data_preprocessor.seg_pad_val == 9
        crop = next(each for each in half.train_dataloader.dataset.pipeline if each.type == 'RandomCrop')
        assert crop.ignore_index == 9
        assert read(half)['train'].ignore_index == 9
        assert [m.ignore_index for m in metrics(half)] == [9, 9]


def test_a_zero_that_counts_for_nothing_and_lists_of_one_folder(tmp_path: Path) -> None:
    root = make_masks(tmp_path / 'd', 'JPEGImages/{1}.jpg', 'SegmentationClass/{1}.png', (0, 1, 2))
    (root / 'ImageSets/Segmentation').mkdir(parents=True)
    for part, count in COUNTS.items():
        names = ''.join(f'{part}_{number}\n' for number in range(count))
        (root / f'ImageSets/Segmentation/{part}.txt').write_text(names)
    data = dict(type='folder-masks', root=str(root), classes=('a', 'b'), reduce_zero_label=True)
    cfg, _ = halves_of(SEGMENTOR, data=data)
    check_own_data(cfg)
    sets = read(cfg)
    assert (len(sets['train']), len(sets['val'])) == (4, 2)
    assert pixels(sets['val']) == {0, 1, 255}


def test_cityscapes_layout_with_its_classes_some_of_them_or_others(tmp_path: Path) -> None:
    root = make_cityscapes(tmp_path / 'd')
    known = ('road', 'sky')
    expected = {None: CITYSCAPES, known: known, ('x', 'y'): ('x', 'y')}
    for classes, wanted in expected.items():
        data = dict(type='cityscapes', root=str(root), classes=classes)
        halves = halves_of(SEGMENTOR, data=data)
        for half in halves:
            assert read(half)['train'].metainfo['classes'] == wanted
            assert half.model.decode_head.num_classes == len(wanted)
        if classes == known:  # renumbered: road is 0, sky was 10, vegetation is ignored
            assert pixels(read(halves[0])['val']) == {0, 1, 255}
            check_own_data(halves[0])


def test_the_command_line_moves_the_data(tmp_path: Path) -> None:
    line = "data = dict(type='voc', root='nowhere', classes=('cat', 'dog', 'cow'))"
    make_voc(tmp_path / 'there')
    halves = both_halves(tmp_path, DETECTOR, line, **{'data.root': f'{tmp_path}/there'})
    assert [len(read(half)['train']) for half in halves] == [4, 4]
    # a config can be read where the data are not, if it names the classes
    with pytest.raises(FileNotFoundError, match=r'data.root nowhere does not exist: name the folder that has'):
        check_own_data(halves_of(DETECTOR, data=dict(type='voc', root='nowhere', classes=('cat', 'dog')))[0])
    with pytest.raises(FileNotFoundError, match=r'^data.root nowhere does not exist'):
        both_halves(tmp_path, DETECTOR, "data = dict(type='voc', root='nowhere')")


@pytest.mark.parametrize(
    ('base', 'kind', 'message'),
    [
        (DETECTOR, 'folder-masks', r"of a detector must be one of \['coco', 'voc'\], got 'folder-masks', which is"),
        (SEGMENTOR, 'voc', r"of a segmentor must be one of \['folder-masks', 'cityscapes'\], got 'voc', which is"),
        ('dna_coco.py', 'coco', r'data of this config has no effect: .* \(no dataset of a detector or segmentor\)'),
    ],
)
def test_data_of_another_kind_are_refused(base: str, kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        halves_of(base, data=dict(type=kind, root='x', classes=('a', 'b')))


def test_classes_of_a_base_are_those_of_its_data(tmp_path: Path) -> None:
    root = make_voc(tmp_path / 'd')
    data = f"data = dict(type='voc', root='{root}')"
    steel = 'fna_retinanet_mbv2_steel.py'
    assert both_halves(tmp_path, steel, data)[0].model.bbox_head.num_classes == 3
    # said beside the data, or by the command line, they are the data's
    for lines, options in (([data, "classes = ('dog', 'cat')"], {}), ([data], {'classes': ('dog', 'cat')})):
        for half in both_halves(tmp_path, steel, *lines, **options):
            assert half.val_dataloader.dataset.metainfo.classes == ('dog', 'cat')
            assert labels_of(read(half)['train']) == [1, 0, 1]
    with pytest.raises(ValueError, match=r"data.classes is \('cow',\) and classes is \('dog',\): say the first alone"):
        both_halves(tmp_path, steel, f"data = dict(type='voc', root='{root}', classes=('cow',))", "classes = ('dog',)")


def test_a_variable_of_a_config_without_anything_of_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'own.py').write_text("model = dict(backbone=dict(type='ResNet'))\ndata = 3\ndata_root = 'x'\n")
    cfg = prepare(str(tmp_path / 'own.py'))
    assert cfg.data == 3
    check_own_data(cfg)


# ---------------------------------------------------------------- the trials of a random search


def trial_sets(cfg: Config) -> tuple[Config, list[str], list[str]]:
    """The config of a trial, and the names of the images that it trains and is ranked on."""
    plan = TrialPlan.of(cfg)
    trial = plan.trial_config(plan.space.arch(tuple((0,) * len(stage.layers) for stage in plan.space.stages)))
    sets = read(trial)
    names = [
        [Path(sets[part].get_data_info(i)['img_path']).stem for i in range(len(sets[part]))]
        for part in ('train', 'val')
    ]
    return trial, *names


@pytest.mark.parametrize('base', ['random_deeplabv3_lite0_480.py', 'random_deeplabv3_cityscapes.py'])
def test_trials_of_a_segmentor_leave_the_validation_images_alone(base: str, tmp_path: Path) -> None:
    root = make_masks(tmp_path / 'd')
    data = dict(type='folder-masks', root=str(root), classes=('a', 'b', 'c'))
    cfg, derived = halves_of(base, data=data, classes=None)
    _, trained, ranked = trial_sets(cfg)
    assert (trained, ranked) == (['train_0', 'train_2'], ['train_1'])
    assert [len(read(derived)[part]) for part in ('train', 'val')] == [4, 2]  # what is found has all


@pytest.mark.parametrize('metric', ['coco', 'voc', 'coco of voc'])
def test_trials_of_a_detector_leave_the_validation_images_alone(metric: str, tmp_path: Path) -> None:
    root = (make_coco if metric == 'coco' else make_voc)(tmp_path / 'd')
    data = dict(type='coco' if metric == 'coco' else 'voc', root=str(root))
    if metric == 'coco':  # the first image is left out of training, and no index counts it
        file = root / 'annotations/train.json'
        content = json.loads(file.read_text())
        content['annotations'] = content['annotations'][1:]
        file.write_text(json.dumps(content))
    elif metric == 'coco of voc':
        data['metric'] = 'coco'
    cfg, _ = halves_of('random_retinanet_mbv2_steel.py', data=data, classes=None)
    trial, trained, ranked = trial_sets(cfg)
    names = ['train_1', 'train_2', 'train_3'] if metric == 'coco' else [f'train_{number}' for number in range(4)]
    assert (trained, ranked) == (names[::2], names[1:2])
    assert trial.val_evaluator.type == ('VOCMetric' if metric == 'voc' else 'CocoMetric')
    if metric != 'voc':
        val = read(trial)['val']
        metric = metrics(trial)[0]
        metric.dataset_meta = val.metainfo
        sample = val[0]['data_samples']
        boxes = torch.tensor([each['bbox'] for each in sample.instances], dtype=torch.float32)
        labels = torch.tensor([each['bbox_label'] for each in sample.instances])
        sample.pred_instances = InstanceData(bboxes=boxes, labels=labels, scores=torch.ones(len(boxes)))
        metric.process({}, [sample.to_dict()])
        assert metric.evaluate(1)['coco/bbox_mAP'] == 1.0  # of these images alone


def test_trials_of_too_few_images_or_of_others_are_told_of(tmp_path: Path) -> None:
    root = make_masks(tmp_path / 'd')
    data = f"data = dict(type='folder-masks', root='{root}', classes=('a', 'b', 'c'))"
    base = 'random_deeplabv3_lite0_480.py'
    line = 'random_search = dict(trial=dict(val_dataloader=dict(dataset=dict({}))))'
    cfg, _ = both_halves(tmp_path, base, data, line.format('indices=[3]'))
    assert trial_sets(cfg)[1:] == (['train_0', 'train_2'], ['train_3'])  # one's own stay
    with pytest.raises(
        ValueError, match=r'trial.val_dataloader.dataset.data_prefix.img_path has no effect beside data: '
    ):
        both_halves(tmp_path, base, data, line.format("data_prefix=dict(img_path='x')"))
    for file in [*root.glob('*/train/*')]:
        if file.stem != 'train_0':
            file.unlink()
    with pytest.raises(
        ValueError, match=r'^data.train must have more images, got 1: networks are tried on half, ranked'
    ):
        both_halves(tmp_path, base, data)


# ---------------------------------------------------------------- data_root


def roots(half: Config) -> set[str]:
    return {str(half[loader].dataset.data_root) for loader in LOADERS.values()}


def test_data_root_of_a_child_moves_datasets_and_evaluators(tmp_path: Path) -> None:
    for half in both_halves(tmp_path, 'fna_retinanet_mbv2_steel.py', "data_root = '/elsewhere'"):
        assert roots(half) == {'/elsewhere'}
        assert half.val_evaluator.ann_file == half.test_evaluator.ann_file == '/elsewhere/annotations/val.json'
    for half in both_halves(tmp_path, SEGMENTOR, **{'data_root': '/elsewhere'}):
        assert roots(half) == {'/elsewhere'}


def test_data_root_that_its_file_uses_or_that_no_child_says_is_left_alone(tmp_path: Path) -> None:
    used = ["data_root = '/elsewhere/'", 'train_dataloader = dict(dataset=dict(data_root=data_root))']
    cfg, _ = both_halves(tmp_path, DETECTOR, *used)
    assert (cfg.train_dataloader.dataset.data_root, cfg.val_dataloader.dataset.data_root) == (
        '/elsewhere/',
        'data/coco/',
    )
    # MMDetection's base says data/coco/, and a child has moved its datasets
    cfg, derived = halves_of('demo_fna_retinanet.py')
    assert roots(cfg) == roots(derived) == {'data/shapes_det/'}
    derived.data_root = 'data/coco/'  # as what MMEngine writes down of a run has it
    derived.dump(tmp_path / 'dumped.py')
    assert roots(prepare(str(tmp_path / 'dumped.py'))) == {'data/shapes_det/'}


def test_data_root_beside_data_is_refused(tmp_path: Path) -> None:
    lines = ["data = dict(type='voc', root='x', classes=('a', 'b'))", "data_root = '/elsewhere'"]
    with pytest.raises(
        ValueError, match=r"data_root has no effect beside data=dict\(…\): write data.root='/elsewhere'"
    ):
        both_halves(tmp_path, DETECTOR, *lines)
    with pytest.raises(ValueError, match=r'data_root must be a folder, got 3'):
        both_halves(tmp_path, DETECTOR, 'data_root = 3')
