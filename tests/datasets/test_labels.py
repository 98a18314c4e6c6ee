"""What can be wrong with one's own data is said before a run: which file, which value, what is allowed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmnas_ext.datasets.labels import check_part
from mmnas_ext.datasets.layouts import CITYSCAPES, OwnData
from tests.own_data import make_cityscapes, make_coco, make_masks, make_voc

MASKS = dict(type='folder-masks', classes=('a', 'b', 'c'))


def checked(root: Path, **given: Any) -> list[str]:
    """Finds and checks all parts of data, as a run does; returns the warnings."""
    data = OwnData.parse(dict(given, root=str(root)))
    classes = data.classes or data.read_classes()
    return [text for name in ('train', 'val') for text in check_part(data, name, data.find(name), classes)]


def changed(file: Path, key: str, index: int, **values: Any) -> None:
    """Changes an entry of a list of a COCO file."""
    content = json.loads(file.read_text())
    content[key][index] = {k: v for k, v in {**content[key][index], **values}.items() if v is not None}
    file.write_text(json.dumps(content))


def test_sound_data_pass_without_a_word(tmp_path: Path) -> None:
    assert checked(make_voc(tmp_path / 'voc', ('a', 'b')), type='voc') == []
    assert checked(make_coco(tmp_path / 'coco'), type='coco') == []
    assert checked(make_masks(tmp_path / 'masks'), **MASKS) == []
    assert checked(make_cityscapes(tmp_path / 'city'), type='cityscapes', classes=('road', 'sky')) == []


def test_cityscapes_classes_are_those_of_mmsegmentation() -> None:
    from mmseg.datasets import CityscapesDataset

    assert CityscapesDataset.METAINFO['classes'] == CITYSCAPES


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('voc', r"data must be a dict with type and root, such as dict\(type='coco', root='/my/data'\), got 'voc'"),
        (dict(type='coco'), r'data must be a dict with type and root'),
        (dict(type='yolo', root='x'), r"data.type must be one of \['coco', 'voc', 'folder-masks', 'cityscapes'\], got"),
        (
            dict(type='voc', root='x', ignore_index=0),
            r"data.ignore_index has no effect: data of type 'voc' takes \['ty",
        ),
        (dict(type='voc', root='x', metric='ap'), r"data.metric must be one of \('voc', 'coco'\), got 'ap'"),
        (dict(type='voc', root=3), r'data.root must be a folder, got 3'),
        (dict(type='voc', root='x', classes='cat'), r"classes must be a sequence of distinct names, got 'cat'"),
        (dict(type='voc', root='x', val=3), r'data.val must name a part, a file or a dict of places, got 3'),
        (dict(type='voc', root='x', classes=('a',), palette=[]), r'data.palette must have a colour per class, 1, got'),
        (dict(MASKS, root='x', ignore_index=256), r'data.ignore_index must be an integer in 0..255, got 256'),
        (
            dict(MASKS, root='x', ignore_index=1),
            r"data.ignore_index=1 is the number of class 'b': take one of no",
        ),
        (dict(MASKS, root='x', reduce_zero_label=1), r'data.reduce_zero_label must be True or False, got 1'),
        (dict(MASKS, root='x', reduce_zero_label=True, ignore_index=9), r'ignore_index stays 255, got 9'),
    ],
)
def test_a_malformed_variable_is_told_of(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OwnData.parse(given)


def test_a_root_or_part_that_is_not_there_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'data.root .*nowhere does not exist: name the folder that has the'):
        checked(tmp_path / 'nowhere', type='coco')
    with pytest.raises(
        FileNotFoundError, match=r'data.train: no annotation file in .*; looked for annotations/train.js'
    ):
        checked(tmp_path, type='coco')
    with pytest.raises(
        FileNotFoundError, match=r"is not of VOC's layout: it has no folder Annotations, nor has a folder"
    ):
        checked(tmp_path, type='voc')
    with pytest.raises(
        FileNotFoundError, match=r"has no part 'train'; looked for images/train with masks/train, and tr"
    ):
        checked(tmp_path, **MASKS)
    with pytest.raises(FileNotFoundError, match=r'data.train: there is no folder .*/leftImg8bit/train'):
        checked(tmp_path, type='cityscapes')
    root = make_voc(tmp_path / 'voc')
    (root / 'ImageSets/Main/val.txt').unlink()
    with pytest.raises(
        FileNotFoundError, match=r'data.val: no list of images in .*; looked for ImageSets/Main/val.txt'
    ):
        checked(root, type='voc')
    with pytest.raises(FileNotFoundError, match=r'data.val: there is no list .*/other.txt'):
        checked(root, type='voc', val='other.txt')
    make_voc(tmp_path / 'years' / 'VOC2007')
    make_voc(tmp_path / 'years' / 'VOC2012')
    with pytest.raises(ValueError, match=r'years has VOC2007, VOC2012: name one, data.root=.*/VOC2007'):
        checked(tmp_path / 'years', type='voc')
    with pytest.raises(ValueError, match=r'data.train must be a dict of the places ann_file, img, got'):
        checked(make_coco(tmp_path / 'coco'), type='coco', train=dict(ann_file='x.json'))


def test_places_that_are_given_are_taken(tmp_path: Path) -> None:
    root = make_coco(tmp_path / 'coco', files='a/{}_boxes.json', images='pictures/{}')
    places = {part: dict(ann_file=f'a/{part}_boxes.json', img=f'pictures/{part}') for part in ('train', 'val')}
    assert checked(root, type='coco', **places) == []
    root = make_masks(tmp_path / 'masks', 'x/{}/{}.jpg', 'y/{}/{}.png')
    assert checked(root, **MASKS, **{p: dict(img_path=f'x/{p}', seg_map_path=f'y/{p}') for p in ('train', 'val')}) == []


def test_classes_that_a_coco_file_does_not_have(tmp_path: Path) -> None:
    root = make_coco(tmp_path, ('dog', 'cat'))
    with pytest.raises(ValueError, match=r"train.json has no class 'Dogs': did you mean 'dog'\?"):
        checked(root, type='coco', classes=('Dogs', 'cat'))
    with pytest.raises(ValueError, match=r"train.json has no class 'zebra': it has 'dog', 'cat'"):
        checked(root, type='coco', classes=('zebra',))
    content = json.loads((root / 'annotations/val.json').read_text())
    content['categories'].reverse()
    (root / 'annotations/val.json').write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"data.val: .* lists the classes as 'cat', 'dog', and data.train as 'dog', 'c"
    ):
        checked(root, type='coco')


@pytest.mark.parametrize(
    ('key', 'values', 'message'),
    [
        ('images', dict(file_name='lost.jpg'), r'of the images of .* 1 of 4 files do not exist, the first: .*lost.jpg'),
        ('images', dict(width=None), r'train.json: an image has no width'),
        ('annotations', dict(image_id=99), r'annotation 0 has image_id 99, which is not in the file'),
        ('annotations', dict(category_id=99), r'annotation 0 has category_id 99, which is not in the file'),
        ('annotations', dict(bbox=[1, 2]), r'annotation 0 must have bbox \[x, y, width, height\] and area'),
        ('annotations', dict(bbox=['1', '2', '3', '4']), r"and area in numbers, got bbox \['1', '2', '3', '4'\] and"),
        ('annotations', dict(bbox=[float('nan'), 1, 5, 5]), r'in numbers, got bbox \[nan, 1, 5, 5\] and area 1080'),
        ('annotations', dict(area='9'), r"annotation 0 must have .* and area '9'"),
        ('annotations', dict(id=None), r"train.json: an annotation has no id: {'image_id': 0"),
        ('annotations', dict(id=[1]), r'train.json: an id in annotations must be a number, got \[1\]'),
        ('images', dict(width='48'), r'train.json: width and height of an image must be numbers above 0: '),
        ('categories', dict(name=3), r'train.json: the name of a category must be a text, got 3'),
        ('categories', dict(id=None), r"train.json: a category has no id: {'name': 'dog'}"),
    ],
)
def test_a_coco_file_that_is_wrong(tmp_path: Path, key: str, values: dict[str, Any], message: str) -> None:
    root = make_coco(tmp_path)
    changed(root / 'annotations/train.json', key, 0, **values)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        checked(root, type='coco')


def test_a_coco_file_that_is_another(tmp_path: Path) -> None:
    root = make_coco(tmp_path)
    (root / 'annotations/train.json').write_text('{"images": []}')
    with pytest.raises(ValueError, match=r"is not a COCO file of boxes: it must have a list 'annotations' of objects"):
        checked(root, type='coco')
    (root / 'annotations/train.json').write_text('{')
    with pytest.raises(ValueError, match=r'is not a COCO file: the text is not JSON'):
        checked(root, type='coco')


# ---------------------------------------------------------------- labels that nothing is trained on


@pytest.mark.parametrize(
    ('values', 'fault'),
    [
        (
            dict(bbox=[0.1, 0.1, 0.7, 0.5]),
            r'4 less than a pixel wide or high: bbox must be \[x, y, width, height\] in pixels',
        ),
        (
            dict(bbox=[30, 30, -20, -20]),
            r'4 less than a pixel wide or high: bbox must be \[x, y, width, height\] in pixels',
        ),
        (dict(bbox=[500, 0, 9, 9]), r'4 outside their image: bbox must be \[x, y, width, height\] in pixels'),
        (dict(area=0), '4 of an area of 0 or less'),
        (dict(iscrowd=1), r'4 crowds \(iscrowd\)'),
        (dict(ignore=1), '4 marked ignore'),
    ],
)
def test_boxes_none_of_which_is_trained_on(tmp_path: Path, values: dict[str, Any], fault: str) -> None:
    root = make_coco(tmp_path)
    for index in range(4):
        changed(root / 'annotations/train.json', 'annotations', index, **values)
    with pytest.raises(
        ValueError,
        match=rf'data.train: none of the 4 boxes of .*train.json can be used, {fault}$',
    ):
        checked(root, type='coco')
    assert all(each['ignore_flag'] for each in build(root, 'CocoDataset'))


def build(root: Path, kind: str) -> list[dict[str, Any]]:
    """The boxes of the training part, as MMDetection reads them."""
    import mmdet.datasets

    part = OwnData.parse(dict(type={'CocoDataset': 'coco', 'XMLDataset': 'voc'}[kind], root=str(root))).find('train')
    given = {key: value for key, value in part.dataset.items() if key != 'type'}
    dataset = getattr(mmdet.datasets, kind)(**given, metainfo=dict(classes=('dog', 'cat')), lazy_init=True)
    dataset.full_init()
    return [box for index in range(len(dataset)) for box in dataset.get_data_info(index)['instances']]


def test_how_many_boxes_are_left_is_said(tmp_path: Path) -> None:
    root = make_coco(tmp_path / 'coco')
    changed(root / 'annotations/train.json', 'images', 1, width=4, height=4)
    changed(root / 'annotations/train.json', 'annotations', 2, iscrowd=1)
    file = root / 'annotations/train.json'
    assert checked(root, type='coco') == [
        f'data.train: of the 4 boxes of {file} 2 are used; left out are 1 outside their image, 1 crowds (iscrowd)'
    ]
    assert [box['ignore_flag'] for box in build(root, 'CocoDataset')] == [0, 1, 0]
    root = make_voc(tmp_path / 'voc', ('cat', 'dog'))
    for number in range(4):
        annotations = root / f'Annotations/train_{number}.xml'
        text = annotations.read_text()
        annotations.write_text(text.replace('<bndbox>', '<difficult>1</difficult><bndbox>'))
        if number == 1:
            assert checked(root, type='voc') == [
                f'data.train: of the 4 boxes of {root}/ImageSets/Main/train.txt 2 are used; left out are 2 marked diffi'
                'cult'
            ]
            assert [box['ignore_flag'] for box in build(root, 'XMLDataset')] == [1, 1, 0, 0]
    with pytest.raises(ValueError, match=r'none of the 4 boxes of .*train.txt can be used, 4 marked difficult'):
        checked(root, type='voc')


def test_files_without_any_box(tmp_path: Path) -> None:
    root = make_coco(tmp_path / 'coco', ('dog', 'cat', 'cow'))
    content = json.loads((root / 'annotations/val.json').read_text())
    with pytest.raises(ValueError, match=r"data.val: .*val.json has no box of 'cow'"):
        checked(root, type='coco', classes=('cow',))
    (root / 'annotations/val.json').write_text(json.dumps({**content, 'annotations': []}))
    with pytest.raises(ValueError, match=r'data.val: .*val.json has no annotations$'):
        checked(root, type='coco')
    data = OwnData.parse(dict(type='coco', root=str(root), test='val'))  # the images of a test can be looked at without
    warnings = check_part(data, 'test', data.find('test'), ('dog', 'cat', 'cow'))
    assert warnings[0] == f'data.test: {root}/annotations/val.json has no annotations'
    root = make_voc(tmp_path / 'voc')
    for file in (root / 'Annotations').glob('val_*'):
        file.write_text('<annotation/>')
    with pytest.raises(ValueError, match=r'data.val: no file of .*val.txt has an object'):
        checked(root, type='voc')


# ---------------------------------------------------------------- what a host reads otherwise


def test_marks_blanks_and_empty_lines_that_a_host_reads_as_names(tmp_path: Path) -> None:
    root = make_coco(tmp_path / 'coco')
    file = root / 'annotations/val.json'
    file.write_text('\ufeff' + file.read_text(), encoding='utf-8')
    with pytest.raises(ValueError, match=r'val.json begins with a byte order mark \(BOM\), .*: save it without'):
        checked(root, type='coco')
    root = make_voc(tmp_path / 'voc')
    lists = root / 'ImageSets/Main/train.txt'
    text = lists.read_text()
    for wrong, message in (
        ('\ufeff' + text, r'train.txt begins with a byte order mark'),
        (text.replace('_1\n', '_1 \n'), r"train.txt, line 2 has blanks around its name: .*, got 'train_1 '"),
        (text + '\n', r'train.txt, line 5 is empty: remove it'),
        (
            text.replace('\n', '.jpg\n'),
            r'lists 0 of 4 exist, the first would be .*train_0.jpg.xml; a line must be a na',
        ),
        (text.replace('\n', ' 1\n'), r'the first would be .*train_0 1.xml; a line must be a name without an ending'),
    ):
        lists.write_text(wrong, encoding='utf-8')
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            checked(root, type='voc')
    with pytest.raises(FileNotFoundError, match=r'4 of 4 files do not exist, .*; a line must be a name without an end'):
        checked(root, type='voc', classes=('cat',))
    lists.write_bytes(text.replace('\n', '\r\n').encode())
    assert checked(root, type='voc') == [f"data.val: nothing in {root}/ImageSets/Main/val.txt is 'cow'"]
    lists.write_bytes(b'\xff\n')
    with pytest.raises(ValueError, match=r'train.txt must be a text in UTF-8: '):
        checked(root, type='voc')


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('<name>cat</name>', '<name>cat </name>', r"blanks around its name, 'cat ': write 'cat'"),
        ('<xmin>5<', '<xmin>abc<', r"bndbox/xmin of an object must be a number of pixels, got 'abc'"),
        ('<xmin>5<', '<xmin>inf<', r"bndbox/xmin of an object must be a number of pixels, got 'inf'"),
        ('<xmin>5<', '<xmin>45<', r'must have xmin < xmax and ymin < ymax in whole pixels, got \[45, 5, 41, 35\]'),
        ('<bndbox>', '<difficult/><bndbox>', r'difficult of an object must be 0 or 1, got None'),
        ('<width>48<', '<width>0<', r"size/width must be a number of pixels, got '0'; it may have no size"),
    ],
)
def test_objects_of_voc_that_are_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = make_voc(tmp_path) / 'Annotations/train_0.xml'
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=rf'{file}: .*{message}'):
        checked(tmp_path, type='voc')


def test_voc_files_that_are_wrong(tmp_path: Path) -> None:
    root = make_voc(tmp_path, ('cat', 'dog'))
    with pytest.raises(ValueError, match=r"data.train: no object of .* is a 'Cat': did you mean 'cat'\?"):
        checked(root, type='voc', classes=('Cat', 'dog'))
    warnings = checked(root, type='voc', classes=('dog', 'horse'))
    assert [text.split('data.train: ')[-1] for text in warnings[:2]] == [
        "objects of 'cat' are not among data.classes and left out",
        f"nothing in {root}/ImageSets/Main/train.txt is 'horse'",
    ]
    file = root / 'Annotations/train_0.xml'
    text = file.read_text()
    file.write_text(text.replace('<xmin>5</xmin>', ''))
    with pytest.raises(ValueError, match=r'train_0.xml: an object has no bndbox/xmin'):
        checked(root, type='voc')
    file.write_text(text[:-3])
    with pytest.raises(ValueError, match=r'train_0.xml is not XML: '):
        checked(root, type='voc')
    file.write_text(text)
    (root / 'JPEGImages/val_1.jpg').unlink()
    with pytest.raises(
        FileNotFoundError, match=r'of the images of .* 1 of 2 files do not exist, the first: .*val_1.jpg'
    ):
        checked(root, type='voc')


def test_masks_of_other_values(tmp_path: Path) -> None:
    root = make_masks(tmp_path / 'a')
    file = root / 'masks/train/train_0.png'
    with pytest.raises(
        ValueError, match=rf'{file} has the value 2, and data.classes has 2 names, values 0..1: .* must have 255'
    ):
        checked(root, **dict(MASKS, classes=('a', 'b')))
    with pytest.raises(
        ValueError, match=r'has the value 2, and data.classes has 1 names, values 1..1, 0 counts for not'
    ):
        checked(root, **dict(MASKS, classes=('a',)), reduce_zero_label=True)
    with pytest.raises(
        ValueError, match=r'data.classes must name the classes, in the order of their numbers in the masks'
    ):
        checked(root, type='folder-masks')
    binary = make_masks(tmp_path / 'b', values=(0, 255))
    with pytest.raises(
        ValueError, match=r'have 0 and 255 only, and 255 counts for nothing .*: write the second class as 1'
    ):
        checked(binary, **dict(MASKS, classes=('a', 'b')))
    warnings = checked(root, **dict(MASKS, classes=('a', 'b', 'c', 'd')))
    assert warnings[0] == f"data.train: nothing in {root}/masks/train is 'd'"


@pytest.mark.parametrize(
    ('mask', 'message'),
    [
        (
            np.zeros((40, 48, 3), np.uint8),
            r'train_0.png is a colour image, 40 x 48 x 3: a mask must have one number per',
        ),
        (np.zeros((40, 48), np.uint16), r'train_0.png has values of uint16: a mask must be a PNG of 8 bits'),
        (np.zeros((48, 40), np.uint8), r'train_0.png is 40x48 pixels, and its image train_0.jpg 48x40'),
        (None, r'train_0.png or its image train_0.jpg cannot be read'),
    ],
)
def test_masks_that_are_none(tmp_path: Path, mask: Any, message: str) -> None:
    file = make_masks(tmp_path) / 'masks/train/train_0.png'
    if mask is None:
        file.write_bytes(b'PNG')
    else:
        Image.fromarray(mask).save(file)
    with pytest.raises(ValueError, match=message):
        checked(tmp_path, **MASKS)


def test_masks_and_images_that_do_not_go_together(tmp_path: Path) -> None:
    root = make_masks(tmp_path)
    mask = root / 'masks/val/val_1.png'
    mask.rename(root / 'kept.png')
    with pytest.raises(
        FileNotFoundError, match=r'data.val: of the masks of .* 1 of 2 files do not exist, the first: .*val_1'
    ):
        checked(root, **MASKS)
    (root / 'kept.png').rename(mask)
    (root / 'images/train/train_3.jpg').rename(root / 'images/train/train_3.png')
    with pytest.raises(
        ValueError, match=r'has 3 images that end in .jpg, and others such as train_3.png, which MMSegment'
    ):
        checked(root, **MASKS)
    with pytest.raises(FileNotFoundError, match=r'images/val has no image that ends in .png: set data.img_suffix'):
        checked(root, **MASKS, img_suffix='.png', train='val')
    (root / 'listed.txt').write_text('train_0.jpg\n')
    flat = make_masks(root / 'flat', 'images/{1}.jpg', 'masks/{1}.png')
    (flat / 'listed.txt').write_text('train_0.jpg\n')
    with pytest.raises(ValueError, match=r'data.train: the lines of listed.txt must be names without .jpg'):
        checked(flat, **MASKS, train='listed.txt')


@pytest.mark.parametrize('other', ['zz.TIF', 'zz.WEBP', 'z.gif', 'z.Jpg', '.hidden.jpg'])
def test_images_of_any_other_ending_are_told_of(tmp_path: Path, other: str) -> None:
    root = make_masks(tmp_path)
    (root / 'images/train' / other).write_bytes(b'')
    with pytest.raises(ValueError, match=rf'and others such as {other}, which MMSegmentation would leave out: convert'):
        checked(root, **MASKS)


def test_what_macos_writes_beside_files_is_passed_over(tmp_path: Path) -> None:
    root = make_masks(tmp_path, masks='masks/{}/{}_mask.png')
    (root / 'images/train/._train_0.jpg').write_bytes(b'')
    (root / 'masks/train/train_0_mask.png').rename(root / 'kept.png')
    with pytest.raises(FileNotFoundError, match=r'of the masks of .* 1 of 4 files do not exist, the first: .*_0_mask'):
        checked(root, **MASKS)  # their ending is that of most
    (root / 'kept.png').rename(root / 'masks/train/train_0_mask.png')
    assert checked(root, **MASKS) == []


def test_masks_of_images_that_are_turned(tmp_path: Path) -> None:
    root = make_masks(tmp_path)
    image, mask = root / 'images/train/train_0.jpg', root / 'masks/train/train_0.png'
    with Image.open(image) as opened:
        data = opened.getexif()
        data[0x0112] = 6
        opened.save(image, exif=data)
    with pytest.raises(ValueError, match=r'48x40 pixels, and its image train_0.jpg 40x48, for its EXIF data turn it'):
        checked(root, **MASKS)
    with Image.open(mask) as opened:
        Image.fromarray(np.rot90(np.asarray(opened), -1).copy()).save(mask)
    assert checked(root, **MASKS) == []
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(ValueError, match=r'train_0.jpg cannot be read'):
        checked(root, **MASKS)
