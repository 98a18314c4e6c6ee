"""Images without labels from folders and lists as they lie about, and which of them are held out."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from mmnas_ext.datasets.images import PackImages, UnlabelledImages
from mmnas_ext.registry import DATASETS


def write(root: Path, *names: str) -> None:
    """Images of one colour, told apart by it: the n-th has blue n, green 2n, red 3n."""
    for number, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        image = np.full((4, 6, 3), (number, 2 * number, 3 * number), np.uint8)
        assert cv2.imwrite(str(file), image)


def touch(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def paths(root: Path, sources: Any, **kwargs: Any) -> list[str]:
    """What a dataset holds, relative to its root."""
    dataset = UnlabelledImages(sources, data_root=str(root), **kwargs)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [Path(info['img_path']).relative_to(root).as_posix() for info in infos]


def test_class_folders_in_order(tmp_path: Path) -> None:
    touch(tmp_path, 'train/n02/b.JPEG', 'train/n02/a.jpg', 'train/n01/deep/z.png', 'train/n01/c.webp')
    assert paths(tmp_path, 'train') == [
        'train/n01/c.webp',
        'train/n01/deep/z.png',
        'train/n02/a.jpg',
        'train/n02/b.JPEG',
    ]


def test_a_flat_folder(tmp_path: Path) -> None:
    touch(tmp_path, '000002.jpg', '000001.jpg')
    assert paths(tmp_path, '.') == ['000001.jpg', '000002.jpg']
    (info,) = UnlabelledImages(str(tmp_path), indices=1, pipeline=[])
    assert info['img_path'] == str(tmp_path / '000001.jpg')


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, 'a.jpg', 'a.json', 'a.txt', 'readme', 'a.npy', 'jpg', 'b.tiff', 'c.gif')
    assert paths(tmp_path, '.') == ['a.jpg', 'b.tiff']
    assert paths(tmp_path, '.', suffixes=('.npy', '.gif')) == ['a.npy', 'c.gif']
    assert paths(tmp_path, '.', suffixes='.gif') == ['c.gif']


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, 'disk/n01/a.jpg')
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / 'n01').symlink_to(tmp_path / 'disk' / 'n01')
    assert paths(tmp_path, 'train') == ['train/n01/a.jpg']


def test_a_list_with_labels(tmp_path: Path) -> None:
    touch(tmp_path, 'images/n02/b.JPEG', 'images/n01/a.JPEG', 'images/n01/unlisted.JPEG')
    (tmp_path / 'meta.txt').write_text('n02/b.JPEG 7\n\nn01/a.JPEG 3\n')
    # the order is the list's
    assert paths(tmp_path, 'meta.txt', data_prefix='images') == ['images/n02/b.JPEG', 'images/n01/a.JPEG']


def test_a_coco_file(tmp_path: Path) -> None:
    touch(tmp_path, 'val2017/7.jpg', 'val2017/3 of 4.jpg')
    images = [{'id': 1, 'file_name': '7.jpg'}, {'id': 2, 'file_name': '3 of 4.jpg'}]
    (tmp_path / 'instances.json').write_text(json.dumps({'images': images, 'annotations': []}))
    assert paths(tmp_path, 'instances.json', data_prefix='val2017') == ['val2017/7.jpg', 'val2017/3 of 4.jpg']


def test_each_image_of_several_sources_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, 'one/a.jpg', 'one/b.jpg', 'two/a.jpg')
    (tmp_path / 'list.txt').write_text('one/b.jpg\ntwo/a.jpg\none/b.jpg\n')
    assert paths(tmp_path, ['list.txt', 'one', 'one']) == ['one/b.jpg', 'two/a.jpg', 'one/a.jpg']


@pytest.fixture
def many(tmp_path: Path) -> Path:
    touch(tmp_path, *(f'train/n{i % 7:02}/{i:05}.jpg' for i in range(600)))
    return tmp_path


def test_parts_are_disjoint_and_complete(many: Path) -> None:
    everything = paths(many, 'train')
    held, rest = (paths(many, 'train', held_out=0.2, part=part) for part in ('held_out', 'train'))
    assert len(everything) == 600
    assert set(held).isdisjoint(rest)
    assert sorted(held + rest) == sorted(everything)
    # five standard deviations of a binomial: 5 * sqrt(600 * 0.2 * 0.8) = 49
    assert abs(len(held) - 120) < 49
    assert paths(many, 'train', held_out=0.2) == everything
    assert paths(many, 'train', part='train') == everything


def test_a_larger_share_keeps_what_a_smaller_one_held_out(many: Path) -> None:
    shares = [set(paths(many, 'train', held_out=share, part='held_out')) for share in (0.1, 0.2, 0.6)]
    assert shares[0] < shares[1] < shares[2]


def test_parts_stay_when_images_are_added_or_moved_elsewhere(many: Path) -> None:
    before = paths(many, 'train', held_out=0.2, part='held_out')
    touch(many, *(f'train/m{i % 3}/{i}.jpg' for i in range(100)))
    after = paths(many, 'train', held_out=0.2, part='held_out')
    assert [path for path in after if '/n' in path] == before
    assert len(after) > len(before)
    (many / 'train').rename(many / 'moved')
    moved = paths(many, 'moved', held_out=0.2, part='held_out')
    assert [path.replace('moved/', 'train/') for path in moved] == after


def test_the_parts_are_those_of_the_names_checksums(tmp_path: Path) -> None:
    # CRC-32 of the names by another program: 0x3610a686 'hello', 0x3a771143 'world', 0xcbf43926 '123456789';
    # over 2**32 these are 0.2112, 0.2284 and 0.7967
    touch(tmp_path, 'hello', 'world', '123456789')

    def held(share: float) -> list[str]:
        return paths(tmp_path, '.', suffixes=('hello', 'world', '123456789'), held_out=share, part='held_out')

    assert held(0.22) == ['hello']
    assert held(0.23) == ['hello', 'world']
    assert held(0.79) == ['hello', 'world']
    assert held(0.8) == ['123456789', 'hello', 'world']


def test_a_pipeline_gives_images_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, 'a/0.png', 'a/1.png', 'b/2.png')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='mmnas_ext.PackImages')]
    cfg = dict(type='mmnas_ext.UnlabelledImages', sources=['a', 'b'], data_root=str(tmp_path), pipeline=pipeline)
    dataset = DATASETS.build(cfg)
    images = [item['inputs'] for item in dataset]
    assert [item.keys() for item in dataset] == [{'inputs'}] * 3
    assert [(p.shape, p.dtype, p.is_contiguous()) for p in images] == [((3, 4, 6), torch.uint8, True)] * 3
    # blue first, as OpenCV reads
    assert [p[:, 0, 0].tolist() for p in images] == [[0, 0, 0], [1, 2, 3], [2, 4, 6]]


def test_packing_turns_the_axes_alone() -> None:
    image = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    packed = PackImages()({'img': image, 'img_path': 'x'})['inputs']
    assert packed.dtype == torch.float32
    assert packed[1].tolist() == [[1, 4, 7, 10], [13, 16, 19, 22]]


@pytest.mark.parametrize('shape', [(4, 6), (4, 6, 4), (3, 4, 6)])
def test_an_image_without_three_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'an image must be \(H, W, 3\), got \(.*\) from grey.png'):
        PackImages()({'img': np.zeros(shape, np.uint8), 'img_path': 'grey.png'})


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'part': 'test'}, r"part must be one of \('all', 'train', 'held_out'\), got 'test'"),
        ({'held_out': 1.0}, r'held_out must be in \[0, 1\), got 1.0'),
        ({'held_out': -0.1}, r'held_out must be in \[0, 1\), got -0.1'),
        ({'held_out': float('nan')}, r'held_out must be in \[0, 1\), got nan'),
        ({'part': 'held_out'}, "held_out must be greater than 0 where part='held_out', got 0"),
        ({'suffixes': ('.png',)}, r"\['.'\] in .* got 0 images .*'.png'"),
        ({'held_out': 1e-9, 'part': 'held_out'}, "images of part 'held_out', got 1 images and none of that part"),
        ({'sources': []}, r'sources \[\] in .* got 0 images'),
        ({'sources': 'empty.txt'}, r"sources \['empty.txt'\] in .* got 0 images"),
        ({'sources': 'list.json'}, "list.json is not a COCO file: it must have a list 'images'"),
        ({'sources': 'plain.json'}, "plain.json is not a COCO file: it must have a list 'images'"),
        ({'sources': 'torn.json'}, 'torn.json is not a COCO file: the text is not JSON: Expecting'),
        ({'sources': 'nameless.json'}, "not a COCO file: an image must have a 'file_name', got {'id': 3}"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    touch(tmp_path, 'a.jpg', 'empty.txt')
    (tmp_path / 'list.json').write_text('[]')
    (tmp_path / 'plain.json').write_text('{"files": []}')
    (tmp_path / 'torn.json').write_text('{"images": [')
    (tmp_path / 'nameless.json').write_text('{"images": [{"id": 3}]}')
    with pytest.raises(ValueError, match=message):
        UnlabelledImages(**{'sources': '.', 'data_root': str(tmp_path), **arguments})


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('none', 'sources must be folders, .txt lists or COCO .json files, got .*none, which'),
        ('none.txt', 'none.txt, which does not exist'),
        ('a.jpg', 'a.jpg, which does not exist or is another file'),
        ('list.txt', r'list.txt: 1 of 1 files do not exist, the first: n01/a.jpg \(line 1\); .*: set data_prefix'),
    ],
)
def test_missing_sources_are_named(tmp_path: Path, source: str, message: str) -> None:
    touch(tmp_path, 'a.jpg')
    (tmp_path / 'list.txt').write_text('n01/a.jpg 3\n')
    with pytest.raises(FileNotFoundError, match=message):
        UnlabelledImages(['.', source], data_root=str(tmp_path))


NAMES = ('Straße 東京/plain 0.png', 'a b/c 7', 'x.png', '  padded.png', 'line\u2028end.png')


@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('mark', ['', '\ufeff'])
@pytest.mark.parametrize('after', ['', ' 3', '\t-1', ' labels/of it.png', ' 0 1 2'])
def test_a_list_names_files_whatever_their_names(tmp_path: Path, end: str, mark: str, after: str) -> None:
    touch(tmp_path, *NAMES)
    lines = [name + after for name in NAMES]
    (tmp_path / 'list.txt').write_bytes((mark + end.join([*lines, '', ''])).encode())
    assert paths(tmp_path, 'list.txt') == list(NAMES)


def test_a_label_that_belongs_to_a_name_stays_there(tmp_path: Path) -> None:
    touch(tmp_path, 'a', 'a 7', 'folder/x')
    (tmp_path / 'list.txt').write_text('a 7\na 7 1\na 8\n')
    assert paths(tmp_path, 'list.txt') == ['a 7', 'a']
    (tmp_path / 'folders.txt').write_text('folder 3')
    with pytest.raises(FileNotFoundError, match=r'1 of 1 files do not exist, the first: folder \(line 1\)'):
        paths(tmp_path, 'folders.txt')


def test_all_missing_images_of_a_list_are_counted_with_their_lines(tmp_path: Path) -> None:
    touch(tmp_path, 'here/1.png')
    (tmp_path / 'list.txt').write_text('gone/0.png 4\nhere/1.png 4\n\nhere/a b.png\ngone/3.png\ngone/4.png 1\n')
    message = (
        r'list\.txt: 4 of 5 files do not exist, the first: gone/0\.png \(line 1\), here/a b\.png \(line 4\), '
        r'gone/3\.png \(line 5\); they are looked for in .*: set data_prefix'
    )
    with pytest.raises(FileNotFoundError, match=message):
        paths(tmp_path, 'list.txt')
    (tmp_path / 'coco.json').write_text(json.dumps({'images': [{'file_name': f'{n}.png'} for n in range(5)]}))
    with pytest.raises(FileNotFoundError, match=r'coco\.json: 5 of 5 files do not exist, the first: 0.png, 1.png, 2'):
        paths(tmp_path, 'coco.json')


def test_a_list_must_be_utf_8(tmp_path: Path) -> None:
    (tmp_path / 'list.txt').write_bytes('a.png\nStraße.png\n'.encode('latin-1'))
    with pytest.raises(ValueError, match=r'list\.txt, line 2: the text must be UTF-8, got byte 0xdf'):
        paths(tmp_path, 'list.txt')
    (tmp_path / 'deep.json').write_text('[' * 100000)
    with pytest.raises(ValueError, match=r'deep\.json is not a COCO file: the text is not JSON'):
        paths(tmp_path, 'deep.json')
