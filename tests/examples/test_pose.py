"""The example of MMPose searches and adapts 20 iterations on a CPU. Collected where MMPose is installed."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmnas_ext.archs import ArchSpec
from mmnas_ext.remap import load_seed, remap
from mmnas_ext.runs.resolve import resolve
from mmnas_ext.workdir import WorkDir
from tests.examples.outcome import logged
from tests.examples.small import SPACE, make, search
from tests.own_data import CONFIGS

KEYPOINTS = 17
COUNTS = {'train': 40, 'val': 2}


def make_persons(root: Path) -> None:
    """Persons of a light rectangle, in COCO's layout, with keypoints along its diagonal."""
    (root / 'annotations').mkdir(parents=True)
    for part, count in COUNTS.items():
        (root / f'{part}2017').mkdir()
        images, persons = [], []
        for i in range(1, count + 1):
            image = np.full((64, 48, 3), 4 * i, np.uint8)
            image[8:56, 10:40] = 200
            cv2.imwrite(str(root / f'{part}2017' / f'{i}.png'), image)
            images.append(dict(id=i, file_name=f'{i}.png', height=64, width=48))
            points = [value for k in range(KEYPOINTS) for value in (11 + k, 9 + 2 * k, 2)]
            persons.append(dict(
                id=i, image_id=i, category_id=1, bbox=[10, 8, 30, 48], area=1440, iscrowd=0, keypoints=points,
                num_keypoints=KEYPOINTS, segmentation=[[10, 8, 40, 8, 40, 56, 10, 56]],
            ))  # fmt: skip
        names = [str(k) for k in range(KEYPOINTS)]
        kind = dict(id=1, name='person', keypoints=names, skeleton=[])
        file = root / 'annotations' / f'person_keypoints_{part}2017.json'
        file.write_text(json.dumps(dict(images=images, annotations=persons, categories=[kind])))


@pytest.mark.parametrize('scope', ['mmpose', 'mmnas_ext'])
def test_the_keypoint_detector_searches_and_adapts(scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())
    make_persons(tmp_path / 'coco')
    seed = make(tmp_path / 'given')['seed']
    cfg = Config.fromfile(CONFIGS / 'examples' / 'fna_heatmap_coco_keypoints.py')
    cfg.default_scope = scope
    options = {
        'seed': seed, 'space': json.loads(SPACE.format()), 'data_root': str(tmp_path / 'coco') + '/',
        'model.head.deconv_out_channels': (8, 8, 8), 'auto_scale_lr.enable': False,
        'train_dataloader.batch_size': 2, 'train_dataloader.num_workers': 0, 'val_dataloader.num_workers': 0,
        'test_dataloader.num_workers': 0, 'val_dataloader.dataset.bbox_file': '',
        'test_dataloader.dataset.bbox_file': '', 'train_cfg.max_epochs': 2, 'train_cfg.arch_start': 1,
        'derived.train_cfg.max_epochs': 1, 'derived.train_cfg.val_interval': 1, 'default_hooks.logger.interval': 1,
        'derived.default_hooks.checkpoint.interval': 1, 'log_level': 'WARNING',
    }  # fmt: skip
    resolve(cfg, options)
    files = WorkDir(tmp_path / 'w')
    search(cfg, files.root)

    rows = [row for row in logged(files.root) if 'loss' in row]
    assert ['arch_loss_kpt' in row for row in rows] == [False] * 10 + [True] * 10
    arch = ArchSpec.parse(files.arch)
    assert arch in SPACE
    rows = logged(files.adapt)
    assert [np.isfinite(row['loss_kpt']) for row in rows if 'loss' in row] == [True] * 20
    assert -1 <= next(row['coco/AP'] for row in rows if 'coco/AP' in row) <= 1
    trained = torch.load(files.adapt / 'epoch_1.pth', weights_only=False)['state_dict']
    assert trained['head.final_layer.weight'].shape[0] == KEYPOINTS
    start, _ = remap(load_seed(seed['checkpoint'], seed['arch']), arch)
    for key in (key for key in start if key.endswith('conv.weight')):
        assert 0 < (trained[f'backbone.{key}'] - start[key]).norm() < start[key].norm(), key
