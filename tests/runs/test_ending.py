"""The last lines of a run, and the command that they end with: it runs as it is printed."""

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec
from mmnas_ext.cli import main as cli
from mmnas_ext.runs import ending
from mmnas_ext.runs.ending import describe_end, tell_choice, tell_end
from mmnas_ext.runs.manifest import ADAPT, DERIVE, SEARCH, Manifest, Part, read_manifest
from mmnas_ext.runs.next_command import command, run_command
from mmnas_ext.runs.trials import Trial
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from mmnas_ext.workdir import WorkDir
from tests.engine import tiny
from tests.runs.test_outcome import write_scalars

ROOT = Path(__file__).parents[2]
FOUND, SEED = (tiny.SPACE.arch(path) for path in (((0,), (1, 2), (0,)), ((0,), (0, 0), (0,))))
# by hand, of each layer in `tiny.MACS`
MACS = [tiny.MACS['fixed'] + tiny.MACS['1.0'][1] + tiny.MACS['2.0'][0],
        tiny.MACS['fixed'] + tiny.MACS['1.0'][0] + tiny.MACS['1.1'][0] + tiny.MACS['2.0'][0]]  # fmt: skip
PLACES = [{'folder': 'adapt', 'template': 'epoch_{}.pth', 'by_epoch': True}]
TESTED = dict(test_dataloader={}, test_cfg={}, test_evaluator={})


@pytest.fixture(autouse=True)
def by_mmnas(monkeypatch, tmp_path):
    """As if `mmnas` had been typed, and the shell finds it."""
    program = tmp_path / 'bin' / 'mmnas'
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(program.parent))
    monkeypatch.setattr(sys, 'argv', [str(program), 'train', 'none.py'])
    monkeypatch.chdir(tmp_path)


def cost_text(numbers):
    return [f'{number / 1e3:.2f} k' for number in numbers]


def run_of(root, origin='search', adapted=True, **config):
    """A config, and the manifest of a run of it that has ended, its files beside."""
    root = Path(root)
    (root / 'derived').mkdir(parents=True)
    (root / 'derived' / 'arch.json').write_text(FOUND.format('json'))
    Config({**TESTED, **config}).dump(root / 'derived' / 'config.py')
    parts = {
        SEARCH: Part('s', done=True),
        DERIVE: Part('d', done=True, notes=dict(arch=FOUND.format('fna'), origin=origin)),
    }
    if adapted:
        (root / 'adapt').mkdir()
        for epoch in (1, 2):
            torch.save(
                {'state_dict': {}, 'meta': {'iter': epoch, 'epoch': epoch}}, root / 'adapt' / f'epoch_{epoch}.pth'
            )
        parts[ADAPT] = Part('a', done=True, notes=dict(checkpoints=PLACES))
    report = dict(input_size=list(tiny.SIZE), output_stride=32, seed=SEED.format('fna'), metric='macs')
    file = root.parent / 'search.py'
    file.write_text('a = 1\n')
    cfg = Config(dict(work_dir=str(root), derived=dict(model={})), filename=str(file))
    return cfg, Manifest('r', 'gradient', parts, report)


def lines(text):
    """What is told, by its word; the command is one that its parser understands."""
    told = dict(line.split(maxsplit=1) for line in text.splitlines())
    if 'next' in told:
        cli.make_parser().parse_args(shlex.split(told['next'])[1:])
    return told


def test_a_trained_network_is_told_beside_the_seed(tmp_path):
    cfg, manifest = run_of('work dir')
    write_scalars(Path('work dir'), '1', [{'loss': 1.0, 'step': 1}, {'mIoU': 61.25, 'aAcc': 9.0, 'step': 2}])
    mine, theirs = cost_text(MACS)
    told = lines(describe_end(cfg, manifest))
    assert list(told) == ['found', 'reached', 'config', 'checkpoint', 'next']
    assert told['found'].startswith(f'{mine} MAdds (seed {theirs}), ')
    assert told['found'].endswith(' at 16\N{MULTIPLICATION SIGN}16')
    assert told['reached'] == 'mIoU 61.25'
    assert (told['config'], told['checkpoint']) == ('work dir/derived/config.py', 'work dir/adapt/epoch_2.pth')
    assert shlex.split(told['next']) == [
        'mmnas', 'test', told['config'], told['checkpoint'], '--work-dir', 'work dir/test',
    ]  # fmt: skip


def test_the_seeds_metric_is_that_of_its_own_training_beside(tmp_path):
    cfg, manifest = run_of('runs/search')
    write_scalars(Path('runs/search'), '1', [{'coco/bbox_mAP': 0.25, 'step': 2}])
    for arch, shown in ((FOUND, ''), (SEED, ' (seed 0.225)')):
        given = Part('d', done=True, notes=dict(arch=arch.format('fna'), origin='given'))
        done = Manifest('s', 'gradient', {DERIVE: given, ADAPT: Part('a', done=True)})
        Path('runs/seed').mkdir(exist_ok=True)
        Path('runs/seed/run.json').write_text(done.format())
        if not shown:
            write_scalars(Path('runs/seed'), '1', [{'coco/bbox_mAP': 0.225, 'step': 2}])
        assert lines(describe_end(cfg, manifest))['reached'] == f'coco/bbox_mAP 0.25{shown}'


def test_a_search_alone_goes_on_with_resume(monkeypatch):
    cfg, manifest = run_of('found', adapted=False)
    Path('search.py').write_text('a = 1\n')
    chosen = MeasuredNetwork(FOUND, {'macs': MACS[0]}, {'mIoU': 8.5}, None, 'chosen')
    seed = MeasuredNetwork(SEED, {'macs': MACS[1]}, {'mIoU': 7.5}, None, 'seed')
    MeasuredFront('macs', 'mIoU', 'greater', (chosen, seed)).write(Path('found'))
    asked = ['search.py', '--cfg-options', 'a=2', "b={'c d': 1}", '--search-only', '--amp']
    monkeypatch.setattr(sys, 'argv', [sys.argv[0], 'train', *asked, '--work-dir', 'found'])
    told = lines(describe_end(cfg, manifest))
    assert told['reached'] == 'mIoU 8.5 (seed 7.5), untrained, on held-out images'
    assert (told['config'], told['network']) == ('found/derived/config.py', 'found/derived/arch.json')
    assert shlex.split(told['next']) == [
        'mmnas', 'train', 'search.py', '--work-dir', 'found', '--amp', '--resume',
        '--cfg-options', 'a=2', "b={'c d': 1}",
    ]  # fmt: skip


def test_a_training_without_a_metric_is_not_called_untrained():
    cfg, manifest = run_of('empty')
    said = 'no metric: its training was not validated, or without a result'
    assert lines(describe_end(cfg, manifest))['reached'] == said
    chosen = MeasuredNetwork(FOUND, {'macs': MACS[0]}, {'mIoU': 8.5}, None, 'chosen')
    MeasuredFront('macs', 'mIoU', 'greater', (chosen,)).write(Path('empty'))
    told = lines(describe_end(cfg, manifest))
    assert told['reached'] == f'{said}; before: mIoU 8.5, untrained, on held-out images'


def test_a_given_network_is_called_so_and_one_without_a_test_gets_the_report():
    cfg, manifest = run_of('given', origin='given', test_evaluator=None)
    told = lines(describe_end(cfg, manifest))
    assert list(told) == ['given', 'reached', 'config', 'checkpoint', 'next']
    assert told['next'] == 'mmnas report given'
    for file in Path('given/adapt').iterdir():
        file.unlink()
    assert lines(describe_end(cfg, manifest))['checkpoint'] == 'none is left'


def test_a_random_search_alone_tells_what_its_trial_reached():
    cfg, manifest = run_of('drawn', adapted=False)
    for number, (arch, reached) in enumerate(((SEED, 0.75), (FOUND, 0.5))):
        trial = Trial(number, arch.format('fna'), 1, 1, 1.0, {'mIoU': reached}, '', 4, 1.0, 1.0, None)
        place = Path(f'drawn/trials/0{number}')
        place.mkdir(parents=True)
        (place / 'result.json').write_text(trial.format())
    ranked = Manifest('r', 'random', manifest.parts, {**manifest.report, 'rank_by': 'mIoU'})
    assert lines(describe_end(cfg, ranked))['reached'] == 'mIoU 0.5, after its trial'


def test_plain_training_and_blocks_alone():
    cfg, manifest = run_of('plain')
    plain = Config({**TESTED, 'work_dir': 'plain', 'model': dict(backbone=dict(type='ResNet'))}, filename=cfg.filename)
    told = lines(describe_end(plain, Manifest('p', 'plain', {ADAPT: manifest.parts[ADAPT]})))
    assert list(told) == ['trained', 'config', 'checkpoint', 'next'] and told['trained'] == 'ResNet'
    assert shlex.split(told['next'])[:4] == ['mmnas', 'test', cfg.filename, 'plain/adapt/epoch_2.pth']
    cfg.val_cfg = dict(type='RatingLoop')
    blocks = Manifest('b', 'distillation', {SEARCH: Part('s', done=True, notes=dict(checkpoints=PLACES))})
    told = lines(describe_end(cfg, blocks))
    assert told['trained'].startswith('blocks of a distillation; the next command takes the checkpoints of all')
    assert shlex.split(told['next']) == [
        'mmnas', 'rate', cfg.filename, 'plain/adapt/epoch_2.pth', '--work-dir', 'plain',
    ]  # fmt: skip


def test_a_finished_run_never_ends_in_an_error(monkeypatch, capsys):
    cfg, manifest = run_of('done')
    Path('done/derived/config.py').write_text('this is no Python')
    session = SimpleNamespace(cfg=cfg, manifest=manifest, files=WorkDir('done'))
    tell_end(session)
    assert capsys.readouterr().out.startswith('the run has ended, files are in done (')
    Path('done/run.json').write_text('damaged')
    tell_choice(cfg, SimpleNamespace(arch=FOUND, host=None), Path('done/arch.json'))
    assert capsys.readouterr().out.startswith('the network is chosen: done/arch.json (ResumeError: ')
    monkeypatch.setattr(ending, 'is_main_process', lambda: False)
    tell_end(session)
    assert capsys.readouterr().out == ''


def test_the_host_of_a_given_network_is_not_said_again(monkeypatch):
    cfg, manifest = run_of('given', origin='given', adapted=False)
    given = ['train', cfg.filename, '--arch', 'net.json', '--cfg-options', 'a=1', 'host_choice=64x64-w8-c1']
    monkeypatch.setattr(sys, 'argv', [sys.argv[0], *given])
    told = lines(describe_end(cfg, manifest))
    assert shlex.split(told['next'])[2:] == [cfg.filename, '--work-dir', 'given', '--resume', '--cfg-options', 'a=1']


def test_a_choice_made_again_is_trained_by_its_file(capsys):
    cfg, manifest = run_of('chosen')
    Path('chosen/run.json').write_text(manifest.format())
    tell_choice(cfg, SimpleNamespace(arch=FOUND, host=None), Path('chosen/selected/arch.json'))
    told = lines(capsys.readouterr().out)
    assert told['chosen'].startswith('{} MAdds (seed {}), '.format(*cost_text(MACS)))
    asked = ['mmnas', 'train', cfg.filename, '--work-dir', 'chosen', '--arch', 'chosen/selected/arch.json']
    assert shlex.split(told['next']) == asked


def test_latency_is_told_by_the_configs_table():
    cfg, manifest = run_of('timed')
    Path('table.json').write_text(tiny.latency_table().format())
    cfg.optim_wrapper = dict(cost=dict(metric='latency', table='table.json'))
    timed = Manifest('r', 'gradient', manifest.parts, {**manifest.report, 'metric': 'latency'})
    # 0.3 + 0.7 + 0.9 and 0.3 + 1.4 + 0.9 + 0.9
    assert '1.9 ms latency (seed 3.5 ms)' in lines(describe_end(cfg, timed))['found']


@pytest.mark.parametrize(
    ('argv', 'expected'),
    [
        (['/env/bin/mmnas', 'train', 'x'], ['/env/bin/mmnas', 'select', 'a b']),
        ([str(ROOT / 'tools' / 'train.py'), 'x'], [sys.executable, str(ROOT / 'tools' / 'select_network.py'), 'a b']),
        (['-c'], [sys.executable, '-m', 'mmnas_ext', 'select', 'a b']),
    ],
)
def test_commands_are_called_as_this_one_was(argv, expected):
    assert shlex.split(command('select', 'a b', argv=argv)) == expected


def test_processes_are_started_again_by_torchrun(monkeypatch):
    cfg, _ = run_of('several')
    cfg.launcher = 'pytorch'
    monkeypatch.setattr('mmnas_ext.runs.next_command.get_world_size', lambda: 4)
    told = run_command('train', cfg, '--resume', argv=[str(ROOT / 'tools' / 'train.py'), '--cfg-options', 'a=1'])
    assert shlex.split(told) == [
        'torchrun', '--nproc_per_node=4', str(ROOT / 'tools' / 'train.py'), cfg.filename, '--work-dir', 'several',
        '--resume', '--launcher', 'pytorch', '--cfg-options', 'a=1',
    ]  # fmt: skip
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')  # of two machines
    assert run_command('train', cfg) is None
    cfg.launcher = 'slurm'
    assert run_command('train', cfg) is None


def test_each_command_runs_as_it_is_printed(monkeypatch, capsys):
    """A search, the training that it names, the test that that names."""
    cfg = tiny.search_cfg('elsewhere', **{'train_cfg.max_epochs': 2, 'train_dataloader.dataset.count': 4})
    loader = {
        **tiny.loader_cfg(3, transform='TinyPlain', count=3),
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
    }
    cfg.custom_imports.imports = ['tests.engine.tiny_trials']
    cfg.derived.model.type = 'TinyTried'
    cfg.derived.update(test_cfg={}, test_dataloader=loader, test_evaluator={'type': 'TinyCloseness'})
    cfg.dump('tiny.py')
    arguments = ['train', 'tiny.py', '--work-dir', 'a work dir', '--search-only', '--cfg-options', 'log_level=ERROR']
    for expected in ('train', 'test', None):
        monkeypatch.setattr(sys, 'argv', [sys.argv[0], *arguments])
        assert cli.main(arguments) == 0
        if expected:
            last = capsys.readouterr().out.splitlines()[-1]
            words = shlex.split(last.removeprefix('next'))
            assert words[:2] == ['mmnas', expected]
            arguments = words[1:]
    assert read_manifest(Path('a work dir/run.json')).state == 'done'
    assert ArchSpec.parse('a work dir/derived/arch.json').depths
