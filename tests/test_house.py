"""The rules of the house hold for this tree, and each of them can be broken."""

import stat
import subprocess
from pathlib import Path

import pytest

from tests import house

ROOT = Path(__file__).resolve().parents[1]

LONG = 'def f():\n' + '    x = 1\n' * 79
CONFIG = '# configs/{}.py\n' + ''.join(f'setting_{n} = {n}\n' for n in range(12))
MACHINE = '/' + 'home/someone/data'

# rule, files, what the complaint must say
BROKEN = [
    ('wrong_directions', {'mmnas_ext/archs/a.py': 'from mmnas_ext.ops import x'}, 'a.py:1: archs must not'),
    ('wrong_directions', {'mmnas_ext/archs/a.py': 'from mmnas_ext import ops'}, 'archs must not import ops'),
    ('wrong_directions', {'mmnas_ext/ops/a.py': 'def f():\n    import mmnas_ext.backbones'}, 'a.py:2: ops must not'),
    ('wrong_directions', {'mmnas_ext/backbones/a.py': 'from mmnas_ext.engine.b import c'}, 'must not import engine'),
    ('wrong_directions', {'mmnas_ext/reports/a.py': 'from mmnas_ext.engine import loops'}, 'must not import engine'),
    ('wrong_directions', {'mmnas_ext/engine/a.py': 'from mmnas_ext.runs import run'}, 'must not import runs'),
    ('wrong_directions', {'mmnas_ext/engine/a.py': 'import mmnas_ext.hosts.det'}, 'engine must not import hosts'),
    ('wrong_directions', {'mmnas_ext/search/a.py': 'import_module("mmnas_ext.engine")'}, 'must not import engine'),
    ('wrong_directions', {'mmnas_ext/registry.py': 'import mmnas_ext.archs'}, 'registry must not import archs'),
    ('wrong_directions', {'mmnas_ext/__main__.py': 'from mmnas_ext.runs import run'}, '__main__ must not import runs'),
    ('foreign_imports', {'mmnas_ext/shipped.py': 'import torch'}, 'mmengine only'),
    ('wrong_directions', {'mmnas_ext/__init__.py': 'import mmnas_ext.registry'}, 'mmnas_ext must not import registry'),
    ('wrong_directions', {'mmnas_ext/ops/a.py': 'from .mixed import x'}, 'relative import'),
    ('wrong_directions', {'mmnas_ext/kitchen/a.py': ''}, "'kitchen' is no room"),
    (
        'import_circles',
        {'mmnas_ext/archs/a.py': 'from mmnas_ext.archs.b import x', 'mmnas_ext/archs/b.py': 'import mmnas_ext.archs.a'},
        'mmnas_ext.archs.a -> mmnas_ext.archs.b -> mmnas_ext.archs.a: a circle',
    ),
    (
        'import_circles',
        {
            'mmnas_ext/archs/a.py': 'def f():\n    from mmnas_ext.archs import b',
            'mmnas_ext/archs/b.py': 'from mmnas_ext.archs.c import x',
            'mmnas_ext/archs/c.py': 'try:\n    from mmnas_ext.archs.a import x\nexcept ImportError:\n    pass',
            'mmnas_ext/archs/d.py': 'import mmnas_ext.archs.a',
        },
        'archs.a -> mmnas_ext.archs.b -> mmnas_ext.archs.c -> mmnas_ext.archs.a',
    ),
    (
        'import_circles',
        {
            'mmnas_ext/ops/__init__.py': 'from mmnas_ext.ops.a import x',
            'mmnas_ext/ops/a.py': 'from mmnas_ext.ops import y',
        },
        'mmnas_ext.ops -> mmnas_ext.ops.a -> mmnas_ext.ops',
    ),
    ('foreign_imports', {'mmnas_ext/archs/a.py': 'import json\nimport torch'}, 'a.py:2: standard library only'),
    ('foreign_imports', {'mmnas_ext/__init__.py': 'import numpy'}, 'standard library only'),
    ('foreign_imports', {'mmnas_ext/install_check.py': 'import packaging'}, 'standard library only'),
    ('foreign_imports', {'mmnas_ext/registry.py': 'import torch'}, 'mmengine only'),
    ('foreign_imports', {'mmnas_ext/upstream.py': 'import mmseg'}, 'mmengine only'),
    ('foreign_imports', {'mmnas_ext/search/front.py': 'from torch import nn'}, 'numpy only, not torch'),
    ('foreign_imports', {'mmnas_ext/reports/a.py': 'import torch'}, 'without torch'),
    ('foreign_imports', {'mmnas_ext/search/a.py': 'import mmengine'}, 'search works without mmengine'),
    ('foreign_imports', {'mmnas_ext/engine/a.py': 'import mmdet.models'}, 'only hosts may import mmdet'),
    ('foreign_imports', {'mmnas_ext/datasets/a.py': 'from mmseg import x'}, 'only hosts may import mmseg'),
    ('helper_rooms', {'mmnas_ext/ops/utils.py': ''}, 'no utils here'),
    ('helper_rooms', {'tools/common/a.py': ''}, 'no common here'),
    ('long_files', {'tests/a.py': 'x = 1\n' * 500}, 'tests/a.py: 500 lines'),
    ('long_functions', {'mmnas_ext/ops/a.py': LONG}, 'a.py:1: f has 80 lines'),
    ('deep_classes', {'mmnas_ext/ops/a.py': 'class A(L): x\nclass B(A): x\nclass C(m.B): x'}, 'a.py:3: C is 3 levels'),
    ('unsafe_code', {'mmnas_ext/ops/a.py': 'x = eval("1")'}, 'a.py:1: eval()'),
    ('unsafe_code', {'tools/a.py': 'exec("1")'}, 'tools/a.py:1: exec()'),
    ('unsafe_code', {'benchmarks/a.py': 'import pickle\npickle.load(f)'}, 'a.py:2: pickle.load()'),
    ('unsafe_code', {'tools/a.py': 'from pickle import loads'}, 'pickle.loads'),
    ('unsafe_code', {'tools/a.py': 'torch.load(f)'}, 'without weights_only'),
    ('unsafe_code', {'tools/a.py': 'torch.load(f, weights_only=' + 'False)'}, 'weights_only='),
    ('unsafe_code', {'tools/a.py': 'MODELS.register_module(name="a", force=' + 'True)'}, 'a.py:1: force='),
    ('unsafe_code', {'tools/a.py': 'setattr(m, "forward", f)'}, 'setattr of forward'),
    ('unsafe_code', {'tools/a.py': 'm.forward = f'}, 'forward is assigned'),
    ('unsafe_code', {'tools/a.py': 'x = 1  # TO' + 'DO later'}, 'a.py:1: TO'),
    ('tests_that_cannot_fail', {'tests/a.py': 'assert x is not None'}, 'only asserts that something is there'),
    ('tests_that_cannot_fail', {'tests/a.py': 'assert ' + 'True'}, 'asserts a constant'),
    ('tests_that_cannot_fail', {'tests/a.py': 'def f():\n    pytest' + '.skip("x")'}, 'a.py:2: pytest'),
    ('tests_that_cannot_fail', {'tests/a.py': '@pytest.mark' + '.skipif(1)\ndef f(): x'}, 'a.py:1: pytest.mark'),
    ('thin_tests', {'mmnas_ext/ops/a.py': 'x\n' * 10, 'tests/a.py': 'x\n' * 5}, '5 lines of tests for 10 of source'),
    ('missing_paths', {'README.md': 'run `tools/gone.py`'}, 'README.md: tools/gone.py'),
    ('missing_paths', {'README.md': 'see configs/gone_*.py'}, 'configs/gone_*.py'),
    ('missing_paths', {'docs/a.md': '[here](b.md)'}, 'docs/a.md: link to b.md'),
    ('missing_commands', {'README.md': '```bash\nmake cake\n```', 'Makefile': 'test:\n'}, 'make cake'),
    ('missing_commands', {'README.md': 'just `make cake`', 'Makefile': 'test:\n'}, 'make cake'),
    ('missing_commands', {'README.md': '`python -m mmnas_ext.gone`'}, 'no module mmnas_ext.gone'),
    (
        'missing_commands',
        {'README.md': '```bash\nA=1 python tools/a.py c.py \\\n  --fly\n```', 'tools/a.py': "'--walk'"},
        'tools/a.py has no --fly',
    ),
    (
        'missing_commands',
        {'README.md': '`python tools/a.py --max-macs 1 --mid-macs 2`', 'tools/a.py': 'add_limits(parser)'},
        'tools/a.py has no --mid-macs',
    ),
    (
        'missing_commands',
        {
            'README.md': '`python tools/a.py --jobs 1 --job 2`',
            'tools/a.py': 'add_comparing(parser)',
            'mmnas_ext/cli/options.py': "x('--jobs')",
        },
        'tools/a.py has no --job',
    ),
    (
        'missing_commands',
        {
            'README.md': '`python tools/a.py --fly --swim`',
            'tools/a.py': "main = tool('b')",
            'mmnas_ext/cli/b.py': "'--fly'",
        },
        'tools/a.py has no --swim',
    ),
    ('missing_commands', {'README.md': '`mmnas fly`'}, 'mmnas has no command fly'),
    (
        'missing_commands',
        {'README.md': '```bash\nmmnas b --fly --swim\n```', 'mmnas_ext/cli/b.py': "'--fly'"},
        'mmnas b has no --swim',
    ),
    ('machine_paths', {'docs/a.md': f'data in {MACHINE}'}, f'docs/a.md: {MACHINE[:12]}'),
    ('bare_configs', {'configs/a.py': 'x = 1'}, 'configs/a.py: no header'),
    ('bare_configs', {'configs/a.py': '# fine words\nx = 1'}, 'does not give the command'),
    ('bare_configs', {'configs/_base_/a.py': 'x = 1'}, 'no header'),
    ('repeated_configs', {'configs/a.py': CONFIG, 'configs/b.py': CONFIG}, 'a.py and configs/b.py share most'),
]

# rule, files that it must let pass
KEPT = [
    ('wrong_directions', {'mmnas_ext/backbones/a.py': 'from mmnas_ext.remap import x'}),
    ('wrong_directions', {'mmnas_ext/archs/a.py': 'from mmnas_ext import __version__'}),
    ('wrong_directions', {'mmnas_ext/registry.py': 'from mmnas_ext.install_check import require_mm'}),
    ('wrong_directions', {'tools/a.py': 'import mmnas_ext.hosts', 'tests/a.py': 'import mmnas_ext.hosts'}),
    (
        'import_circles',
        {
            'mmnas_ext/archs/__init__.py': 'from mmnas_ext.archs.a import x',
            'mmnas_ext/archs/a.py': 'import json\nfrom mmnas_ext.archs import b\nfrom mmnas_ext.archs.c import x',
            'mmnas_ext/archs/b.py': 'from mmnas_ext.archs.c import x',
            'mmnas_ext/archs/c.py': (
                'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mmnas_ext.archs.a import x'
            ),
        },
    ),
    ('foreign_imports', {'mmnas_ext/hosts/det.py': 'import mmdet', 'mmnas_ext/engine/a.py': 'import mmengine'}),
    ('foreign_imports', {'mmnas_ext/search/front.py': 'import numpy as np'}),
    ('long_files', {'mmnas_ext/ops/a.py': 'x = 1\n' * 499}),
    ('long_functions', {'mmnas_ext/ops/a.py': LONG.removesuffix('    x = 1\n')}),
    ('deep_classes', {'mmnas_ext/ops/a.py': 'class A(L): x\nclass B(A): x\nclass C(A): x'}),
    ('unsafe_code', {'tools/a.py': 'model.eval()\ntorch.load(f, weights_only=True)\nexcept_ = pickle.UnpicklingError'}),
    ('tests_that_cannot_fail', {'tests/a.py': 'assert x.skip == 1\nassert f(x) is None'}),
    ('thin_tests', {'mmnas_ext/ops/a.py': 'x\n' * 10, 'tests/a.py': 'x\n' * 6}),
    (
        'missing_paths',
        {
            'README.md': '[a](docs/a.md) tools/t.py configs/x_*.py work_dirs/demo/x.png https://a.b/docs/x',
            'docs/a.md': '',
            'tools/t.py': '',
            'configs/x_1.py': '',
        },
    ),
    (
        'missing_commands',
        {
            'README.md': '`make test ARGS="-k x"` `python tools/t.py --a` `mmnas t --b --c` `mmnas COMMAND --help`',
            'Makefile': 'test: x\n',
            'tools/t.py': "'--a'",
            'mmnas_ext/cli/t.py': "'--b' add_x(parser)",
            'mmnas_ext/cli/options.py': "'--c'",
        },
    ),
    ('machine_paths', {'docs/a.md': 'github.com/home/x, data/work/x, 1/work'}),
    ('bare_configs', {'configs/a.py': '"""tools/train.py configs/a.py"""', 'configs/_base_/b.py': '# shared'}),
    ('repeated_configs', {'configs/a.py': CONFIG, 'configs/b.py': CONFIG.replace('setting', 'other')}),
]


def plant(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize('rule', house.RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    assert rule(ROOT) == []


@pytest.mark.parametrize(('rule', 'files', 'complaint'), BROKEN, ids=[f'{case[0]}-{case[2][:40]}' for case in BROKEN])
def test_a_rule_sees_what_breaks_it(tmp_path, rule, files, complaint):
    found = getattr(house, rule)(plant(tmp_path, files))
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(('rule', 'files'), KEPT, ids=[f'{case[0]}-{min(case[1])}' for case in KEPT])
def test_a_rule_lets_the_rest_pass(tmp_path, rule, files):
    assert getattr(house, rule)(plant(tmp_path, files)) == []


def test_every_rule_is_seen_to_fail_and_to_pass():
    names = {rule.__name__ for rule in house.RULES}
    assert {case[0] for case in BROKEN} == names
    assert {case[0] for case in KEPT} | {'helper_rooms'} == names


def test_the_tree_is_what_git_would_publish(tmp_path):
    subprocess.run(['git', 'init', '-q'], cwd=tmp_path, check=True)
    plant(tmp_path, {'.gitignore': 'left/\n', 'left/a.py': '', 'kept/b.py': ''})
    assert house.tree(tmp_path) == ('.gitignore', 'kept/b.py')


def test_the_rules_see_the_whole_package():
    named = set(house.python_files(ROOT, house.PACKAGE))
    assert {'mmnas_ext/__init__.py', 'mmnas_ext/registry.py', 'mmnas_ext/archs/spec.py'} <= named
    on_disk = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'mmnas_ext').rglob('*.py')}
    # configs and tools once more: links, or copies where the source archive is unpacked
    assert named == {name for name in on_disk if '/.mim/' not in name}


@pytest.mark.parametrize(
    'script', ['.ci/run', *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob('tools/*.sh'))]
)
def test_a_script_is_sound_and_may_be_run(script):
    assert (ROOT / script).stat().st_mode & stat.S_IXUSR
    lines = (ROOT / script).read_text().splitlines()
    assert lines[0] == '#!/usr/bin/env bash'
    assert 'set -euo pipefail' in lines
    subprocess.run(['bash', '-n', script], cwd=ROOT, check=True)


def test_one_command_checks_the_same_as_ci():
    targets = [line.split()[1] for line in (ROOT / '.ci/run').read_text().splitlines() if line.startswith('make ')]
    assert targets == ['lint', 'test']
    help_text = subprocess.run(['make', '--no-print-directory'], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ('demo', 'test', 'lint', 'venv', 'clean-venv'):
        assert f'make {target} ' in help_text.stdout
