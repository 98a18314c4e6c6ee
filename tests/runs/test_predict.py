"""Predictions written beside the ground truth, with a segmentor that reads each pixel's class off its colour."""

import importlib.util
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from mmseg.evaluation import IoUMetric
from torch import nn

from mmnas_ext.archs import zoo
from mmnas_ext.reports.predictions import Box, mean_iou
from mmnas_ext.reports.samples import read_samples
from mmnas_ext.runs.predict import choose, predict, read_run, sample_run, write_labels, write_samples

ROOT = Path(__file__).parents[2]
CLASSES = ['sky', 'road', 'car']  # a subset of Cityscapes', in another order
TRAIN_IDS = np.array([10, 0, 13], dtype=np.uint8)  # what they are in its files
COLOURS = np.array([(0, 0, 0), (0, 0, 255), (255, 0, 0)], dtype=np.uint8)  # BGR: black sky, red road, blue car
# logits of the three classes: 0, red - 1/2, blue - 1/2; the other network takes red for a car and blue for a road
RIGHT = [[0, 0, 0], [1, 0, 0], [0, 0, 1]]
SWAPPED = [[0, 0, 0], [0, 0, 1], [1, 0, 0]]
SIZE = (6, 9)


def predict_labels(runs, folder, *args, **options):
    """Label maps of what `predict` gives."""
    return write_labels(predict(runs, *args, **options), folder)


@MODELS.register_module(name='PassOn')
class PassOn(nn.Module):
    """A backbone whose only feature is the image."""

    def forward(self, x):
        return (x,)


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    """Folder of five images in Cityscapes' layout, and the class of every pixel of them, (5, H, W)."""
    root = tmp_path_factory.mktemp('cityscapes')
    labels = np.random.RandomState(0).randint(0, 3, (5, *SIZE))
    for index, seen in enumerate(labels):
        truth = TRAIN_IDS[seen]
        truth[0] = 255
        truth[1] = 2  # buildings, of which no class is left
        for kind, ending, pixels in (
            ('leftImg8bit', 'leftImg8bit', COLOURS[seen]),
            ('gtFine', 'gtFine_labelTrainIds', truth),
        ):
            path = root / kind / 'val' / 'town' / f'town_{index}0_{ending}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), pixels)
    return root, labels


@pytest.fixture
def make_run(drawn, tmp_path):
    """Writes the work dir of a training as MMEngine leaves it."""

    def make(name, weights, number=5, **changes):
        pipeline = [dict(type=kind) for kind in ('LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs')]
        dataset = dict(
            type='CityscapesDataset',
            data_root=str(drawn[0]),
            data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
            metainfo=dict(classes=CLASSES, palette=[[70, 130, 180], [128, 64, 128], [0, 0, 142]]),
            pipeline=pipeline,
        )
        head = dict(
            type='FCNHead', in_channels=3, channels=3, num_convs=0, concat_input=False, num_classes=3, norm_cfg=None
        )
        model = dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', bgr_to_rgb=True),
            backbone=dict(type='mmengine.PassOn'),
            decode_head=head,
            test_cfg=dict(mode='whole'),
        )
        cfg = Config(dict(default_scope='mmseg', model=model, val_dataloader=dict(dataset=dataset)))
        cfg.merge_from_dict(changes)
        (tmp_path / name).mkdir(exist_ok=True)
        cfg.dump(tmp_path / name / 'config.py')
        state = {
            'decode_head.conv_seg.weight': torch.tensor(weights)[..., None, None] / 255,
            'decode_head.conv_seg.bias': torch.tensor([0.0, -0.5, -0.5]),
        }
        torch.save({'state_dict': state, 'meta': {}}, tmp_path / name / f'iter_{number}.pth')
        return tmp_path / name

    return make


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_files_hold_truth_and_predictions_in_the_numbering_of_the_classes(drawn, make_run, tmp_path):
    runs = {'the seed (Lite0)': make_run('seed', SWAPPED), 'found': make_run('found', RIGHT)}
    maps = predict_labels(runs, tmp_path / 'out', count=3)
    root, labels = drawn
    assert [path.name for path in maps.images] == [f'town_{i}0_leftImg8bit.png' for i in (0, 2, 4)]
    assert all(path.is_relative_to(root) for path in maps.images)
    assert list(maps.predictions) == ['the seed (Lite0)', 'found']
    for place, index in enumerate((0, 2, 4)):
        truth = labels[index].copy()
        truth[:2] = 255
        assert np.array_equal(read(maps.truths[place]), truth)
        assert np.array_equal(read(maps.predictions['found'][place]), labels[index])
        assert np.array_equal(read(maps.predictions['the seed (Lite0)'][place]), np.array([0, 2, 1])[labels[index]])
    assert maps.classes == ('sky', 'road', 'car')
    assert maps.palette == ((70, 130, 180), (128, 64, 128), (0, 0, 142))
    name = '2_town_20_leftImg8bit.png'
    assert maps.truths[1] == tmp_path / 'out' / 'truth' / name
    assert [files[1].parent.name for files in maps.predictions.values()] == ['1_the_seed_Lite0', '2_found']


def test_the_newest_whole_checkpoint_and_the_newest_config_are_used(make_run, tmp_path):
    folder = make_run('run', SWAPPED, number=90)
    make_run('run', RIGHT, number=100)
    (folder / 'iter_200.pth').write_bytes(b'PK half a file')
    cfg, checkpoint = read_run(folder)
    assert checkpoint == folder / 'iter_100.pth'
    assert cfg.model.decode_head.num_classes == 3
    (folder / 'a.py').write_text('found = 1\n')
    os.utime(folder / 'config.py', (1, 1))  # long before
    assert read_run(folder)[0].found == 1


def test_images_are_found_by_how_their_names_begin(drawn, make_run, tmp_path):
    maps = predict_labels({'found': make_run('found', RIGHT)}, tmp_path / 'out', names=['town_30', 'town_10_left'])
    assert [path.name for path in maps.images] == ['town_30_leftImg8bit.png', 'town_10_leftImg8bit.png']
    assert np.array_equal(read(maps.predictions['found'][0]), drawn[1][3])


@pytest.mark.parametrize(
    ('total', 'count', 'wanted'),
    [(5, 5, [0, 1, 2, 3, 4]), (32, 4, [0, 10, 21, 31]), (5, 3, [0, 2, 4]), (9, 1, [0]), (1, 1, [0]), (7, 2, [0, 6])],
)
def test_images_are_spaced_evenly(total, count, wanted):
    assert choose([f'{index}.png' for index in range(total)], count) == wanted


@pytest.mark.parametrize(
    ('count', 'names', 'message'),
    [
        (0, (), r'count must be in 1\.\.3, the validation images, got 0'),
        (4, (), r'count must be in 1\.\.3, the validation images, got 4'),
        (1, ['c'], r"'c' must begin one file name of the validation set, it begins 0 of 3, the first of which is a1"),
        (1, ['1'], r"'1' must begin one file name of the validation set, it begins 0 of 3"),
        (1, ['a1', 'a'], r"'a' must begin one file name of the validation set, it begins 2 of 3"),
    ],
)
def test_images_that_are_not_there_are_refused(count, names, message):
    with pytest.raises(ValueError, match=message):
        choose(['a1', 'a2', 'b1'], count, names)


def test_what_is_no_run_is_refused(make_run, tmp_path):
    folder = make_run('run', RIGHT)
    with pytest.raises(ValueError, match='runs must name at least one training'):
        predict_labels({}, tmp_path / 'out')
    (folder / 'iter_5.pth').unlink()
    with pytest.raises(FileNotFoundError, match=r'run holds no whole checkpoint'):
        predict_labels({'found': folder}, tmp_path / 'out')
    (folder / 'config.py').write_text('derived = dict(model=dict())\n')
    with pytest.raises(ValueError, match=r'run is the work dir of a search, .* name .*run/adapt'):
        predict_labels({'found': folder}, tmp_path / 'out')
    with pytest.raises(FileNotFoundError, match=r'nowhere must be the work dir of a training, but holds no config'):
        predict_labels({'found': tmp_path / 'nowhere'}, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_runs_that_do_not_compare_are_refused(make_run, tmp_path):
    one = make_run('one', RIGHT)
    dataset = 'val_dataloader.dataset'
    other = make_run('other', RIGHT, **{f'{dataset}.metainfo': dict(classes=['road', 'sky', 'car'])})
    fewer = make_run('fewer', RIGHT, **{f'{dataset}.indices': 3})
    for second in (other, fewer):
        with pytest.raises(ValueError, match=r"must validate on the same images and classes, 'a' and 'b' do not"):
            predict_labels({'a': one, 'b': second}, tmp_path / 'out', count=2)


def test_a_checkpoint_of_another_network_is_refused(make_run, tmp_path):
    folder = make_run('run', RIGHT)
    state = torch.load(folder / 'iter_5.pth', weights_only=True)['state_dict']
    del state['decode_head.conv_seg.bias']
    torch.save({'state_dict': state, 'meta': {}}, folder / 'iter_6.pth')
    with pytest.raises(ValueError, match=r'iter_6\.pth must hold the network of the config beside it: .*') as caught:
        predict_labels({'found': folder}, tmp_path / 'out', count=1)
    assert 'decode_head.conv_seg.bias' in str(caught.value)


def test_a_training_that_validates_nothing_is_refused(make_run):
    folder = make_run('run', RIGHT, val_dataloader=None)
    with pytest.raises(ValueError, match=r'run validates nothing: its config has no val_dataloader'):
        predict({'found': folder})


def test_images_without_labels_are_refused(make_run, tmp_path):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    folder = make_run('run', RIGHT, **{'val_dataloader.dataset.pipeline': pipeline})
    with pytest.raises(
        ValueError, match=r"must test a detector or a segmentor on labelled images, .* lack \['gt_sem_seg'\]"
    ):
        predict_labels({'found': folder}, tmp_path / 'out', count=1)


def test_the_score_of_a_image_is_that_of_the_host():
    rng = np.random.RandomState(3)
    truth, labels = rng.randint(0, 4, (2, 20, 30))
    truth[5:9] = 255
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=list('abcdef'))  # two of them never occur
    fields = {'gt_sem_seg': truth, 'pred_sem_seg': labels}
    metric.process({}, [{name: dict(data=torch.from_numpy(value)) for name, value in fields.items()}])
    assert 100 * mean_iou(truth, labels, 6) == pytest.approx(metric.evaluate(1)['mIoU'], abs=0.006)  # of two decimals


# The command


@pytest.fixture
def show():
    """Main function of tools/show_predictions.py."""
    spec = importlib.util.spec_from_file_location('tools_show', ROOT / 'tools' / 'show_predictions.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_the_command_draws_and_keeps_the_label_maps(show, make_run, tmp_path, capsys):
    seed, found = make_run('seed', SWAPPED), make_run('found', RIGHT)
    out = tmp_path / 'drawn.png'
    show(['--run', f'seed={seed}', '--run', f'found by FNA={found}', '--count', '2', '--out', str(out)])
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    # four panels of 250, three gaps of 10, two margins of 28
    assert cv2.imread(str(out)).shape[1] == 1086
    kept = sorted(path.relative_to(tmp_path / 'drawn_labels').parts[0] for path in tmp_path.glob('drawn_labels/*/*'))
    assert kept == ['1_seed'] * 2 + ['2_found_by_FNA'] * 2 + ['truth'] * 2


@pytest.mark.parametrize('runs', [['found'], ['found='], ['=folder'], ['a=one', 'a=two']])
def test_the_command_says_how_a_run_is_written(show, runs, capsys):
    with pytest.raises(SystemExit, match='2'):
        show([word for run in runs for word in ('--run', run)])
    assert '--run must be TITLE=FOLDER, each title once' in capsys.readouterr().err


def test_the_command_meets_a_mistake_with_one_sentence(show, tmp_path):
    with pytest.raises(SystemExit, match=r'^error: .*nowhere must be the work dir of a training'):
        show(['--run', f'a={tmp_path / "nowhere"}'])


# Detectors, and what the page of a run shows


@MODELS.register_module(name='Surest')
class Surest(BaseModel):
    """A detector that finds each image's own number as the class of one box, and a second one of half its score."""

    def __init__(self, score=0.8, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.score = nn.Parameter(torch.tensor(score))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        for sample in data_samples:
            score = self.score.detach()
            found = dict(
                bboxes=torch.tensor([[0.0, 0, 4, 4], [2, 1, 8, 5]]), labels=torch.tensor([0, sample.img_id % 2])
            )
            sample.pred_instances = InstanceData(**found, scores=torch.stack([score / 2, score]))
        return data_samples


def detector(folder, data, score):
    """The work dir of a training of `Surest` on three images of 12x20 with a box each."""
    data.mkdir(exist_ok=True)
    images = [dict(id=n, file_name=f'{n}.png', height=12, width=20) for n in range(3)]
    boxes = [dict(id=n, image_id=n, category_id=1, bbox=[2, 1, 6, 4], area=24, iscrowd=0) for n in range(3)]
    for image in images:
        assert cv2.imwrite(str(data / image['file_name']), np.full((12, 20, 3), 60 * image['id'], np.uint8))
    classes = [dict(id=1, name='bolt'), dict(id=2, name='nut')]
    (data / 'val.json').write_text(json.dumps(dict(images=images, annotations=boxes, categories=classes)))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape'))]
    dataset = dict(
        type='CocoDataset', data_root=str(data), ann_file='val.json', data_prefix=dict(img=''), test_mode=True,
        metainfo=dict(classes=['bolt', 'nut']), pipeline=pipeline,
    )  # fmt: skip
    model = dict(type='mmengine.Surest', data_preprocessor=dict(type='DetDataPreprocessor'))
    folder.mkdir(parents=True, exist_ok=True)
    Config(dict(default_scope='mmdet', model=model, val_dataloader=dict(dataset=dataset))).dump(folder / 'config.py')
    torch.save({'state_dict': {'score': torch.tensor(score)}, 'meta': {}}, folder / 'epoch_3.pth')
    return folder


def test_the_boxes_of_a_detector_stand_beside_the_annotated_ones(tmp_path):
    runs = {
        'seed': detector(tmp_path / 'a', tmp_path / 'data', 0.5),
        'found': detector(tmp_path / 'b', tmp_path / 'data', 0.8),
    }
    predicted = predict(runs, count=2)
    assert (predicted.kind, predicted.classes, predicted.names) == ('boxes', ('bolt', 'nut'), ('0_0', '2_2'))
    assert predicted.truths == ((Box(2, 1, 8, 5, 0),),) * 2
    first = predicted.predictions['found'][0]
    assert [(box.label, round(box.score, 3)) for box in first] == [(0, 0.8), (0, 0.4)]  # the surest first
    assert first[0][:4] == (2, 1, 8, 5)
    # COCO's own colours are not those of bolts and nuts
    assert predicted.palette == ((31, 119, 180), (255, 127, 14))


def test_a_finished_run_keeps_a_few_predictions_for_its_page(tmp_path):
    detector(tmp_path / 'run' / 'adapt', tmp_path / 'data', 0.8)
    detector(tmp_path / 'run' / 'seed' / 'adapt', tmp_path / 'data', 0.5)
    arch = zoo.arch('mobilenet_v2')
    for folder in (tmp_path / 'run', tmp_path / 'run' / 'seed'):
        (folder / 'derived').mkdir()
        (folder / 'derived' / 'arch.json').write_text(arch.format('json'))
    assert sample_run(tmp_path / 'run') == tmp_path / 'run' / 'samples' / 'samples.json'
    samples = read_samples(tmp_path / 'run' / 'samples')
    assert len(samples.samples) == 3  # there are no more
    scores = {title: boxes[0].score for title, boxes in samples.samples[2].predictions.items()}
    assert scores == {'seed': 0.5, 'found': 0.8}
    # a seed that was trained on other classes is left out
    detector(tmp_path / 'run' / 'seed' / 'adapt', tmp_path / 'data', 0.5)
    text = (tmp_path / 'run' / 'seed' / 'adapt' / 'config.py').read_text()
    (tmp_path / 'run' / 'seed' / 'adapt' / 'config.py').write_text(text.replace("'nut'", "'washer'"))
    sample_run(tmp_path / 'run', 1)
    assert list(read_samples(tmp_path / 'run' / 'samples').samples[0].predictions) == ['found']


def test_samples_of_a_segmentor_are_coloured_and_small(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr('mmnas_ext.runs.predict._LARGEST', 3)  # of 6 x 9
    predicted = predict({'found': make_run('found', RIGHT)}, count=1)
    write_samples(predicted, tmp_path / 'samples')
    (sample,) = read_samples(tmp_path / 'samples').samples
    assert sample.size == (2, 3)
    shown = read(tmp_path / 'samples' / sample.predictions['found'])[..., ::-1]
    wanted = {(70, 130, 180), (128, 64, 128), (0, 0, 142)}
    assert shown.shape == (2, 3, 3) and {tuple(pixel) for row in shown.tolist() for pixel in row} <= wanted


def test_the_command_draws_a_detector(show, tmp_path, capsys):
    show(
        [
            '--run',
            f'found={detector(tmp_path / "a", tmp_path / "data", 0.8)}',
            '--count',
            '1',
            '--out',
            f'{tmp_path}/a.png',
        ]
    )
    assert capsys.readouterr().out.splitlines()[-1] == f'{tmp_path}/a.png'
    # two panels of 250, a gap of 10, two margins of 28; 250 * 12 / 20 of height
    assert cv2.imread(f'{tmp_path}/a.png').shape[:2] == (76 + 26 + 150 + 26, 566)
