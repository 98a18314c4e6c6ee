"""The source archive installed elsewhere: what is in it, its command, and MMDetection's own tools with our networks."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import mmdet
import pytest

from mmnas_ext.archs import zoo
from mmnas_ext.datasets import DETECTION_CLASSES, make_detection
from mmnas_ext.remap import load_seed
from tests import house

ROOT = Path(__file__).resolve().parents[1]
MIM = Path(mmdet.__file__).parent / '.mim'
# 4 small images in batches of 2, no validation, a line of log per iteration; nothing of it is about the model
OPTIONS = {
    'train_dataloader.num_workers': '0',
    'train_dataloader.persistent_workers': 'False',
    'train_dataloader.dataset.data_root': 'shapes/',
    'train_dataloader.dataset.metainfo.classes': ','.join(DETECTION_CLASSES),
    'train_dataloader.dataset.filter_cfg.min_size': '16',
    'train_dataloader.dataset.pipeline.2.scale': '(64,64)',
    'train_cfg.max_epochs': '1',
    **{f'{phase}_{part}': 'None' for phase in ('val', 'test') for part in ('cfg', 'dataloader', 'evaluator')},
    'default_hooks.logger.interval': '1',
}


def run(arguments: list[str], folder: Path, installed: Path) -> str:
    """Runs Python where nothing but the installed copy can be imported from a path."""
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *arguments],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(installed)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the source archive that a clean copy of the tree makes."""
    source, target = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('unpacked')
    for name in house.tree(ROOT):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    code = f'from setuptools import build_meta; print(build_meta.build_sdist({str(target)!r}))'
    done = subprocess.run([sys.executable, '-c', code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    archive = target / done.stdout.splitlines()[-1]
    with tarfile.open(archive) as packed:
        packed.extractall(target, filter='data')
    shutil.rmtree(source)
    return target / archive.name.removesuffix('.tar.gz')


@pytest.fixture(scope='module')
def installed(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip installs from the source archive."""
    target = tmp_path_factory.mktemp('installed')
    options = ['--no-deps', '--no-build-isolation', '--no-index', '--disable-pip-version-check', '--quiet']
    command = [sys.executable, '-m', 'pip', 'install', '.', *options, '--target', str(target)]
    done = subprocess.run(command, cwd=unpacked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return target


@pytest.fixture(scope='module')
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that knows nothing of the project, but has images."""
    folder = tmp_path_factory.mktemp('elsewhere')
    make_detection(folder / 'shapes', train=4, val=1, size=(96, 128))
    return folder


def test_the_package_is_whole(installed: Path, elsewhere: Path) -> None:
    code = (
        'import json, mmnas_ext; from mmnas_ext.archs import zoo;'
        'print(json.dumps([mmnas_ext.__file__, zoo.arch("dna_a").head_channels, zoo.space("fna_det").size]))'
    )
    file, head_channels, size = json.loads(run(['-c', code], elsewhere, installed).splitlines()[-1])
    # the installed copy, although this interpreter may know an editable one
    assert Path(file) == installed / 'mmnas_ext' / '__init__.py'
    assert (head_channels, size) == (1280, (6 * 7**3) ** 5 * 6)
    modules = [name for name in house.tree(ROOT) if name.startswith('mmnas_ext/')]
    assert [name for name in modules if not (installed / name).is_file()] == []
    # neither tests nor tools become importable beside it
    assert {p.name for p in installed.iterdir() if p.is_dir() and p.suffix != '.dist-info'} == {'mmnas_ext', 'bin'}


def test_the_source_archive_has_what_the_tests_need(unpacked: Path) -> None:
    """All that git knows but its own files, so that the tests and rules of the house run there too."""
    wanted = {name for name in house.tree(ROOT) if name != '.gitignore' and '/.mim/' not in name}
    assert {name for name in wanted if not (unpacked / name).is_file()} == set()
    assert (unpacked / '.ci/run').stat().st_mode & 0o100
    assert not (unpacked / 'mmnas_ext' / '.mim' / 'tools').is_symlink()


def test_configs_and_tools_lie_where_openmmlab_looks(installed: Path, elsewhere: Path) -> None:
    """In copies; a config of the user's inherits one from a folder that knows nothing of the project."""
    mim = installed / 'mmnas_ext' / '.mim'
    shipped = [name for name in house.tree(ROOT) if name.split('/')[0] in ('configs', 'tools', 'model-index.yml')]
    assert {name for name in shipped if not (mim / name).is_file() or (mim / name).is_symlink()} == set()
    record = next(installed.glob('mmnas_ext-*.dist-info')).joinpath('RECORD').read_text()
    assert all(f'mmnas_ext/.mim/{name},' in record for name in shipped)
    command = [str(installed / 'bin' / 'mmnas')]
    printed = run([*command, 'config', 'fna_deeplabv3_cityscapes'], elsewhere, installed)
    (elsewhere / 'my.py').write_text(printed)
    code = (
        'import json, mmnas_ext.registry; from mmengine.config import Config; from mmengine.hub import get_config;'
        'from mmnas_ext.shipped import find_config; mine = Config.fromfile("my.py").to_dict();'
        'theirs = get_config("mmnas_ext::fna_deeplabv3_cityscapes.py").to_dict();'
        'print(json.dumps([mine["model"]["type"], mine == theirs, str(find_config("fna_retinanet_coco"))]))'
    )
    kind, same, file = json.loads(run(['-c', code], elsewhere, installed).splitlines()[-1])
    assert (kind, same) == ('EncoderDecoder', True)
    assert Path(file) == mim / 'configs' / 'fna_retinanet_coco.py'
    assert 'Rate every path' in run([str(mim / 'tools' / 'rate.py'), '--help'], elsewhere, installed)


@pytest.mark.parametrize(('name', 'channels'), [('DNA_a', [24, 40, 96, 320]), ('FNA_RetinaNet', [24, 32, 96, 320])])
def test_mmdetection_trains_one_of_our_networks(
    name: str, channels: list[int], installed: Path, elsewhere: Path
) -> None:
    config = elsewhere / f'retinanet_{name}.py'
    config.write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'\n"
        'model = dict(\n'
        f"    backbone=dict(_delete_=True, type='mmnas_ext.{name}'),\n"
        f'    neck=dict(in_channels={channels}),\n'
        ')\n'
    )
    options = [f'{option}={value}' for option, value in OPTIONS.items()]
    run(
        [str(MIM / 'tools' / 'train.py'), config.name, '--work-dir', name, '--cfg-options', *options],
        elsewhere,
        installed,
    )
    (log,) = (elsewhere / name).glob('*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in log.read_text().splitlines()]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)
    seed = load_seed(elsewhere / name / 'epoch_1.pth')
    assert seed.arch.stages == zoo.arch(name.lower()).stages
    assert all(tensor.isfinite().all() for tensor in seed.state_dict.values())
