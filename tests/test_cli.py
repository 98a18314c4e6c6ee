"""No traceback of anyone for what a user can do wrong: one line of readable length, and exit code 1."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmnas_ext.cli import errors, shorten
from mmnas_ext.cli.main import COMMANDS
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.manifest import SEARCH, Manifest, Part, ResumeError, read_manifest
from mmnas_ext.runs.run import prepare, run, start_processes
from mmnas_ext.runs.trials import Trial
from tests.engine import tiny, tiny_trials

ROOT = Path(__file__).parents[1]


def test_messages_are_cut_and_keep_their_end():
    with pytest.raises(SystemExit) as end, errors():
        raise ValueError('no\n  such ' + 'file ' * 200 + 'take another --work-dir')
    assert len(end.value.code) <= 507
    assert end.value.code.startswith('error: no such file file')
    assert end.value.code.endswith('file take another --work-dir')
    assert shorten('short') == 'short'


@pytest.mark.parametrize('error', [OSError('full'), ImportError('pip\n  install'), RecursionError('deep')])
def test_what_is_raised_before_a_run_is_told(error):
    with pytest.raises(SystemExit, match=f'error: {str(error)[:3]}'), errors():
        raise error


@pytest.mark.parametrize('error', [AttributeError('bug'), KeyError('bug'), ZeroDivisionError('bug')])
def test_faults_of_ours_keep_their_traceback(error):
    with pytest.raises(type(error)), errors():
        raise error
    with pytest.raises(ValueError, match='bug'), errors(ResumeError):
        raise ValueError('bug')


START = {
    'mmnas': "import runpy; sys.argv = ['mmnas', 'train', 'c.py']; runpy.run_module('mmnas_ext', run_name='__main__')",
    'tool': f"import runpy; sys.argv = ['x', 'c.py']; runpy.run_path('{ROOT}/tools/train.py', run_name='__main__')",
    'demo': f"import runpy; sys.argv = ['x']; runpy.run_path('{ROOT}/tools/demo.py', run_name='__main__')",
    'import': 'import mmnas_ext.registry',
}


@pytest.mark.parametrize('module', ['mmengine', 'mmcv'])
@pytest.mark.parametrize('start', START)
def test_a_missing_package_is_told_with_what_installs_it(start, module, tmp_path):
    """Wherever one starts, in a process in which a package cannot be found."""
    program = (
        'import importlib.util, sys\n'
        'import importlib.metadata as m\nold, find = m.version, importlib.util.find_spec\n'
        f'def version(name):\n    if {module!r} in name or "mm" in name: raise m.PackageNotFoundError(name)\n'
        '    return old(name)\n'
        'm.version = version\n'
        f'gone = [{module!r}, "mmengine"] if {start!r} == "import" else [{module!r}]\n'
        'importlib.util.find_spec = lambda name, *a: None if name in gone else find(name, *a)\n'
        f'sys.modules.update(dict.fromkeys(gone))\n{START[start]}\n'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert ('Traceback' in done.stderr) is (start == 'import')
    assert f'mmnas_ext needs {module}' in done.stderr or 'mmnas_ext needs mmengine' in done.stderr
    assert 'pip install' in done.stderr


@pytest.mark.parametrize('options', [['a'], ['a=[1,2']])
def test_options_that_are_none(options, capsys):
    with pytest.raises(SystemExit) as end:
        COMMANDS['train'].fill(argparse.ArgumentParser()).parse_args(['c.py', '--cfg-options', *options])
    assert end.value.code == 2
    assert '--cfg-options must be key=value with balanced brackets' in capsys.readouterr().err


@pytest.fixture
def tiny_file(tmp_path):
    path = tmp_path / 'tiny.py'
    tiny.search_cfg(tmp_path / 'run').dump(path)
    return str(path)


@pytest.mark.parametrize(('options', 'message'), [
    ({'trian_cfg.max_epochs': 3}, "trian_cfg.max_epochs has no effect, this config has no trian_cfg: did you mean "
     "'train_cfg'"),
    ({'model': 3}, 'model must be a dict, got 3'),
    ({'custom_hooks.9.type': 'X'}, '--cfg-options do not go with'),
    ({'derived': 3}, 'derived must be a dict, got 3'),
])  # fmt: skip
def test_options_that_do_not_go_with_the_config(tiny_file, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(tiny_file, options=options)


@pytest.mark.parametrize(('text', 'message'), [
    ('a = (', "SyntaxError: '\\(' was never closed"),
    ("_base_ = './nowhere.py'", 'FileNotFoundError'),
    ('a = b', "NameError: name 'b' is not defined"),
    ("custom_imports = dict(imports=['no.such.module'])", 'ImportError|ModuleNotFoundError'),
])  # fmt: skip
def test_a_config_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / 'broken.py'
    path.write_text(text)
    with pytest.raises(ValueError, match=f'config .*broken.py cannot be read: .*({message})'):
        prepare(str(path))
    path.rename(tmp_path / 'broken.txt')
    with pytest.raises(ValueError, match='config .* cannot be read'):
        prepare(str(tmp_path / 'broken.txt'))


def test_a_work_dir_that_cannot_be(tmp_path):
    (tmp_path / 'file').write_text('')
    for folder in (tmp_path / 'file', tmp_path / 'file' / 'below' / 'run'):
        with pytest.raises(ValueError, match=f'work_dir {folder} cannot be a folder: {tmp_path}/file is a file'):
            check_config(tiny.search_cfg(folder))


def test_a_work_dir_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr('os.access', lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ValueError, match=f'run cannot be written: no permission in {tmp_path}; take another'):
        check_config(tiny.search_cfg(tmp_path / 'run'))


def test_mixed_precision_needs_a_device_that_has_it(tiny_file):
    with pytest.raises(ValueError, match='--amp .* needs a GPU, and PyTorch sees none: train without it'):
        check_config(prepare(tiny_file, amp=True))


@pytest.mark.parametrize(('launcher', 'name', 'how'), [
    ('pytorch', 'RANK', 'torchrun'), ('slurm', 'SLURM_PROCID', 'srun'),
    ('mpi', 'OMPI_COMM_WORLD_LOCAL_RANK', 'mpirun'),
])  # fmt: skip
def test_a_launcher_that_has_not_launched(monkeypatch, launcher, name, how):
    monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=f"--launcher {launcher} needs '{name}' in the environment, which {how} sets"):
        start_processes(Config({'launcher': launcher}))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize('change', [
    lambda c: c['parts']['search']['notes'].update(trials='all'),
    lambda c: c['parts']['search']['notes'].update(trials=['one']),
    lambda c: c['parts']['search']['notes'].update(arch=3),
    lambda c: c['parts']['search']['notes'].update(checkpoints=[{'folder': '.'}]),
    lambda c: c['parts']['search']['notes'].update(checkpoints=['.']),
    lambda c: c.update(report=[]),
    lambda c: c.update(parts=[]),
    lambda c: c['parts'].update(search=3),
])  # fmt: skip
def test_an_edited_manifest_is_told(tmp_path, change):
    file = tmp_path / 'run.json'
    file.write_text(Manifest('a', 'random', {SEARCH: Part('b')}).format())
    edit(file, change)
    with pytest.raises(ResumeError, match='run.json is no manifest of a run that this version knows'):
        read_manifest(file)


@pytest.mark.parametrize('text', ['[' * 100000, '{"a":' * 100000, '', 'null', '\x00'])
def test_files_that_hold_something_else(tmp_path, text):
    (tmp_path / 'run.json').write_text(text)
    with pytest.raises(ResumeError, match='run.json is no manifest'):
        read_manifest(tmp_path / 'run.json')
    with pytest.raises(ValueError, match='not the result of a trial'):
        Trial.parse(text)
    (tmp_path / 'run.json').write_bytes(b'\xff\xfe')
    with pytest.raises(ResumeError, match='run.json is no manifest'):
        read_manifest(tmp_path / 'run.json')


def test_an_edited_result_of_a_trial_is_told(tmp_path):
    short = {'random_search.count': 1, 'random_search.trial.train_cfg.max_epochs': 1}
    run(tiny_trials.random_cfg(tmp_path, **short), search_only=True)
    result = tmp_path / 'trials' / '00' / 'result.json'
    whole = result.read_text()
    cfg = tiny_trials.random_cfg(tmp_path, **{**short, 'random_search.count': 2})
    for change in (
        lambda c: c.update(macs='many'), lambda c: c.update(metrics={'closeness': 'good'}), lambda c: c.pop('arch'),
        lambda c: c.update(failure=None), lambda c: c.update(metrics=3),
    ):  # fmt: skip
        result.write_text(whole)
        edit(result, change)
        with pytest.raises(ResumeError, match=r'result.json is not the result of a trial: .*restore it, or start'):
            run(cfg, resume=True, search_only=True)
    result.unlink()
    with pytest.raises(ResumeError, match=r'result.json is not the result of a trial'):
        run(cfg, resume=True, search_only=True)


def test_options_of_a_comparison_add_up_as_those_of_a_run():
    parser = COMMANDS['compare'].fill(argparse.ArgumentParser())
    words = ['c.py', '--cfg-options', 'a=1', 'b=2', '--seeds', '0', '--cfg-options', 'c=3']
    assert parser.parse_args(words).cfg_options == ['a=1', 'b=2', 'c=3']
    assert parser.parse_args(['c.py']).cfg_options == []
