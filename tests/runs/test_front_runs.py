"""``--pick`` and ``--adapt-all``: networks of a finished search's front are trained, and the search stays as it is."""

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmnas_ext.archs import ArchSpec, price
from mmnas_ext.registry import MODELS
from mmnas_ext.runs.front_runs import (
    _is_outdated,
    _measured_otherwise,
    adapt_all,
    check_all,
    check_asked,
    dry_run_all,
    pick_network,
)
from mmnas_ext.runs.manifest import ADAPT, SEARCH, Manifest, Part, ResumeError, read_manifest
from mmnas_ext.runs.results import last_metrics
from mmnas_ext.runs.run import run
from mmnas_ext.runs.session import clear
from mmnas_ext.runs.sharing import Alone
from mmnas_ext.search.measured import MeasuredFront, MeasuredNetwork
from mmnas_ext.workdir import WorkDir
from tests.engine import tiny, tiny_distill, tiny_seg, tiny_trials
from tests.engine.kept import differences, last_checkpoint
from tests.engine.test_distill import ordinary
from tests.runs.test_leases import quick

ROOT = Path(__file__).parents[2]
# of four layers' choices; the cheapest first
ARCHS = [tiny.SPACE.arch(path).replace(bn_eps=1e-5) for path in sorted(tiny_trials.PATHS, key=tiny_trials.macs)[::4]]
PICKED = 1
STEPS = 4  # iterations that train a network


def config(work_dir, **changes):
    """A search of a few steps; what it finds is trained for four, validated after each two."""
    cfg = tiny.search_cfg(work_dir, **{
        'train_cfg.max_epochs': 2, 'train_dataloader.dataset.count': 4, 'derived.train_cfg.max_epochs': 2,
        'custom_imports.imports': ['tests.engine.tiny_trials'], 'derived.model.type': 'TinyTried',
        'derived.val_cfg': {}, 'derived.val_evaluator': {'type': 'TinyCloseness'},
        'derived.val_dataloader': {
            **tiny.loader_cfg(3, transform='TinyPlain', count=3),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        },
    })  # fmt: skip
    cfg.merge_from_dict(changes)
    return cfg


def measured(archs=ARCHS):
    """A front of these networks, and a seed, as a search by gradients writes it."""
    networks = [
        MeasuredNetwork(arch, {'macs': price(arch, tiny.SIZE)}, {'closeness': 0.5 + number / 8})
        for number, arch in enumerate(archs)
    ]
    seed = MeasuredNetwork(archs[0], {'macs': 1}, {'closeness': 0.25}, None, 'seed')
    return MeasuredFront('macs', 'closeness', 'greater', (*networks, seed))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A search that has ended, with a front."""
    folder = tmp_path_factory.mktemp('searched') / 'work'
    run(config(folder), search_only=True)
    measured().write(folder)
    return folder


@pytest.fixture
def work_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / 'work')


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob('*') if path.is_file()}


def train_tool(monkeypatch, *args):
    spec = importlib.util.spec_from_file_location('tools_train', ROOT / 'tools' / 'train.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, args)])
    tool.main()


def test_a_picked_network_is_trained_and_the_search_stays(work_dir, tmp_path, monkeypatch, steps):
    file = tmp_path / 'tiny.py'
    config(work_dir).dump(file)
    searched, front = read_manifest(work_dir / 'run.json').parts[SEARCH], (work_dir / 'front.json').read_text()
    train_tool(monkeypatch, file, '--resume', '--pick', PICKED)
    assert steps['count'] == STEPS
    manifest = read_manifest(work_dir / 'run.json')
    assert (manifest.state, manifest.is_given, manifest.parts[SEARCH]) == ('done', True, searched)
    assert ArchSpec.parse(work_dir / 'derived' / 'arch.json') == ARCHS[PICKED]
    weights = last_checkpoint(work_dir / 'adapt')[1]['state_dict']
    net = MODELS.build(dict(type='mmnas_ext.MBNet', arch=ARCHS[PICKED], out_indices=(2,)))
    net.load_state_dict({k.removeprefix('backbone.'): v for k, v in weights.items() if k.startswith('backbone.')})
    assert (work_dir / 'front.json').read_text() == front
    assert (work_dir / 'front.png').read_bytes().startswith(b'\x89PNG')
    train_tool(monkeypatch, file, '--resume', '--pick', PICKED)
    assert steps['count'] == STEPS  # done


def test_all_are_trained_in_turn_and_a_killed_call_goes_on(finished, work_dir, tmp_path, monkeypatch, steps, capsys):
    whole = shutil.copytree(finished, tmp_path / 'whole')
    before = contents(work_dir)
    file = tmp_path / 'tiny.py'
    config(work_dir).dump(file)
    steps['last'] = STEPS + 3  # in the second network, after its first checkpoint
    with pytest.raises(tiny_seg.KilledError):
        train_tool(monkeypatch, file, '--adapt-all')
    assert {path: content for path, content in contents(work_dir).items() if path in before} == before
    states = [read_manifest(work_dir / 'front' / name / 'run.json') for name in ('0', '1', '2')]
    assert [state and state.state for state in states] == ['done', 'adapting', None]
    steps.update(count=0, last=1000)
    train_tool(monkeypatch, file, '--adapt-all', '--resume')
    assert steps['count'] == 2 + STEPS
    assert 'network 1 of the front, 2 of 3' in capsys.readouterr().out
    steps['count'] = 0
    adapt_all(config(whole), check_all(config(whole)))
    assert steps['count'] == 3 * STEPS
    found = {}
    for number, arch in enumerate(ARCHS):
        ours, theirs = (folder / 'front' / str(number) for folder in (work_dir, whole))
        assert differences(last_checkpoint(ours / 'adapt'), last_checkpoint(theirs / 'adapt')) == []
        assert ArchSpec.parse(ours / 'derived' / 'arch.json') == arch
        assert (ours / 'derived' / 'config.py').is_file()
        found[number] = last_metrics(ours)['closeness']
    assert len(set(found.values())) == 3
    rows = [[cell.strip() for cell in line.split('|')[1:-1]]
            for line in (work_dir / 'front' / 'results.md').read_text().splitlines()]  # fmt: skip
    assert rows[0] == ['K', 'MAdds', 'closeness', 'closeness, trained', 'origin', 'network']
    assert [row[:1] + row[2:4] for row in rows[2:]] == [
        ['', '0.2500', '–'], *([str(k), f'{0.5 + k / 8:.4f}', f'{found[k]:.4f}'] for k in range(3))
    ]  # fmt: skip
    # and the same as by itself
    run(config(tmp_path / 'alone'), arch=ARCHS[2].format('fna'))
    ours, alone = (last_checkpoint(folder / 'adapt') for folder in (work_dir / 'front' / '2', tmp_path / 'alone'))
    assert differences(ours, alone) == []


def test_a_network_that_another_process_trains_is_left_to_it(work_dir, steps):
    plan = check_all(config(work_dir), [PICKED])
    files = WorkDir(plan.own(config(work_dir), PICKED).work_dir)
    with Alone(files, quick(20.0)) as other:
        other.take_run()
        with pytest.raises(ResumeError, match=rf'{files.root}: at work is '):
            adapt_all(config(work_dir), plan)
    assert steps['count'] == 0 and not files.manifest.is_file()


def test_a_run_is_not_begun_anew_while_a_network_of_its_front_is_trained(work_dir, steps):
    """A new choice could set it aside in the middle of that."""
    own = WorkDir(work_dir / 'front' / '1')
    own.root.mkdir(parents=True)
    before = contents(work_dir)
    with Alone(own, quick(20.0)) as other:
        other.take_run()
        with pytest.raises(ResumeError, match='work: at work is .*: wait for its end'):
            run(config(work_dir), resume=True, search_only=True)
        assert {path: text for path, text in contents(work_dir).items() if path.suffix != '.lease'} == before
    run(config(work_dir), resume=True, search_only=True)


def test_a_number_that_stands_for_another_network_by_now_is_trained_anew(work_dir, steps):
    cfg = config(work_dir)
    adapt_all(cfg, check_all(cfg, [2, 0]))
    assert not (work_dir / 'front' / '1').exists()
    measured(ARCHS[1:]).write(work_dir)  # what was 2 is 1
    plan = check_all(cfg, [0], resume=True)
    assert dry_run_all(cfg, plan).splitlines()[0] == f'network 0    begins: {ARCHS[1].format("fna")}'
    table = (work_dir / 'front' / 'results.md').read_text()
    steps['count'] = 0
    adapt_all(cfg, check_all(cfg, [0], resume=True))
    assert steps['count'] == STEPS
    assert ArchSpec.parse(work_dir / 'front' / '0' / 'derived' / 'arch.json') == ARCHS[1]
    (aside,) = (work_dir / 'front' / '0').glob('before_*')
    assert ArchSpec.parse(aside / 'derived' / 'arch.json') == ARCHS[0]
    rows = (work_dir / 'front' / 'results.md').read_text().splitlines()
    assert rows != table.splitlines()
    assert [row.split('|')[4].strip() == '–' for row in rows[2:]] == [True, False, True]
    # without --resume it is trained again, and the former run is set aside; the page of the search shows it
    adapt_all(cfg, check_all(cfg, [0]), draw=True)
    assert steps['count'] == 2 * STEPS
    assert (work_dir / 'front' / '0' / 'report.html').is_file()
    assert 'trained: closeness' in (work_dir / 'report.html').read_text()
    assert len(list((work_dir / 'front' / '0').glob('before_*'))) == 2


def test_a_dry_run_says_what_is_left_and_leaves_no_file(work_dir, tmp_path, monkeypatch, steps, capsys):
    cfg = config(work_dir)
    adapt_all(cfg, check_all(cfg, [0]))
    before = contents(tmp_path)
    steps['count'] = 0
    lines = dry_run_all(cfg, check_all(cfg, [0, 2], resume=True)).splitlines()
    assert lines[:3] == [
        f'network 0    done: {ARCHS[0].format("fna")}', f'network 2    begins: {ARCHS[2].format("fna")}',
        'of network 2:',
    ]  # fmt: skip
    assert lines[-1] == f'writes       run.json, derived/arch.json, derived/config.py, adapt in {work_dir}/front/2'
    assert steps['count'] == 1
    assert contents(tmp_path) == before
    file = tmp_path / 'tiny.py'
    cfg.dump(file)
    capsys.readouterr()
    train_tool(monkeypatch, file, '--resume', '--pick', 2, '--dry-run')
    assert capsys.readouterr().out.splitlines()[-1].endswith(f'adapt in {work_dir}')
    assert steps['count'] == 2
    file.unlink()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ('asked', 'message'),
    [
        (dict(pick=0, arch='mobilenet_v2'), '--pick says what is trained, and so does --arch'),
        (dict(pick=0, search_only=True), '--pick says what is trained, and so does --search-only'),
        (dict(pick=0, several=[]), '--pick says what is trained, and so does --adapt-all'),
        (dict(several=[1], search_only=True), '--adapt-all says what is trained, and so does --search-only'),
    ],
)
def test_what_contradicts_itself_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        check_asked(**{'arch': None, 'search_only': False, 'pick': None, 'several': None, **asked})
    check_asked(None, True, None, None)
    check_asked('mobilenet_v2', True, None, None)  # `check_mode` says that


def test_what_cannot_be_taken_from_a_front_is_refused_before_anything_is_set_aside(work_dir, tmp_path):
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r'the front has networks 0\.\.2, got 3'):
        pick_network(config(work_dir), 3)
    with pytest.raises(ValueError, match=r'the front has networks 0\.\.2, got 7'):
        check_all(config(work_dir), [0, 7])
    with pytest.raises(ValueError, match='--pick needs a work dir whose search is finished, got no run in .*nowhere'):
        pick_network(config(tmp_path / 'nowhere'), 0)
    other = config(work_dir, **{'randomness.seed': 9})
    for ask in (lambda: pick_network(other, 0), lambda: check_all(other)):
        with pytest.raises(ResumeError, match='the search in .* was begun with other settings .randomness.seed 3 -> 9'):
            ask()
    longer = config(work_dir, **{'train_cfg.max_epochs': 3})
    with pytest.raises(ResumeError, match='this config does the search again .taken over: train_cfg.max_epochs 2 -> 3'):
        check_all(longer)
    cheaper = config(work_dir, **{'optim_wrapper.cost.max': 1.7e8})
    for ask in (lambda: pick_network(cheaper, 0), lambda: check_all(cheaper)):
        with pytest.raises(ResumeError, match='measured within no limit, and this config asks for at most 0.17'):
            ask()
    plain = config(work_dir)
    plain.pop('derived')
    with pytest.raises(ValueError, match='--adapt-all needs a config with derived'):
        check_all(plain)
    assert contents(tmp_path) == before
    (work_dir / 'front.json').unlink()
    with pytest.raises(ValueError, match='--adapt-all needs a front of measured networks, and .* has no front.json'):
        check_all(config(work_dir))
    unfinished = json.loads((work_dir / 'run.json').read_text())
    unfinished['parts']['search']['done'] = False
    (work_dir / 'run.json').write_text(json.dumps({**unfinished, 'state': 'searching'}))
    with pytest.raises(ValueError, match="whose search is finished, got a run that is 'searching' in"):
        pick_network(config(work_dir), 0)


def test_a_network_that_was_trained_otherwise_is_not_gone_on_with(work_dir):
    cfg = config(work_dir)
    adapt_all(cfg, check_all(cfg, [1]))
    other = config(work_dir, **{'derived.optim_wrapper.optimizer.lr': 0.01})
    before = contents(work_dir)
    with pytest.raises(ResumeError, match='the adaptation in .*front/1 was begun with other settings'):
        check_all(other, [0, 1], resume=True)
    assert contents(work_dir) == before


def test_a_new_run_sets_the_front_and_its_networks_aside(work_dir):
    (work_dir / 'front.png').touch()
    (work_dir / 'front' / '1').mkdir(parents=True)
    aside = clear(config(work_dir))
    assert {path.name for path in aside.iterdir()} >= {'run.json', 'front', 'front.json', 'front.png'}
    assert not list(work_dir.glob('front*'))


@pytest.mark.parametrize(('archs', 'left'), [
    (ARCHS, set()), (ARCHS[1:], {'0', '1', 'results.md'}), ([ARCHS[0], *ARCHS[2:]], {'1', 'results.md'}),
    (ARCHS[:2], {'results.md'}), ((), {'0', '1', 'results.md'}),
])  # fmt: skip
def test_what_was_trained_of_a_former_front_is_set_aside_with_its_table(work_dir, archs, left, steps, capsys):
    """A new choice, such as by another limit, gives another front: its numbers are other networks'."""
    cfg = config(work_dir)
    adapt_all(cfg, check_all(cfg, [0, 1]))
    steps['count'] = 0
    if archs:
        measured(archs).write(work_dir)
    else:
        (work_dir / 'front.json').unlink()
    capsys.readouterr()
    for _ in range(2):  # found again, as it is: and what is set aside is so once
        run(cfg, resume=True, search_only=True)
    there = {path.name for path in (work_dir / 'front').iterdir()}
    assert there == {'0', '1', 'results.md'} - left
    aside = {path.relative_to(path.parents[1]).name for path in work_dir.glob('before_*/front/*')}
    assert aside == left
    start, end = 'of a former front, or former weights: ', ' are set aside, in '
    said = [line.partition(end)[0] for line in capsys.readouterr().out.splitlines() if line.startswith(start)]
    assert said == ([start + ', '.join(f'front/{name}' for name in sorted(left))] if left else [])


def test_what_was_trained_with_another_recipe_is_left_out_of_the_table(work_dir, capsys):
    cfg = config(work_dir)
    adapt_all(cfg, check_all(cfg, [0, 1]))
    shorter = config(work_dir, **{'derived.train_cfg.max_epochs': 1})
    capsys.readouterr()
    adapt_all(shorter, check_all(shorter, [1]))
    table = (work_dir / 'front' / 'results.md').read_text()
    assert 'left out, trained with another recipe: K = 0' in table
    own = last_metrics(work_dir / 'front' / '1')['closeness']
    head, _, *rows = [line.split('|') for line in table.splitlines() if line.startswith('|')]
    place = next(number for number, cell in enumerate(head) if cell.strip() == 'closeness, trained')
    shown = {row[1].strip(): row[place].strip() for row in rows}
    assert shown['0'] == '–' and float(shown['1']) == pytest.approx(own, abs=1e-4)


def test_a_front_is_not_taken_with_another_selection(work_dir):
    other = config(work_dir, **{'optim_wrapper.selection': dict(type='argmax', front=dict(networks=3))})
    for ask in (lambda: pick_network(other, 0), lambda: check_all(other)):
        with pytest.raises(ResumeError, match='measured with other settings .selection.front.* --resume alone first'):
            ask()
    cfg = config(work_dir)
    run(cfg, resume=True, arch=pick_network(cfg, PICKED))
    cheaper = config(work_dir, **{'optim_wrapper.cost.max': 1.7e8})
    with pytest.raises(ResumeError, match='go on with --resume --search-only first'):
        pick_network(cheaper, 0)


def test_what_a_front_was_measured_with_is_noted_with_it():
    """A network that is given has the settings of its own day, which say nothing of the front."""
    settings = {'selection.type': 'measured', 'selection.front.networks': 8}
    given = Part('d', {**settings, 'selection.front.networks': 3}, True, {'arch': 'a', 'origin': 'given'})
    rated = Part('r', {}, True, {'front': settings})
    manifest = Manifest('x', 'gradient', {'search': Part('s', {}, True), 'rating': rated, 'derive': given})
    limits = {'choice.macs.max': 5, 'selection.evaluation': 'x', 'evolution.evaluation': 'y'}
    assert _measured_otherwise(manifest, {**settings, **limits}) == []
    (change,) = _measured_otherwise(manifest, {**settings, 'selection.front.networks': 3})
    assert (change.old, change.new) == (8, 3)
    assert _measured_otherwise(manifest, {**settings, 'evolution.population': 9})
    # of before it was noted
    assert _measured_otherwise(manifest.without('rating'), settings) == []
    found = replace(given, notes={'arch': 'a', 'origin': 'search'})
    assert len(_measured_otherwise(manifest.without('rating').with_part('derive', found), settings)) == 1


def test_other_weights_than_distilled_ones_do_not_follow_from_a_distillation():
    part = Part('d', notes={'follows': 's/3'})
    for follows, outdated in (('s/3', False), ('s/5', True), (None, False)):
        assert _is_outdated(Manifest('x', 'distillation', {'derive': part}), follows) == outdated


def test_networks_of_a_distillation_that_went_on_are_trained_from_its_new_weights(tmp_path, capsys):
    ordinary(tmp_path)
    derived = dict(config='ordinary.py', train_cfg=dict(max_iters=1), weights='distilled')

    def cfg(iterations):
        return tiny_distill.config(tmp_path, max_iters=iterations, derived=derived, param_scheduler=[])

    def weights():
        return torch.load(own / 'derived' / 'distilled.pth', weights_only=True)

    run(cfg(3), search_only=True)
    work_dir = tmp_path / 'work'
    front = MeasuredFront.parse(work_dir)
    own = work_dir / 'front' / str(PICKED)
    adapt_all(cfg(3), check_all(cfg(3), [PICKED]))
    former, trained = weights(), last_checkpoint(own / 'adapt')[1]['state_dict']
    adapt_all(cfg(3), check_all(cfg(3), [PICKED], resume=True))
    assert 'is set aside' not in capsys.readouterr().out
    assert differences(last_checkpoint(own / 'adapt')[1]['state_dict'], trained) == []
    run(cfg(5), resume=True, search_only=True)
    longer = MeasuredFront.parse(work_dir)
    number = next(k for k in range(len(longer.points)) if longer.pick(k).arch == front.pick(PICKED).arch)
    assert number == PICKED  # or the run there is one of another network
    assert 'begins' in dry_run_all(cfg(5), check_all(cfg(5), [PICKED], resume=True))
    adapt_all(cfg(5), check_all(cfg(5), [PICKED], resume=True))
    said = f'of a former front, or former weights: front/{PICKED}'
    assert said in capsys.readouterr().out
    assert differences(weights(), former) != []
    assert differences(last_checkpoint(own / 'adapt')[1]['state_dict'], trained) != []


def test_networks_of_a_distillation_get_their_own_distilled_weights(tmp_path):
    ordinary(tmp_path)
    derived = dict(config='ordinary.py', train_cfg=dict(max_iters=1), weights='distilled')
    cfg = tiny_distill.config(tmp_path, max_iters=3, derived=derived)
    run(cfg, search_only=True)
    work_dir = tmp_path / 'work'
    before = contents(work_dir)
    adapt_all(cfg, check_all(cfg, [PICKED]))
    kept = contents(work_dir)
    # its search, its choice, its weights; the configs that MMEngine dumps (one into a folder of the second) are a log
    logs = {path for path in before if path.name == 'distill.py' or path.parts[-2:] == ('vis_data', 'config.py')}
    assert {path: kept[path] for path in before.keys() - logs}.items() <= before.items()
    own = work_dir / 'front' / str(PICKED)
    assert read_manifest(own / 'run.json').is_done(ADAPT)
    arch = MeasuredFront.parse(work_dir).pick(PICKED).arch
    assert ArchSpec.parse(own / 'derived' / 'arch.json') == arch != ArchSpec.parse(work_dir / 'derived' / 'arch.json')
    weights = torch.load(own / 'derived' / 'distilled.pth', weights_only=True)
    net = MODELS.build(dict(type='mmnas_ext.MBNet', arch=arch, out_indices=(2,)))
    net.load_state_dict(weights)
    assert str(own / 'derived' / 'distilled.pth') in (own / 'derived' / 'config.py').read_text()
    trained = last_checkpoint(own / 'adapt')[1]['state_dict']
    # of one step of adaptation
    assert torch.allclose(trained['backbone.stem.conv.weight'], weights['stem.conv.weight'], atol=0.1)
    # picked, it gets the same weights
    run(cfg, resume=True, arch=pick_network(cfg, PICKED))
    picked = torch.load(work_dir / 'derived' / 'distilled.pth', weights_only=True)
    assert differences(picked, weights) == []
