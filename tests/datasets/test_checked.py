"""Errors of data name the file: images that cannot be read, labels that no class has, files that are missing."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.dataset import BaseDataset, RepeatDataset
from mmseg.datasets import BaseSegDataset

from mmnas_ext.datasets import DataError, DatasetView, UnlabelledImages, check_files, check_sample, renewed
from mmnas_ext.datasets.checked import CheckedPipeline, unreadable

SEG_PIPELINE = [
    {'type': 'LoadImageFromFile'},
    {'type': 'LoadAnnotations'},
    {'type': 'RandomFlip', 'prob': 0.5},
    {'type': 'PackSegInputs'},
]
DET_PIPELINE = [
    {'type': 'LoadImageFromFile'},
    {'type': 'LoadAnnotations', 'with_bbox': True},
    {'type': 'PackDetInputs'},
]


def scoped(pipeline: list[dict[str, Any]], scope: str) -> list[dict[str, Any]]:
    return [{**each, '_scope_': scope} for each in pipeline]


def scenes(root: Path, labels: list[int], **kwargs: Any) -> BaseSegDataset:
    """Scenes of 6x8 pixels with label 0 on the left and, one per scene, `labels` on the right."""
    for folder in ('images', 'labels'):
        (root / folder).mkdir(exist_ok=True)
    for number, label in enumerate(labels):
        drawn = np.zeros((6, 8), np.uint8)
        drawn[:, 4:] = label
        cv2.imwrite(str(root / 'images' / f'{number}.png'), np.full((6, 8, 3), number, np.uint8))
        cv2.imwrite(str(root / 'labels' / f'{number}.png'), drawn)
    return BaseSegDataset(
        data_root=str(root), data_prefix={'img_path': 'images', 'seg_map_path': 'labels'}, img_suffix='.png',
        pipeline=scoped(SEG_PIPELINE, 'mmseg'), **{'metainfo': {'classes': ('a', 'b', 'c')}, **kwargs},
    )  # fmt: skip


def boxes(root: Path, count: int = 3) -> CocoDataset:
    """Images with one box each."""
    images, annotations = [], []
    for number in range(count):
        cv2.imwrite(str(root / f'{number}.jpg'), np.full((16, 16, 3), 20 * number, np.uint8))
        images.append({'id': number, 'file_name': f'{number}.jpg', 'width': 16, 'height': 16})
        annotations.append(
            {'id': number, 'image_id': number, 'category_id': 1, 'bbox': [1, 1, 9, 9], 'area': 81, 'iscrowd': 0}
        )
    content = {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'thing'}]}
    (root / 'boxes.json').write_text(json.dumps(content))
    return CocoDataset(
        data_root=str(root), ann_file='boxes.json', data_prefix={'img': ''}, metainfo={'classes': ('thing',)},
        pipeline=scoped(DET_PIPELINE, 'mmdet'),
    )  # fmt: skip


SPOILT = {
    'empty': (b'', r'1\.\w+ is empty \(0 bytes\)'),
    'damaged': (b'no image at all', r'1\.\w+ cannot be read as an image'),
    'gone': (None, r'1\.\w+ cannot be opened: No such file'),
}


def spoil(file: Path, content: bytes | None) -> None:
    file.unlink()
    if content is not None:
        file.write_bytes(content)


@pytest.mark.parametrize('how', SPOILT)
def test_an_image_that_cannot_be_read_is_named_whatever_the_dataset(tmp_path: Path, how: str) -> None:
    content, message = SPOILT[how]
    for name in ('seg', 'det', 'plain'):
        (tmp_path / name).mkdir()
    segmented, detected = scenes(tmp_path / 'seg', [1, 2, 255]), boxes(tmp_path / 'det')
    for number in range(3):
        cv2.imwrite(str(tmp_path / 'plain' / f'{number}.png'), np.zeros((4, 4, 3), np.uint8))
    unlabelled = UnlabelledImages(str(tmp_path / 'plain'), pipeline=[{'type': 'LoadImageFromFile'}])
    for file in ('seg/images/1.png', 'det/1.jpg', 'plain/1.png'):
        spoil(tmp_path / file, content)
    for dataset in (segmented, detected, unlabelled):
        for reader in (DatasetView(dataset, [0, 1]), renewed(RepeatDataset(dataset, 2))):
            assert reader[0]['inputs' if dataset is not unlabelled else 'img'].shape[-1] in (3, 4, 8, 16)
            with pytest.raises(DataError, match=f'^the image .*{message}') as caught:
                reader[1]
            assert '\n' not in str(caught.value)
    with pytest.raises(DataError, match=message):
        unlabelled[1]  # a rating reads it without a view


def test_a_label_map_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    dataset = scenes(tmp_path, [1, 2])
    spoil(tmp_path / 'labels' / '1.png', b'')
    with pytest.raises(DataError, match=r'^the label map .*labels/1\.png is empty'):
        check_sample(dataset, 1)


def test_what_else_fails_is_said_in_one_line_with_the_file() -> None:
    def fail(info: dict[str, Any]) -> None:
        raise KeyError('gt_bboxes\nand more' + 'x' * 500)

    with pytest.raises(DataError, match=r"^the pipeline fails on s3://b/1\.jpg: KeyError: 'gt_bboxes") as caught:
        CheckedPipeline(fail)({'img_path': 's3://b/1.jpg'})
    assert len(str(caught.value)) == 300
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(DataError, match='fails on item 4: KeyError'):
        CheckedPipeline(fail)({'sample_idx': 4})


def test_an_array_is_not_taken_for_a_damaged_image(tmp_path: Path) -> None:
    np.save(tmp_path / 'a.npy', np.zeros(3))
    assert unreadable(str(tmp_path / 'a.npy')) is None
    assert 'Is a directory' in str(unreadable(str(tmp_path)))


@pytest.mark.parametrize(
    ('label', 'settings', 'message'),
    [
        (3, {}, r'labels/1\.png has label 3, but num_classes is 3, labels 0\.\.2: pixels .* must have 255 \(ignore'),
        (254, {}, 'has label 254, but num_classes is 3'),
        (255, {'ignore_index': 7}, r'has label 255, .* must have 7 \(ignore_index\)'),
        # what the file calls 4 is 3 once its zero means "ignored"
        (4, {'reduce_zero_label': True}, r'has label 3 \(4 in the file: reduce_zero_label\), but num_classes is 3'),
    ],
)
def test_a_label_that_no_class_has_is_named_with_its_file(
    tmp_path: Path, label: int, settings: dict[str, Any], message: str
) -> None:
    dataset = scenes(tmp_path, [1, label], **settings)
    check_sample(dataset, 0)
    with pytest.raises(DataError, match=message):
        DatasetView(dataset, [0, 1])[1]


@pytest.mark.parametrize(
    ('label', 'settings'), [(2, {}), (255, {}), (7, {'ignore_index': 7}), (3, {'reduce_zero_label': True})]
)
def test_labels_of_classes_and_the_ignored_one_pass(tmp_path: Path, label: int, settings: dict[str, Any]) -> None:
    sample = check_sample(scenes(tmp_path, [label], **settings), 0)['data_samples']
    assert sample.gt_sem_seg.data.shape == (1, 6, 8)


def test_labels_are_checked_after_the_choice_of_classes(tmp_path: Path) -> None:
    class Three(BaseSegDataset):
        METAINFO = {'classes': ('a', 'b', 'c'), 'palette': [[0, 0, 0]] * 3}

    plain = scenes(tmp_path, [2])
    kept = Three(
        data_root=str(tmp_path), data_prefix={'img_path': 'images', 'seg_map_path': 'labels'}, img_suffix='.png',
        metainfo={'classes': ('c', 'a')}, pipeline=scoped(SEG_PIPELINE, 'mmseg'),
    )  # fmt: skip
    found = check_sample(kept, 0)['data_samples'].gt_sem_seg.data
    assert sorted(found.unique().tolist()) == [0, 1]  # c, once 2, and a
    with pytest.raises(DataError, match='has label 2, but num_classes is 2'):
        check_sample(plain, 0, num_classes=2)


def test_labels_of_boxes_are_checked_too(tmp_path: Path) -> None:
    dataset = boxes(tmp_path)
    assert check_sample(dataset, 0)['data_samples'].gt_instances.labels.tolist() == [0]
    with pytest.raises(DataError, match=r'annotation of .*0\.jpg has label 0, but num_classes is 0, labels'):
        check_sample(dataset, 0, num_classes=0)


def test_examining_a_sample_changes_no_random_state(tmp_path: Path) -> None:
    dataset = scenes(tmp_path, [1])
    draws = []
    for examine in (False, True):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        if examine:
            check_sample(dataset, 0)
        draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]


def test_a_checked_pipeline_can_go_to_a_worker_and_shows_its_transforms(tmp_path: Path) -> None:
    pipeline = renewed(scenes(tmp_path, [1])).pipeline
    again = pickle.loads(pickle.dumps(pipeline))
    assert [type(each).__name__ for each in again.transforms] == [each['type'] for each in SEG_PIPELINE]
    assert (again.classes, again.ignore_index, again.shift) == (3, 255, 0)


def test_all_missing_files_are_told_of_at_once(tmp_path: Path) -> None:
    dataset = scenes(tmp_path, [0] * 6)
    check_files(dataset)
    for name in ('images/1.png', 'images/4.png', 'labels/0.png', 'labels/5.png'):
        (tmp_path / name).unlink()
    message = (
        r'^train_dataloader.dataset: 4 of 12 files do not exist, the first: .*labels/0.png, .*images/1.png, .*4.png;'
    )
    with pytest.raises(FileNotFoundError, match=message):
        check_files(RepeatDataset(dataset, 3))
    with pytest.raises(FileNotFoundError, match='^val: 4 of 12'):
        check_files(dataset, 'val')


class Listed(BaseDataset):
    """Images that are nowhere."""

    def __init__(self, path: str, **kwargs: Any) -> None:
        self.path = path
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        return [{'img_path': self.path}]


def test_what_a_storage_backend_holds_is_left_to_it() -> None:
    check_files(Listed('s3://bucket/1.jpg'))
    check_files(Listed('far/1.jpg', pipeline=[{'type': 'LoadImageFromFile', 'backend_args': {'backend': 'http'}}]))
    with pytest.raises(FileNotFoundError, match=r'1 of 1 files do not exist, the first: far/1\.jpg'):
        check_files(Listed('far/1.jpg', pipeline=[{'type': 'LoadImageFromFile'}]))
