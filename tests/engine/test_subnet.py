"""A path of a super-network as a network of its own: the same function, measured statistics, validated as any is."""

import copy
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, ConcatDataset, RepeatDataset
from mmengine.registry import DATASETS, DefaultScope
from mmengine.structures import InstanceData
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmnas_ext.datasets import DatasetView, split_halves
from mmnas_ext.engine.subnet import calibrate, held_out_view, subnet, validate
from mmnas_ext.registry import MODELS
from mmnas_ext.runs.training import open_runner
from tests.engine import tiny, tiny_seg
from tests.runs.tiny_coco import coco_of

PATHS = [((0,), (0, 0), (0,)), ((0,), (1, 2), (1,))]


@pytest.fixture
def model():
    """It has taken a few steps, of weights and of running statistics."""
    return stepped(norm=True, dropout=0.5)


def stepped(backbone=None, **changes):
    built, wrapper = tiny.build(backbone, **changes)
    for step in range(2):
        wrapper.start('weights', step)
        built.train_step(tiny.batch(8, 50 + step), optim_wrapper=wrapper)
    return built


@pytest.mark.parametrize('path', PATHS)
@pytest.mark.parametrize('affine', [False, True])
def test_a_subnet_is_the_supernets_path_to_the_bit(path, affine):
    model = stepped({'affine': affine}, norm=True)
    found = subnet(model, path)
    model.backbone.set_path(path)
    batch = tiny.batch()
    with torch.no_grad():
        wanted = model(**batch)
        assert torch.equal(found(**batch), wanted)
    names = set(found.state_dict())
    assert not any('alpha' in name or 'candidates' in name for name in names)
    # its layers, less the skips, and no others
    assert [len(stage) for stage in found.backbone.stages] == [1, 2 - (path[1][1] == 2), 1]
    assert sum(p.numel() for p in found.backbone.parameters()) < sum(p.numel() for p in model.backbone.parameters())


def test_a_subnet_shares_nothing_with_its_supernet(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = subnet(model, PATHS[0])
    calibrate(found, [tiny.batch()])
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(1)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert set(model.backbone.mixed_layers()) == {'1.0', '1.1', '2.0'}
    with pytest.raises(ValueError, match=r'path must have \(1, 2, 1\) entries per stage, got \(1,\)'):
        subnet(model, ((0,),))


def moments(model, batches):
    """Mean and variance that enter each norm, averaged over the batches, by the norm's name."""
    copied, found = copy.deepcopy(model).train(), {}
    copied.dropout = nn.Identity()
    for name, module in copied.named_modules():
        if isinstance(module, _BatchNorm):
            module.train()
            module.register_forward_pre_hook(
                lambda _module, args, name=name: found.setdefault(name, []).append(
                    (args[0].mean((0, 2, 3)), args[0].transpose(0, 1).flatten(1).var(1))
                )
            )
    with torch.no_grad():
        for batch in batches:
            copied(**batch, mode='loss')
    return {name: [torch.stack(column).mean(0) for column in zip(*rows, strict=True)] for name, rows in found.items()}


def test_calibrated_statistics_are_a_plain_average_over_batches(model):
    batches = [tiny.batch(4, seed) for seed in range(3)]
    found = subnet(model, PATHS[1])
    wanted = moments(found, batches)
    momenta = [norm.momentum for norm in found.modules() if isinstance(norm, _BatchNorm)]
    calibrate(found, batches)
    norms = {name: module for name, module in found.named_modules() if isinstance(module, _BatchNorm)}
    assert wanted.keys() == norms.keys()
    assert len(norms) == 1 + 2 + 3 + 3 + 1
    for name, norm in norms.items():
        torch.testing.assert_close(norm.running_mean, wanted[name][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, wanted[name][1], rtol=1e-4, atol=1e-5)
    assert [norm.momentum for norm in norms.values()] == momenta
    assert not any(module.training for module in found.modules())
    with pytest.raises(ValueError, match='calibrate needs at least one batch of images, got none'):
        calibrate(found, [])


@pytest.mark.parametrize('frozen', [{'norm_eval': True}, {'frozen_stages': 2}])
def test_norms_that_are_kept_in_eval_mode_keep_their_statistics_and_candidates_get_some(frozen):
    """In the super-network candidates normalise by the batch in any mode: they have no statistics to keep."""
    model = stepped(frozen, norm=True)
    batches = [tiny.batch(4, seed) for seed in range(2)]
    found = subnet(model, PATHS[0])
    stem = model.backbone.stem.bn
    with torch.no_grad():
        stem.running_mean.add_(0.5)
        found.backbone.stem.bn.running_mean.add_(0.5)
    calibrate(found, batches)
    assert torch.equal(found.backbone.stem.bn.running_mean, stem.running_mean)
    layer = found.backbone.stages[1][0]
    fresh = [module for module in layer.modules() if isinstance(module, _BatchNorm)]
    assert len(fresh) == 3
    with torch.no_grad():
        entering = [found.backbone.stages[0][0](found.backbone.stem(batch['inputs'])) for batch in batches]
        expanded = [layer.expand.conv(x) for x in entering]
    mean = torch.stack([x.mean((0, 2, 3)) for x in expanded]).mean(0)
    torch.testing.assert_close(fresh[0].running_mean, mean, rtol=1e-4, atol=1e-5)
    assert (fresh[0].running_var != 1).all()
    assert not found.backbone.training


def test_an_expansion_as_output_is_of_a_settled_width():
    """A super-network whose candidates there have several has none, and so no subnet is asked for one."""
    with pytest.raises(ValueError, match=r"out_indices must be among \[0, 1, 2, '1.expand'\], got '2.expand'"):
        MODELS.build(tiny.supernet_cfg(out_indices=('2.expand',)))


def images(count=12):
    return tiny.TinyImages(count, pipeline=[dict(type='TinyPlain')])


def test_held_out_images_are_read_evenly_and_once():
    """Data sets are sorted, by class or by film: the first images are not like the others."""
    _, half = split_halves(RepeatDataset(images(), 3), 0)
    pipeline = [dict(type='TinyPlain')]
    assert len(half) == 18
    whole = held_out_view(half, pipeline)
    assert len(whole) == 6
    targets = [tuple(whole[index]['target'].tolist()) for index in range(6)]
    assert len(set(targets)) == 6
    assert set(targets) == {tuple(half[index]['target'].tolist()) for index in range(18)}
    some = held_out_view(half, pipeline, 3)
    assert [tuple(some[index]['target'].tolist()) for index in range(3)] == [targets[0], targets[2], targets[4]]
    assert len(held_out_view(half, pipeline, 99)) == 6


def test_held_out_images_get_the_validations_transforms():
    view = held_out_view(DatasetView(images(), range(4), pipeline=Compose([dict(type='TinyFlip')])), [
        dict(type='TinyPlain')
    ])  # fmt: skip
    assert torch.equal(view[1]['inputs'], torch.from_numpy(view.get_data_info(1)['image']))


def test_transforms_of_held_out_images_are_those_of_the_datasets_scope():
    """MMSegmentation and MMDetection each have a LoadAnnotations, which are not the same."""
    half = DatasetView(images(), range(4))
    for scope in ('mmdet', 'mmseg'):
        (load,) = held_out_view(half, [dict(type='LoadAnnotations')], scope=scope).pipeline.transforms
        assert type(load).__module__.partition('.')[0] == scope
    with pytest.raises(ValueError, match=r'train_cfg.pipelines.arch cannot be built: .*PackDetInputs'):
        held_out_view(half, [dict(type='PackDetInputs')])


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """A runner of a segmentor's search."""
    val = {
        'batch_size': 2, 'num_workers': 0, 'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'dataset': {'type': 'TinyScenes', 'count': 5, 'test_mode': True, 'pipeline': []},
    }  # fmt: skip
    cfg = tiny_seg.training_cfg(tmp_path_factory.mktemp('scenes'), **tiny_seg.search_changes())
    cfg.merge_from_dict({'val_dataloader': val, 'val_cfg': {}, 'val_evaluator': {'type': 'IoUMetric'}})
    with open_runner(cfg) as runner:
        yield runner


def confusion_iou(model, view):
    """mIoU in percent, from all pixels' labels."""
    hits, area = np.zeros(3), np.zeros(3)
    for index in range(len(view)):
        item = view[index]
        data = model.data_preprocessor({'inputs': [item['inputs']], 'data_samples': [item['data_samples']]}, False)
        with torch.no_grad():
            found = model.predict(data['inputs'], data['data_samples'])[0].pred_sem_seg.data[0].numpy()
        labels = item['data_samples'].gt_sem_seg.data[0].numpy()
        for label in range(3):
            one, other = (found == label) & (labels != 255), labels == label
            hits[label] += (one & other).sum()
            area[label] += (one | other).sum()
    return 100 * np.mean(hits / area)


def test_a_segmentor_is_validated_on_held_out_images(scenes):
    DefaultScope.get_instance('of these scenes', scope_name='mmseg')
    dataset = tiny_seg.TinyScenes(6, pipeline=[])
    pipeline = [
        lambda item: {**item, 'ori_shape': item['img'].shape[:2], 'img_shape': item['img'].shape[:2]},
        {'type': 'PackSegInputs', 'meta_keys': ('sample_idx', 'ori_shape', 'img_shape')},
    ]
    view = held_out_view(split_halves(dataset, 1)[1], pipeline)
    model = subnet(scenes.model, PATHS[1])
    calibrate(model, [next(scenes.train_loop.alternation.batches) for _ in range(2)])
    found = validate(model, scenes, view, [{'type': 'IoUMetric', 'iou_metrics': ['mIoU']}])
    assert found['mIoU'] == pytest.approx(confusion_iou(model, view), abs=0.01)
    assert 0 < found['mIoU'] < 60
    assert {type(value) for value in found.values()} == {float}


NAMES = ('one', 'two')


@pytest.fixture(scope='module')
def boxes(tmp_path_factory):
    """A detector's images, and a runner."""
    root = tmp_path_factory.mktemp('boxes')
    for part in ('train2017', 'val2017'):
        coco_of(root, part, NAMES)
    cfg = Config(dict(
        default_scope='mmdet', work_dir=str(root / 'work'), log_level='WARNING', model=dict(type='TinyModel',
        backbone=tiny.supernet_cfg()), custom_imports=dict(imports=['tests.engine.tiny', 'mmdet.datasets',
        'mmdet.evaluation', 'mmdet.structures']), val_cfg={}, val_evaluator=dict(type='mmdet.CocoMetric', metric='bbox',
        ann_file=str(root / 'annotations' / 'instances_val2017.json')), val_dataloader=dict(batch_size=2,
        num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(type='TinyImages')),
    ))  # fmt: skip
    with open_runner(cfg) as runner:
        yield root, runner


class Boxes(nn.Module):
    """Finds a box a little too small in every image but one."""

    def val_step(self, batch):
        for sample in batch['data_samples']:
            size = 30 - 3 * (sample.img_id % 3)
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor([[4.0, 4, 4 + size, 4 + size]]),
                scores=torch.tensor([0.9]),
                labels=torch.tensor([int(sample.img_id == 2)]),
            )
        return batch['data_samples']


def test_an_evaluator_with_a_file_looks_at_the_held_out_images_alone(boxes, capsys):
    """Its numbers are those of these images in a file of their own."""
    root, runner = boxes
    common = dict(type='mmdet.CocoDataset', metainfo=dict(classes=NAMES), data_root=str(root))
    dataset = DATASETS.build(dict(
        **common, ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017/'), pipeline=[],
    ))  # fmt: skip
    pipeline = [
        dict(type='mmdet.LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True),
        dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape')),
    ]  # fmt: skip
    view = held_out_view(DatasetView(dataset, [1, 3, 6]), pipeline)
    evaluator = runner.cfg.val_evaluator
    capsys.readouterr()
    found = validate(Boxes(), runner, view, evaluator)
    assert capsys.readouterr().out == ''  # COCO's reader prints
    file = root / 'annotations' / 'instances_train2017.json'
    content = json.loads(file.read_text())
    ids = (2, 4, 7)
    content['images'] = [each for each in content['images'] if each['id'] in ids]
    content['annotations'] = [each for each in content['annotations'] if each['image_id'] in ids]
    alone = root / 'annotations' / 'alone.json'
    alone.write_text(json.dumps(content))
    small = DATASETS.build(dict(
        **common, ann_file=str(alone), data_prefix=dict(img='train2017/'), pipeline=[],
    ))  # fmt: skip
    wanted = validate(Boxes(), runner, held_out_view(DatasetView(small, range(3)), pipeline), evaluator)
    assert found == wanted
    # two of three boxes are found: at an overlap of a half the precision is 1 up to a recall of 2/3
    assert found['coco/bbox_mAP_50'] == pytest.approx(67 / 101, abs=1e-3)
    assert evaluator.ann_file.endswith('instances_val2017.json')


def test_several_files_of_annotations_are_told(boxes):
    root, runner = boxes
    parts = [dict(type='mmdet.CocoDataset', metainfo=dict(classes=NAMES), data_root=str(root), pipeline=[],
                  ann_file=f'annotations/instances_{part}.json', data_prefix=dict(img=f'{part}/'))
             for part in ('train2017', 'val2017')]  # fmt: skip
    view = held_out_view(DatasetView(ConcatDataset([DATASETS.build(part) for part in parts]), range(16)), [])
    with pytest.raises(ValueError, match='val_evaluator with an ann_file needs training images of one file, got 2'):
        validate(Boxes(), runner, view, runner.cfg.val_evaluator)
