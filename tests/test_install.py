"""The check for missing or mixed packages, with invented installations; the scripts, with an invented interpreter."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from mmnas_ext import install_check
from mmnas_ext.install_check import require_mm
from mmnas_ext.upstream import IS_FROZEN

ROOT = Path(__file__).resolve().parents[1]


def pins_of(name):
    lines = (ROOT / name).read_text().replace('===', '==').splitlines()
    return dict(line.split('==')[:2] for line in lines if '==' in line and not line.startswith('#'))


PINS = pins_of('requirements.txt')
ONEDL = {
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmsegmentation': '1.4.2',
}
UPSTREAM = {'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0', 'mmsegmentation': '1.2.2'}
TORCH_FIRST = "pip install 'torch===2.13.0' 'setuptools<81' wheel ninja\n"


@pytest.fixture
def machine(monkeypatch):
    """Makes the check see just the given distributions, and no source checkout."""

    def pretend(versions, importable=()):
        def version(name):
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(install_check.metadata, 'version', version)
        monkeypatch.setattr(install_check, 'find_spec', lambda name: object() if name in importable else None)

    return pretend


def message(*modules):
    with pytest.raises(ImportError, match=r'Run:|run:') as caught:
        require_mm(*modules)
    return str(caught.value)


@pytest.mark.parametrize('versions', [ONEDL, UPSTREAM, {**UPSTREAM, 'torch': '2.14.0'}])
def test_one_whole_line_is_accepted(machine, versions):
    machine(versions)
    require_mm('mmcv', 'mmdet', 'mmseg')


def test_mmengine_lite_is_a_mmengine(machine):
    machine({'mmengine-lite': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0'})
    require_mm('mmdet')
    machine({'mmengine-lite': '0.10.7', 'onedl-mmcv': '2.3.6'})
    assert 'mmengine-lite 0.10.7' in message()


def test_nothing_installed_gives_the_whole_sequence(machine):
    machine({})
    assert message() == (
        'mmnas_ext needs mmengine, not installed here. Run:\n'
        f'  {TORCH_FIRST}'
        '  pip install --no-build-isolation onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 onedl-mmdetection==3.5.1'
        ' onedl-mmsegmentation==1.4.2\n'
        'This compiles mmcv, which takes about 10 minutes on two cores.'
    )


def test_a_module_is_missed_only_when_asked_for(machine):
    machine({'mmengine': '0.10.7'})
    require_mm()
    assert 'needs mmcv, not' in message('mmcv')
    assert 'needs mmcv and mmdet, not' in message('mmcv', 'mmdet')


@pytest.mark.parametrize(
    ('line', 'gone', 'asked', 'command'),
    [
        (ONEDL, 'onedl-mmdetection', 'mmdet', '  pip install --no-build-isolation onedl-mmdetection==3.5.1'),
        (UPSTREAM, 'mmdet', 'mmdet', '  pip install --no-build-isolation mmdet==3.3.0'),
        (UPSTREAM, 'mmsegmentation', 'mmseg', '  pip install --no-build-isolation mmsegmentation==1.2.2 ftfy regex'),
        (UPSTREAM, 'mmcv', 'mmdet', None),
    ],
)
def test_what_is_missing_comes_from_the_line_that_is_there(machine, line, gone, asked, command):
    machine({name: version for name, version in line.items() if name != gone})
    if command is None:
        require_mm(asked)
        return
    text = message(asked)
    assert text.splitlines()[-1] == command
    assert 'torch' not in text


def test_a_missing_mmcv_is_installed_with_what_needs_it(machine):
    machine({'mmengine': '0.10.7'})
    text = message('mmdet')
    assert f'{TORCH_FIRST}  pip install --no-build-isolation mmcv==2.1.0 mmdet==3.3.0\n' in text


def test_a_source_checkout_on_the_path_is_not_missed(machine):
    machine({'mmengine': '0.10.7', 'mmcv': '2.1.0'}, importable=('mmdet',))
    require_mm('mmdet')
    assert 'needs mmseg, not' in message('mmdet', 'mmseg')


@pytest.mark.parametrize(
    'versions',
    [
        {**ONEDL, 'mmengine': '0.10.7'},
        {**UPSTREAM, 'onedl-mmdetection': '3.5.1'},
        {'mmengine': '0.10.7', 'mmcv-lite': '2.1.0', 'onedl-mmdetection': '3.5.1'},
        {'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6', 'mmpretrain': '1.2.0'},
    ],
)
def test_both_lines_are_refused_whatever_is_asked(machine, versions):
    machine(versions)
    text = message()
    assert text.startswith('OpenMMLab packages of both lines are installed')
    removed = re.search(r'pip uninstall -y (.*)', text)[1].split()
    assert sorted(removed) == sorted(versions)
    for name, version in versions.items():
        assert f'{name} {version}' in text
    assert TORCH_FIRST in text


def test_the_mixed_message_reinstalls_what_was_there_and_what_it_stands_on(machine):
    machine({'onedl-mmengine': '0.10.12', 'mmpretrain': '1.2.0'})
    text = message()
    assert '--no-build-isolation onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 onedl-mmpretrain==1.3.6\n' in text
    machine({'onedl-mmengine': '0.10.12', 'mmsegmentation': '1.2.2'})
    assert message().endswith('mmengine==0.10.7 mmcv==2.1.0 mmsegmentation==1.2.2 ftfy regex')
    assert text.endswith('packages instead: mmengine==0.10.7 mmcv==2.1.0 mmpretrain==1.2.0')


def test_mmcv_without_operators_is_named(machine):
    machine({'mmengine': '0.10.7', 'mmcv-lite': '2.1.0', 'mmdet': '3.3.0'})
    text = message()
    assert text.startswith('mmcv-lite is installed, which lacks the operators')
    assert 'pip uninstall -y mmcv-lite\n' in text
    assert '--no-build-isolation mmcv==2.1.0\n' in text


@pytest.mark.parametrize(
    ('name', 'version', 'needs'),
    [
        ('mmcv-full', '1.7.2', 'mmcv 2.0'),
        ('mmcv', '1.6.0', 'mmcv 2.0'),
        ('mmdet', '2.28.2', 'mmdet 3.0'),
        ('mmengine', '0.7.4', 'mmengine 0.10'),
        ('mmsegmentation', '0.30.0', 'mmseg 1.0'),
    ],
)
def test_the_generation_before_is_too_old(machine, name, version, needs):
    machine({name: version})
    text = message()
    assert text.startswith(f'{name} {version} is too old: mmnas_ext needs {needs} or newer')
    assert f'pip uninstall -y {name}\n' in text


@pytest.mark.parametrize(('torch', 'told'), [('2.13.0', False), ('2.14.0+cu130', True), ('3.0.1', True)])
def test_the_compiler_that_mmcv_would_meet_is_announced(machine, torch, told):
    machine({'torch': torch})
    assert ('C++20' in message()) is told


def test_a_type_of_ours_in_a_mixed_installation_says_it_aloud(monkeypatch):
    """MMEngine passes over the error of an import that a config's type leads to, so it is a warning as well."""
    registry = importlib.import_module('mmnas_ext.registry')

    def refuse():
        raise ImportError('packages of both lines')

    monkeypatch.setattr(install_check, 'require_mm', refuse)
    with (
        pytest.warns(UserWarning, match='packages of both lines'),
        pytest.raises(ImportError, match='packages of both lines'),
    ):
        importlib.reload(registry)
    assert registry.MODELS.scope == 'mmnas_ext'  # as it was: nothing is registered twice


def test_an_unknown_module_is_refused():
    with pytest.raises(ValueError, match=r"modules must be among .*'mmseg'.*, got 'mmpose'"):
        require_mm('mmpose')


def test_the_messages_name_the_tested_pins():
    named = dict(pin.split('==') for pin in install_check._ONEDL.values())
    assert named == {name: PINS[name] for name in named}
    assert f'torch==={PINS["torch"]}' in install_check._TORCH
    frozen = pins_of('requirements-upstream.txt')
    # MMSegmentation 1.2.2 imports two packages that it does not ask for
    assert {pin.split('==')[0] for pin in install_check._UPSTREAM.values()} == frozen.keys() - {'ftfy', 'regex'}
    assert all(f'{name}=={pin}' in install_check._UPSTREAM.values() for name, pin in frozen.items() if name[:2] == 'mm')


def test_the_pins_are_those_that_the_tests_run_with():
    pins = PINS
    if IS_FROZEN:
        pins = {name: pin for name, pin in PINS.items() if not name.startswith('onedl-')}
        pins |= pins_of('requirements-upstream.txt')
    different = {name: (pin, metadata.version(name)) for name, pin in pins.items() if metadata.version(name) != pin}
    assert different == {}
    assert len(pins) > 15


@pytest.mark.parametrize(('versions', 'code'), [(ONEDL, 0), ({**ONEDL, 'mmcv': '2.1.0'}, 1)])
def test_the_command_prints_what_is_there(machine, capsys, versions, code):
    machine(versions)
    assert install_check.main() == code
    out, err = capsys.readouterr()
    assert 'mmdet       onedl-mmdetection 3.5.1  [maintained' in out
    assert ('both lines' in err) == bool(code)


def test_the_package_imports_without_anything_installed():
    code = 'import sys, mmnas_ext.archs, mmnas_ext.install_check; print("torch" in sys.modules, mmnas_ext.__version__)'
    run = subprocess.run(
        [sys.executable, '-S', '-E', '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.stderr == ''
    assert re.fullmatch(r'False \d+\.\d+\.\d+\n', run.stdout)


def test_setup_states_the_version_of_the_package_and_neither_line():
    text = (ROOT / 'setup.py').read_text()
    required = re.search(r'install_requires=\[(.*?)\]', text)[1]
    assert required == "'matplotlib>=3.6', 'numpy>=1.23', 'plotly>=6', 'torch>=2.6', 'tqdm>=4.62'"
    run = subprocess.run(
        [sys.executable, 'setup.py', '--version'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    stated = re.search(r"__version__ = '(.*)'", (ROOT / 'mmnas_ext/__init__.py').read_text())[1]
    assert run.stdout.splitlines()[-1] == stated


INTERPRETER = """#!/bin/sh
here=$(dirname "$0")
echo "$*" >> "$CALLS"
case "$*" in
  '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *"$FAIL"*) echo 'error: #error You need C++20 to compile PyTorch'; exit 1 ;;
  *requirements.txt*) printf '  [3/78] c++ -MMD\\n'; sleep 1.3 ;;
esac
"""


@pytest.fixture
def make_venv(tmp_path):
    """Runs a copy of tools/make_venv.sh with an interpreter that only writes down how it was called."""
    (tmp_path / 'tools').mkdir()
    shutil.copy(ROOT / 'tools/make_venv.sh', tmp_path / 'tools')
    for name in ('requirements.txt', 'requirements-upstream.txt'):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / 'python'
    python.write_text(INTERPRETER)
    python.chmod(0o755)
    calls = tmp_path / 'calls'

    def run(fail='nothing', line='maintained'):
        calls.write_text('')
        environment = {
            **os.environ,
            'PYTHON': str(python),
            'CALLS': str(calls),
            'FAIL': fail,
            'TICK': '1',
            'LINE': line,
        }
        command = ['bash', 'tools/make_venv.sh', 'env']
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done, calls.read_text().splitlines()

    return run


def test_the_environment_is_made_in_order_with_progress(make_venv, tmp_path):
    done, calls = make_venv()
    assert done.returncode == 0, done.stderr
    steps = [call for call in calls if 'install' in call or 'import cv2' in call]
    assert [step.split()[-1] for step in steps] == ['env/first.txt', 'requirements.txt', '.', 'torchvision']
    assert ['--no-build-isolation' in step for step in steps] == [False, True, True, False]
    assert 'compiling mmcv, file 3 of 78' in done.stdout
    assert all(f'{host}.models' in steps[-1] for host in ('mmdet', 'mmpretrain', 'mmseg'))
    assert (tmp_path / 'env/.complete').exists()
    first = [line for line in (tmp_path / 'env/first.txt').read_text().split() if '#' not in line]
    assert {'torch===2.13.0', 'setuptools<81', 'wheel==0.48.0', 'ninja==1.13.2'} <= set(first)
    assert not any('mmcv==' in word for word in first)


def test_a_stopped_installation_is_not_complete_and_goes_on(make_venv, tmp_path):
    done, _ = make_venv(fail='requirements.txt')
    assert done.returncode == 1
    assert 'keep torch===2.13.0' in done.stdout
    assert 'failed: 2/4' in done.stderr
    assert not (tmp_path / 'env/.complete').exists()
    done, calls = make_venv()
    assert done.returncode == 0
    assert not any(call.startswith('-m venv') for call in calls)
    assert (tmp_path / 'env/.complete').exists()


def test_the_frozen_line_takes_the_place_of_the_maintained_one(make_venv, tmp_path):
    done, calls = make_venv(line='upstream')
    assert done.returncode == 0, done.stderr
    assert [call.split()[-1] for call in calls if '--no-build-isolation' in call] == ['env/requirements.txt', '.']
    pins = dict(
        line.replace('===', '==').split('==')
        for line in (tmp_path / 'env/requirements.txt').read_text().splitlines()
        if '==' in line and '#' not in line
    )
    assert {name: pins[name] for name in UPSTREAM} == UPSTREAM
    assert not any(name.startswith('onedl') for name in pins)
    assert {name for name in PINS if not name.startswith('onedl')} <= set(pins)
    done, _ = make_venv(line='both')
    assert done.returncode == 1 and 'LINE must be maintained or upstream, got both' in done.stderr


def test_an_old_python_is_refused_before_anything_is_made(make_venv, tmp_path):
    done, _ = make_venv(fail='version_info')
    assert done.returncode == 1
    assert 'need Python 3.11 or newer' in done.stderr
    assert not (tmp_path / 'env').exists()


SCRIPTS = {
    'tools/dist_train.sh': (
        ['cfg.py', '4', '--amp'],
        '-m torch.distributed.run --nnodes=2 --node_rank=1 --nproc_per_node=4 --master_addr=127.0.0.1 '
        '--master_port=29501 tools/train.py cfg.py --launcher pytorch --amp',
    ),
    'tools/dist_test.sh': (
        ['cfg.py', 'a b.pth', '2'],
        '-m torch.distributed.run --nnodes=2 --node_rank=1 --nproc_per_node=2 --master_addr=127.0.0.1 '
        '--master_port=29501 tools/test.py cfg.py a b.pth --launcher pytorch',
    ),
    'tools/slurm_train.sh': (
        ['gpu', 'fna', 'cfg.py', 'work_dirs/x', '--resume'],
        '--partition=gpu --job-name=fna --gres=gpu:4 --ntasks=4 --ntasks-per-node=4 --cpus-per-task=5 '
        '--kill-on-bad-exit=1 --time=60 echo -u tools/train.py cfg.py --work-dir work_dirs/x --launcher slurm --resume',
    ),
}


@pytest.mark.parametrize('script', SCRIPTS)
def test_a_launcher_calls_what_it_says(tmp_path, script):
    (tmp_path / 'srun').symlink_to(shutil.which('echo'))
    arguments, expected = SCRIPTS[script]
    environment = {
        **os.environ,
        **{'PYTHON': 'echo', 'NNODES': '2', 'NODE_RANK': '1', 'PORT': '29501'},
        **{'GPUS': '4', 'SRUN_ARGS': '--time=60', 'PATH': f'{tmp_path}:{os.environ["PATH"]}'},
    }
    environment.pop('MASTER_ADDR', None)
    run = [f'{ROOT}/{script}', *arguments]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip().replace(f'{ROOT}/', '') == expected
    short = subprocess.run([f'{ROOT}/{script}', 'cfg.py'], env=environment, capture_output=True, text=True, check=False)
    assert (short.returncode, short.stdout) == (2, '')
    assert short.stderr.startswith('usage: ')


def test_the_workflow_calls_what_there_is():
    workflow = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
    called, files = set(), set()
    for job in workflow['jobs'].values():
        rows = job.get('strategy', {}).get('matrix', {}).get('include', [{}])
        called |= {row['target'] for row in rows if row}
        files |= {row['packages'] for row in rows if row}
        called |= {word for step in job['steps'] for word in re.findall(r'^make ([\w-]+)', step.get('run', ''), re.M)}
    assert called == {'lint', 'test', 'test-upstream', 'docs'} and called <= targets
    # the frozen line's environment is made from both files, so its packages are kept by what both say
    kept = [{found.name for found in ROOT.glob(name)} for name in sorted(files)]
    assert kept[0] >= {'requirements.txt', 'requirements-upstream.txt'} and kept[1] == {'requirements.txt'}
    # what the smoke test of the wheel expects is what is said where only PyTorch is installed
    said = re.search(r"grep '(.*)' said", workflow['jobs']['wheel']['steps'][-1]['run'])[1]
    assert said == 'mmnas_ext needs mmengine and mmcv, not installed here'
