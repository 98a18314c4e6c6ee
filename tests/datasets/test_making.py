import hashlib
import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mmnas_ext.datasets import make_detection, make_segmentation, shapes

SMALL = {'train': 3, 'val': 2, 'size': (96, 128)}
MAKERS = [make_detection, make_segmentation]


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob('*') if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# The same bytes each time


@pytest.mark.parametrize('make', MAKERS)
def test_same_settings_give_the_same_bytes_and_another_seed_others(make, tmp_path):
    np.random.seed(1)
    make(tmp_path / 'one', **SMALL, seed=5)
    np.random.seed(2)
    make(tmp_path / 'deeper' / 'two', **SMALL, seed=5)
    make(tmp_path / 'other', **SMALL, seed=6)
    one, two, other = (digests(tmp_path / name) for name in ('one', 'deeper/two', 'other'))
    assert one == two
    assert one.keys() == other.keys()
    images = [name for name in one if name.endswith(('.jpg', '_leftImg8bit.png'))]
    assert len(images) == 5
    assert all(one[name] != other[name] for name in images)


def test_validation_does_not_depend_on_the_training_count(tmp_path):
    make_detection(tmp_path / 'few', train=2, val=2, size=(96, 128))
    make_detection(tmp_path / 'more', train=4, val=2, size=(96, 128))
    few, more = digests(tmp_path / 'few'), digests(tmp_path / 'more')
    common = [name for name in few if 'val2017' in name or name.startswith('train2017')]
    assert len(common) == 5
    assert all(few[name] == more[name] for name in common)


# Made once, and nothing of others touched


@pytest.mark.parametrize('make', MAKERS)
def test_a_whole_set_is_left_alone(make, tmp_path):
    root = tmp_path / 'set'
    assert make(root, **SMALL) is True
    times = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    assert len(times) > 10
    assert make(str(root), **SMALL) is False
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == times
    assert [path.name for path in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('make', MAKERS)
@pytest.mark.parametrize('changed', [{'train': 4}, {'val': 1}, {'size': (128, 96)}, {'seed': 1}])
def test_other_settings_are_refused_and_harm_nothing(make, changed, tmp_path):
    make(tmp_path / 'set', **SMALL)
    before = digests(tmp_path / 'set')
    with pytest.raises(ValueError, match=r'holds a set made with .* delete it or name another root'):
        make(tmp_path / 'set', **SMALL | changed)
    assert digests(tmp_path / 'set') == before


def test_the_other_task_is_refused(tmp_path):
    make_detection(tmp_path / 'set', **SMALL)
    with pytest.raises(ValueError, match=r"'task': 'detection'.*'task': 'segmentation'"):
        make_segmentation(tmp_path / 'set', **SMALL)


@pytest.mark.parametrize('make', MAKERS)
def test_a_damaged_set_is_mended(make, tmp_path):
    root = tmp_path / 'set'
    make(root, **SMALL)
    before = digests(root)
    for name in list(before)[::2]:
        if name != 'shapes.json':
            (root / name).unlink()
    assert digests(root) != before
    assert make(root, **SMALL) is True
    assert digests(root) == before


def test_an_empty_folder_and_a_link_are_filled(tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'elsewhere')
    for name in ('empty', 'link'):
        assert make_detection(tmp_path / name, **SMALL) is True
        assert make_detection(tmp_path / name, **SMALL) is False
    assert (tmp_path / 'link').is_symlink()
    assert digests(tmp_path / 'empty') == digests(tmp_path / 'elsewhere')


def test_a_folder_of_somebody_else_is_refused_and_left(tmp_path):
    (tmp_path / 'train2017').mkdir()
    (tmp_path / 'train2017' / '000000000000.jpg').write_text('mine')
    with pytest.raises(ValueError, match=r'has files and no shapes\.json'):
        make_detection(tmp_path, **SMALL)
    assert digests(tmp_path) == {'train2017/000000000000.jpg': hashlib.sha256(b'mine').hexdigest()}


@pytest.mark.parametrize('text', ['', '[]', '{"settings": {}}', 'null'])
def test_a_foreign_manifest_is_refused(text, tmp_path):
    (tmp_path / 'shapes.json').write_text(text)
    with pytest.raises(ValueError, match='is not a manifest made here'):
        make_detection(tmp_path, **SMALL)


def test_a_file_as_root_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='root must be a folder'):
        make_detection(tmp_path / 'file', **SMALL)


def test_a_failure_leaves_no_half_set(tmp_path, monkeypatch):
    written = []

    def full_disk(path, image):
        if len(written) == 3:
            raise OSError('No space left on device')
        written.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(shapes, '_write_image', full_disk)
        with pytest.raises(OSError, match='No space left'):
            make_detection(tmp_path / 'set', **SMALL)
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []
    assert make_detection(tmp_path / 'set', **SMALL) is True


def test_several_processes_may_ask_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: make_detection(tmp_path / 'set', **SMALL), range(4)))
    assert any(results)
    make_detection(tmp_path / 'alone', **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['alone', 'set']
    assert digests(tmp_path / 'set') == digests(tmp_path / 'alone')


@pytest.mark.parametrize('make', MAKERS)
@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'train': 0}, r'train must be an integer in 1\.\.100000, got 0'),
        ({'val': 1.5}, 'val must be an integer in .* got 1.5'),
        ({'seed': -1}, 'seed must be an integer in .* got -1'),
        ({'seed': True}, 'seed must be an integer in .* got True'),
        ({'size': (95, 128)}, r'size must be \(height, width\) in 96\.\.4096 pixels, got \(95, 128\)'),
        ({'size': 128}, 'size must be .* got 128'),
        ({'size': (128, 128, 3)}, 'size must be .*'),
        ({'size': (128.0, 128)}, 'size must be .*'),
    ],
)
def test_bad_settings_are_refused(make, changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(tmp_path / 'set', **SMALL | changed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('size', [(96, 96), (96, 400), (320, 320)])
def test_every_size_has_shapes_in_every_image(size, tmp_path):
    make_detection(tmp_path / 'set', train=16, val=1, size=size)
    held = json.loads((tmp_path / 'set' / 'annotations' / 'instances_train2017.json').read_text())
    assert {box['image_id'] for box in held['annotations']} == set(range(16))


# The command


def command():
    path = Path(__file__).parents[2] / 'tools' / 'make_shapes.py'
    spec = importlib.util.spec_from_file_location('make_shapes', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.parametrize(('task', 'make'), [('det', make_detection), ('seg', make_segmentation)])
def test_the_command_makes_what_the_function_makes(task, make, tmp_path, capsys):
    make(tmp_path / 'function', **SMALL, seed=3)
    line = f'--task {task} --root {tmp_path}/command --train 3 --val 2 --size 96 128 --seed 3'.split()
    command()(line)
    command()(line)
    assert digests(tmp_path / 'command') == digests(tmp_path / 'function')
    assert capsys.readouterr().out.splitlines() == [
        f'{tmp_path}/command: made',
        f'{tmp_path}/command: there already, left as it is',
    ]


def test_the_commands_defaults_give_a_few_megabytes(tmp_path):
    command()(['--task', 'det', '--root', str(tmp_path / 'set')])
    held = [path for path in (tmp_path / 'set').rglob('*') if path.is_file()]
    assert len([path for path in held if path.suffix == '.jpg']) == 320
    assert 1e6 < sum(path.stat().st_size for path in held) < 8e6


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        command()(['--task', 'det', '--root', str(tmp_path / 'set'), '--train', '0'])
    assert caught.value.code == 2
    assert 'train must be an integer in 1..100000, got 0' in capsys.readouterr().err
