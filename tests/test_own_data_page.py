"""docs/own-data.md does what it says: its configs and commands run on small generated data, its messages are met."""

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from mmnas_ext.runs.own_data import check_own_data
from mmnas_ext.runs.run import prepare
from tests.own_data import (
    CONFIGS,
    DETECTOR,
    ROOT,
    SEGMENTOR,
    both_halves,
    derive_any,
    halves_of,
    make_coco,
    make_masks,
    make_voc,
)

PAGE = (ROOT / 'docs' / 'own-data.md').read_text()
TOOLS = {'train': 'train.py', 'test': 'test.py', 'report': 'report.py', 'select': 'select_network.py'}
MAKERS: dict[str, Callable[[Path], Path]] = {
    'boxes': lambda root: make_coco(root, ('dog', 'cat')),
    'devkit': lambda root: make_voc(root, ('ring', 'frame', 'bar')),
    'fields': make_masks,
}
# a search of two steps on images of 64 pixels, and a training of one
SHORT = (
    'image_size=(64,64)', 'train_cfg.max_iters=2', 'train_cfg.arch_start=1', 'derived.train_cfg.max_iters=1',
    'derived.train_cfg.val_interval=1', 'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
    'val_dataloader.num_workers=0', 'test_dataloader.num_workers=0', 'model.backbone.init_cfg=None',
    'model.decode_head.channels=8', 'derived.default_hooks.checkpoint.interval=1',
    'visualizer.vis_backends=[]', 'optim_wrapper.cost.target=None',
)  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', PAGE, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks('bash') for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: the data that the page draws, and its configs as it writes them."""
    root = tmp_path_factory.mktemp('user')
    for name, make in MAKERS.items():
        make(root / name)
    for block in blocks('python'):
        # the package's configs are those of this checkout
        (root / block.split()[1]).write_text(block.replace("'mmnas_ext::", f"'{CONFIGS}/"))
    return root


def call(command: list[str], monkeypatch: pytest.MonkeyPatch, *more: str) -> Any:
    """Runs a command of the page in this process."""
    assert command[0] == 'mmnas'
    spec = importlib.util.spec_from_file_location('tool', ROOT / 'tools' / TOOLS[command[1]])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', [TOOLS[command[1]], *command[2:], *more])
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())
    return module.main()


@pytest.mark.parametrize(
    ('name', 'classes', 'metric'),
    [
        ('coco.py', ('dog', 'cat'), 'CocoMetric'),
        ('voc.py', ('ring', 'frame', 'bar'), 'VOCMetric'),
        ('masks.py', ('ground', 'crop', 'weed'), 'IoUMetric'),
    ],
)
def test_each_config_of_the_page_sets_both_halves(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, classes: tuple[str, ...], metric: str
) -> None:
    monkeypatch.chdir(folder)
    cfg = prepare(name)
    check_own_data(cfg)
    for half in (cfg, derive_any(cfg)):
        assert tuple(half.train_dataloader.dataset.metainfo.classes) == classes
        head = half.model.get('bbox_head') or half.model.decode_head
        assert head.num_classes == len(classes)
        assert half.val_evaluator.type == half.test_evaluator.type == metric


def test_the_page_has_a_config_for_every_folder_and_commands_for_its_configs() -> None:
    assert {block.split()[1] for block in blocks('python')} == {'coco.py', 'voc.py', 'masks.py'}
    trees = {block.split('/')[0] for block in blocks('text') if '/' in block.split('\n')[0]}
    assert {*MAKERS} <= trees
    assert {command[1] for command in commands()} == {*TOOLS}


def test_a_search_by_the_page_from_its_commands_to_its_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    plain = next(each for each in commands() if each[1:] == ['train', 'masks.py'])
    call(plain, monkeypatch, '--cfg-options', *SHORT)
    tree = next(block for block in blocks('text') if block.startswith('work_dirs/masks/'))
    listed = re.findall(r'^  (\S+)', tree, re.MULTILINE)
    assert len(listed) == 7
    missing = [name for name in listed if not (folder / 'work_dirs/masks' / name).exists()]
    assert missing == ['front.json']  # of a search that measures networks: this one reads alpha
    derived = Config.fromfile(folder / 'work_dirs/masks/derived/config.py')
    assert 'data' not in derived
    assert derived.test_dataloader.dataset.data_root == 'fields'
    test = next(each for each in commands() if each[1] == 'test')
    call([each.replace('iter_300', 'iter_1') for each in test], monkeypatch)


def test_the_messages_of_the_page_are_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of the page's errors, its … standing for anything, is met by breaking the data in its way."""
    monkeypatch.chdir(tmp_path)
    said = [_met(data, changes, spoil) for data, changes, spoil in _SPOILT]
    with pytest.raises(ValueError, match='has no effect') as met:
        both_halves(tmp_path, DETECTOR, f'data = {dict(COCO, classes=("dog",))!r}', "data_root = '/elsewhere'")
    said.append(str(met.value))
    block = next(block for block in blocks('text') if block.startswith('data.root'))
    for line in block.splitlines():
        pattern = '.*'.join(re.escape(part) for part in line.split('…'))
        # the dots of dict(…) are the message's own
        assert any(re.match(pattern, each) for each in said), line
    assert len(said) == len(block.splitlines())


def _replace(file: str, old: str, new: str) -> Callable[[Path], Any]:
    def spoil(root: Path) -> None:
        text = (root / file).read_text()
        assert old in text
        (root / file).write_text(text.replace(old, new), encoding='utf-8')

    return spoil


def _colour(root: Path) -> None:
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(root / 'masks/train/train_0.png')


COCO, VOC = dict(type='coco', root='boxes'), dict(type='voc', root='devkit')
MASKS = dict(type='folder-masks', root='fields', classes=('a', 'b', 'c'))
# data, a change to what is said of them, and one to what lies there
_SPOILT: list[tuple[dict[str, Any], dict[str, Any], Callable[[Path], Any]]] = [
    (MASKS, {}, lambda root: root.rename('gone')),
    (COCO, dict(classes=('cat',)), lambda root: (root / 'annotations/train.json').unlink()),
    (VOC, {}, lambda root: (root / 'ImageSets/Main/val.txt').unlink()),
    (COCO, dict(classes=('Dog',)), lambda root: None),
    (VOC, dict(classes=('rings', 'bar')), lambda root: None),
    (COCO, {}, lambda root: (root / 'train/train_0.jpg').unlink()),
    (COCO, {}, _replace('annotations/train.json', '"bbox": [', '"bbox": [0, 0, 0.5, 0.5], "corners": [')),
    (VOC, {}, _replace('Annotations/train_0.xml', '</name>', ' </name>')),
    (VOC, {}, _replace('ImageSets/Main/train.txt', 'train_0', '\ufefftrain_0')),
    (MASKS, dict(classes=('a', 'b')), lambda root: None),
    (MASKS, {}, _colour),
    (MASKS, dict(type='voc'), lambda root: None),
]


def _met(data: dict[str, Any], changes: dict[str, Any], spoil: Callable[[Path], Any]) -> str:
    """What a run says of data that are spoilt."""
    root = Path(data['root'])
    if root.exists():
        root.rename(f'{root}_{len(list(Path().iterdir()))}')
    spoil(MAKERS[root.name](root))
    base = SEGMENTOR if data is MASKS else DETECTOR
    with pytest.raises((ValueError, FileNotFoundError)) as met:
        check_own_data(halves_of(base, data={**data, **changes})[0])
    return str(met.value)
