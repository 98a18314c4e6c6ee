"""A search by gradients that measures before it chooses: end to end, killed, changed, and chosen from once more."""

import importlib.util
import json
import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, Limit, price, prices
from mmnas_ext.engine.batches import Batches
from mmnas_ext.engine.limits import derive_path
from mmnas_ext.runs import gradient
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.runs.gradient import stamp_of
from mmnas_ext.runs.halves import check_validating
from mmnas_ext.runs.manifest import ADAPT, DERIVE, RATING, SEARCH, Manifest, Part, ResumeError, read_manifest
from mmnas_ext.runs.run import run
from mmnas_ext.runs.select_again import select_again
from mmnas_ext.runs.session import Session, clear
from mmnas_ext.search.choosing import Choosing
from mmnas_ext.search.decision import Decision
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.workdir import WorkDir, write_text
from tests.engine import tiny, tiny_seg, tiny_trials
from tests.engine.kept import loaded

ROOT = Path(__file__).parents[2]
PRICED = prices(tiny.SPACE, tiny.SIZE)
COSTS = sorted(PRICED.path(path) for path in tiny_trials.PATHS)
LIMIT, LOWER = COSTS[7], COSTS[4]
# caution of no deviations: the reference is kept where none is expected to be better
MEASURED = dict(type='measured', first=2, networks=3, rounds=2, batches=2, most=4, finalists=2, certain=0.0, window=0.5)


def config(work_dir, selection=MEASURED, limit=LIMIT, **changes):
    """A search of eight iterations, a training of two; each half is four batches."""
    cfg = tiny.search_cfg(work_dir, **{
        'train_cfg.max_epochs': 2, 'train_dataloader.dataset.count': 16, 'derived.train_cfg.max_epochs': 1,
    })  # fmt: skip
    cfg.optim_wrapper.cost = dict(weight=0.1, max=limit)
    if selection is not None:
        cfg.optim_wrapper.selection = selection
    cfg.merge_from_dict(changes)
    return cfg


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob('*') if path.is_file()}


def lines(work_dir):
    """(path, batch) of every loss that was written down, in order."""
    text = WorkDir(work_dir).path_losses.read_text()
    return [(json.dumps(record['path']), record['batch']) for record in map(json.loads, text.splitlines())]


def told(file):
    """What a decision says, less what it took."""
    content = json.loads(Path(file).read_text())
    assert set(content.pop('notes')) == {'losses', 'seconds'}
    return content


def computed_for(file):
    """How many losses a decision says that it computed."""
    return json.loads(Path(file).read_text())['notes']['losses']


def supernet_of(work_dir):
    """The super-network of a work dir's last checkpoint."""
    model, _ = tiny.build(norm=True)
    model.load_state_dict(loaded(find_checkpoint(work_dir).path)['state_dict'])
    return model.backbone


def trained_arch(work_dir):
    """What the training's config, and the weights that it left, are of."""
    text = read_manifest(work_dir / 'run.json').parts[ADAPT].settings['model.backbone.arch']
    return ArchSpec.parse(text)


@pytest.fixture(scope='module')
def states():
    return []


@pytest.fixture(scope='module')
def finished(tmp_path_factory, states):
    """A run to its end; the states that its manifest went through are noted."""
    folder = tmp_path_factory.mktemp('selected') / 'work'
    write = Session.write

    def noted(session, manifest):
        states.append(manifest.state)
        write(session, manifest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, 'write', noted)
        run(config(folder))
    return folder


@pytest.fixture
def work_dir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / 'work')


def test_what_is_measured_decides_and_is_trained(finished, states):
    files = WorkDir(finished)
    decision = Decision.parse(finished)
    assert (decision.type, decision.score, decision.metric, decision.limit) == (
        'measured', 'loss', 'macs', Limit(None, LIMIT)
    )  # fmt: skip
    assert ArchSpec.parse(files.arch) == decision.arch
    assert trained_arch(finished) == decision.arch.replace(bn_eps=None)
    assert decision.costs == {
        'macs': price(decision.arch, tiny.SIZE), 'params': price(decision.arch, tiny.SIZE, metric='params'),
    }  # fmt: skip
    assert decision.costs['macs'] <= LIMIT
    best = supernet_of(finished)
    assert decision.reference == best.derive()
    # losses as they are written: of each network on each batch one, the reference's among them
    written = lines(finished)
    assert len(written) == len(set(written))
    losses = {(json.dumps(r['path']), r['batch']): r['loss'] for r in map(json.loads, files.path_losses.open())}
    assert decision.networks
    for network in decision.networks:
        path = next(p for p in tiny_trials.PATHS if tiny.SPACE.arch(p).replace(bn_eps=1e-5) == network.arch)
        pairs = [(json.dumps(p), b) for p in (path, best.best_path()) for b in range(network.batches)]
        one, other = pairs[: network.batches], pairs[network.batches :]
        mean = sum(losses[a] - losses[b] for a, b in zip(one, other, strict=True)) / network.batches
        assert network.measured == pytest.approx(mean)
        assert network.cost == PRICED.path(path) <= LIMIT
    assert max(network.batches for network in decision.networks) == 4
    assert [each.layer for each in decision.layers] == ['1.0', '1.1', '2.0']
    # every candidate in the reference's place, on two batches
    firsts = [pair for pair in written if pair[1] < 2]
    assert len({path for path, _ in firsts}) >= 1 + 1 + 2 + 1
    assert dict.fromkeys(states, 0) == dict.fromkeys(['created', 'searching', 'found', 'rating', 'derived', 'adapting',
                                                      'done'], 0)  # fmt: skip
    assert states[-1] == 'done'
    assert states.index('searching') < states.index('rating') < states.index('derived') < states.index('adapting')


def test_a_run_killed_while_it_measures_measures_nothing_twice(finished, tmp_path, computed):
    work_dir, whole = tmp_path / 'work', lines(finished)
    for last in (3, len(whole) - 2):
        computed['last'] = last
        with pytest.raises(tiny_seg.KilledError):
            run(config(work_dir), resume=work_dir.exists())
        assert read_manifest(work_dir / 'run.json').state == 'rating'
        assert not WorkDir(work_dir).decision.exists()
        assert len(lines(work_dir)) == last
    with WorkDir(work_dir).path_losses.open('a') as file:
        file.write('{"stamp": "half of a')
    computed['last'] = 10_000
    run(config(work_dir), resume=True)
    assert computed['count'] == len(whole)
    assert computed_for(WorkDir(finished).decision) == len(whole)
    assert computed_for(WorkDir(work_dir).decision) == 2  # in the last go
    assert told(WorkDir(work_dir).decision) == told(WorkDir(finished).decision)
    assert read_manifest(work_dir / 'run.json').state == 'done'


@pytest.mark.parametrize('change', [dict(limit=LOWER), dict(selection={**MEASURED, 'most': 3})])
def test_another_choice_is_made_of_the_same_search(work_dir, change, computed, capsys):
    before = read_manifest(work_dir / 'run.json').parts
    weights, known = find_checkpoint(work_dir).path.read_bytes(), lines(work_dir)
    run(config(work_dir, **change), resume=True)
    assert 'the network is chosen again' in capsys.readouterr().out
    after = read_manifest(work_dir / 'run.json')
    assert after.state == 'done'
    assert after.parts[SEARCH].id == before[SEARCH].id
    assert find_checkpoint(work_dir).path.read_bytes() == weights
    decision = Decision.parse(work_dir)
    assert decision.limit == Limit(None, change.get('limit', LIMIT))
    assert decision.costs['macs'] <= decision.limit.max
    assert trained_arch(work_dir) == decision.arch.replace(bn_eps=None)
    assert max(network.batches for network in decision.networks) == change.get('selection', MEASURED)['most']
    # what is known is not measured again
    assert lines(work_dir)[: len(known)] == known
    assert len(set(lines(work_dir))) == len(lines(work_dir)) == len(known) + computed['count']
    assert computed_for(WorkDir(work_dir).decision) == computed['count']
    count = computed['count']
    run(config(work_dir, **change), resume=True)
    assert computed['count'] == count
    assert 'chosen again' not in capsys.readouterr().out


def test_where_no_other_network_costs_as_much_the_reference_is_kept(work_dir, tmp_path):
    cheapest = min(tiny_trials.PATHS, key=PRICED.path)
    cfg = config(work_dir, {**MEASURED, 'window': 0.999})
    reference = Decision.parse(work_dir).reference
    # limits at the cost of the reference, between which there is no other network
    limit = Limit(price(reference, tiny.SIZE), price(reference, tiny.SIZE))
    select_again(cfg, tmp_path / 'kept', limits={'macs': limit})
    kept = Decision.parse(tmp_path / 'kept' / 'decision.json')
    assert (kept.arch, kept.networks, kept.better) == (reference, (), None)
    assert kept.why == 'the reference is kept: no other one costs as much'
    assert 'that of the reference' not in kept.describe()
    # where it does not meet them, another one is taken that does
    select_again(cfg, tmp_path / 'cheap', limits={'macs': Limit(None, PRICED.path(cheapest))})
    assert Decision.parse(tmp_path / 'cheap' / 'decision.json').arch == tiny.SPACE.arch(cheapest).replace(bn_eps=1e-5)


def test_few_held_out_images_are_measured_on_once_each(tmp_path, capsys):
    few = {'train_dataloader.dataset.count': 12}  # each half is three batches
    cfg = config(tmp_path / 'few', {**MEASURED, 'most': 24}, **few)
    run(cfg, search_only=True)
    said = 'the held-out images are 3 batches: no network is measured on more, or images would repeat'
    assert capsys.readouterr().out.count(said) == 1
    assert {batch for _, batch in lines(tmp_path / 'few')} == {0, 1, 2}
    assert max(network.batches for network in Decision.parse(tmp_path / 'few').networks) == 3


def test_a_network_is_written_down_again_with_what_decided(work_dir, computed):
    """A training that is configured anew, of the same network."""
    decision = WorkDir(work_dir).decision.read_text()
    run(config(work_dir, **{'derived.train_cfg.max_epochs': 2}), resume=True)
    assert WorkDir(work_dir).decision.read_text() == decision
    assert computed['count'] == 0
    assert '"max_epochs": 2' in json.dumps(read_manifest(work_dir / 'run.json').parts[ADAPT].settings).replace(
        'train_cfg.', ''
    )
    # one that tells of another network, or nothing, is none of this one's
    other = next(a for a in map(tiny.SPACE.arch, tiny_trials.PATHS) if a != Decision.parse(work_dir).arch)
    for text in ('{"type": ', decision.replace(Decision.parse(work_dir).arch.format('fna'), other.format('fna'))):
        WorkDir(work_dir).decision.write_text(text)
        WorkDir(work_dir).config.unlink()
        run(config(work_dir, **{'derived.train_cfg.max_epochs': 2}), resume=True)
        assert not WorkDir(work_dir).decision.exists()


def test_alpha_alone_decides_by_default_and_measures_nothing(tmp_path, computed):
    work_dir = tmp_path / 'work'
    run(config(work_dir, None), search_only=True)
    files, manifest = WorkDir(work_dir), read_manifest(work_dir / 'run.json')
    assert RATING not in manifest.parts
    # as before there was a choice: a run of then has the same settings
    assert not any('selection' in key for part in manifest.parts.values() for key in part.settings)
    assert not files.path_losses.parent.exists()
    assert computed['count'] == 0
    supernet = supernet_of(work_dir)
    path = derive_path(supernet, {'max': LIMIT})
    decision = Decision.parse(work_dir)
    assert decision.arch == ArchSpec.parse(files.arch) == tiny.SPACE.arch(path).replace(bn_eps=1e-5)
    assert (decision.type, decision.score, decision.networks, decision.better) == ('argmax', 'probability', (), None)
    for layer, chosen in zip(decision.layers, (*path[1], *path[2]), strict=True):
        shares = supernet.mixed_layers()[layer.layer].alpha.detach().double().softmax(0)
        assert list(layer.scores.values()) == pytest.approx(shares.tolist())
        assert layer.scores[layer.chosen] == pytest.approx(float(shares[chosen]))
        others = sorted(value for token, value in layer.scores.items() if token != layer.chosen)
        assert layer.lead == pytest.approx(float(shares[chosen]) - others[-1])
        assert layer.certainty == pytest.approx(float(shares[chosen]) / (float(shares[chosen]) + others[-1]))
    text = files.decision.read_text()
    files.decision.unlink()  # an old run has none
    run(config(work_dir, 'argmax'), resume=True, search_only=True)
    assert not files.decision.exists()
    # losses may decide later, of the same search
    run(config(work_dir), resume=True, search_only=True)
    assert Decision.parse(work_dir).type == 'measured'
    assert computed['count'] == len(lines(work_dir)) > 0
    run(config(work_dir, None), resume=True, search_only=True)
    assert files.decision.read_text() == text


def test_a_given_network_was_not_decided(work_dir):
    given = next(
        arch for arch in map(tiny.SPACE.arch, tiny_trials.PATHS[::-1]) if arch != Decision.parse(work_dir).arch
    )
    run(config(work_dir), resume=True, arch=given.format('fna'))
    assert not WorkDir(work_dir).decision.exists()
    assert trained_arch(work_dir) == given


def test_a_limit_that_no_network_meets_and_alpha_that_is_no_number_are_told(work_dir):
    with pytest.raises(ValueError, match=r'cost.max must be at least'):
        run(config(work_dir, limit=COSTS[0] - 1), resume=True, search_only=True)
    checkpoint = find_checkpoint(work_dir).path
    content = torch.load(checkpoint, weights_only=False)
    content['state_dict']['backbone.stages.1.0.alpha'][0] = float('nan')
    torch.save(content, checkpoint)
    with pytest.raises(ResumeError, match=r'no network can be derived: alpha of layer 1.0 must be finite, got nan'):
        run(config(work_dir, limit=LOWER), resume=True, search_only=True)


def test_losses_of_other_processes_are_of_other_batches(finished, monkeypatch):
    manifest = read_manifest(finished / 'run.json')
    one = stamp_of(manifest, 4)
    assert one != stamp_of(manifest, 5)
    monkeypatch.setattr(gradient, 'get_world_size', lambda: 2)
    assert stamp_of(manifest, 4) != one


def select_tool(monkeypatch, *args):
    spec = importlib.util.spec_from_file_location('tools_select', ROOT / 'tools' / 'select_network.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, 'argv', ['select_network.py', *map(str, args)])
    tool.main()


def test_the_tool_chooses_again_and_leaves_the_run_as_it_is(work_dir, tmp_path, monkeypatch, computed, capsys):
    before, file = contents(work_dir), tmp_path / 'tiny.py'
    config(work_dir).dump(file)
    closed = []
    close = Batches.close
    monkeypatch.setattr(Batches, 'close', lambda batches: (closed.append(batches._key[1]), close(batches))[1])
    select_tool(monkeypatch, file, '--out', tmp_path / 'same')
    # the run's own choice, of what the run has measured
    assert computed['count'] == computed_for(tmp_path / 'same' / 'decision.json') == 0
    assert (tmp_path / 'same' / 'arch.json').read_text() == (work_dir / 'derived' / 'arch.json').read_text()
    assert told(tmp_path / 'same' / 'decision.json') == told(work_dir / 'derived' / 'decision.json')
    assert 'selection' in closed
    assert '| 1.0 ' in capsys.readouterr().out
    select_tool(monkeypatch, file, '--max-macs', LOWER)
    lower = Decision.parse(work_dir / 'selected' / 'decision.json')
    assert lower.costs['macs'] <= LOWER
    assert (lower.type, lower.limit) == ('measured', Limit(None, LOWER))
    assert ArchSpec.parse(work_dir / 'selected' / 'arch.json') == lower.arch
    select_again(config(work_dir), tmp_path / 'alpha', 'argmax')
    alpha = Decision.parse(tmp_path / 'alpha' / 'decision.json')
    path = derive_path(supernet_of(work_dir), {'max': LIMIT})
    assert alpha.arch == tiny.SPACE.arch(path).replace(bn_eps=1e-5)
    params = prices(tiny.SPACE, tiny.SIZE, metric='params')
    least = sorted(map(params.path, tiny_trials.PATHS))[6]
    select_again(config(work_dir), tmp_path / 'params', limits={'params': Limit(least, None)})
    large = Decision.parse(tmp_path / 'params' / 'decision.json')
    assert (large.metric, large.limit) == ('params', Limit(least, None))
    assert large.costs['params'] == price(large.arch, tiny.SIZE, metric='params') >= least
    # files of the run are the same; losses were added, and MMEngine's logs, into the same folder within one second
    after = contents(work_dir)
    losses = Path('selection', 'losses.jsonl')
    assert after[losses].startswith(before.pop(losses))
    logs = {name for name in before if name.parts[-2:-1] in ((), ('vis_data',)) and name.suffix == '.py'}
    kept = {name: text for name, text in before.items() if name not in logs}
    assert {name: after[name] for name in kept} == kept


def test_what_the_tool_cannot_do_is_told(work_dir, tmp_path, monkeypatch):
    file = tmp_path / 'tiny.py'
    config(work_dir).dump(file)

    def refused(*args, cfg=file):
        with pytest.raises(SystemExit) as raised:
            select_tool(monkeypatch, cfg, *args)
        return str(raised.value)

    assert 'limits of one metric, got [' in refused('--max-macs', LOWER, '--max-params', 4000)
    assert "metric='latency' needs table" in refused('--max-latency', 3)
    assert 'cost.max must be at least' in refused('--max-macs', 10)
    assert 'macs.min must be at most macs.max' in refused('--max-macs', 10, '--min-macs', 11)
    assert 'selection.first must be a positive integer, got 0' in refused(
        '--cfg-options', 'optim_wrapper.selection.first=0'
    )
    changed = refused('--cfg-options', 'optim_wrapper.weights.optimizer.lr=0.3')
    assert 'was begun with other settings (optim_wrapper.weights.optimizer.lr 0.05 -> 0.3)' in changed
    assert 'holds no finished search' in refused('--work-dir', tmp_path / 'empty')
    assert not (work_dir / 'selected').exists()
    assert not (tmp_path / 'empty' / 'selected').exists()
    plain = tmp_path / 'plain.py'
    cfg = config(work_dir)
    cfg.pop('derived')
    cfg.dump(plain)
    assert 'selected from a search by gradients, and this config describes none' in refused(cfg=plain)
    manifest = (work_dir / 'run.json').read_text()
    searching = read_manifest(work_dir / 'run.json')
    part = searching.parts[SEARCH]
    searching = searching.with_part(SEARCH, type(part)(part.id, part.settings, False, part.notes))
    (work_dir / 'run.json').write_text(searching.format())
    assert 'holds no finished search: run mmnas train --search-only first' in refused()
    (work_dir / 'run.json').write_text(manifest)
    for path in work_dir.glob('*.pth'):
        path.unlink()
    assert 'no whole checkpoint of the search is left in' in refused()


def test_the_tool_explains_itself(monkeypatch, capsys):
    with pytest.raises(SystemExit) as raised:
        select_tool(monkeypatch, '--help')
    assert raised.value.code == 0
    told = capsys.readouterr().out
    assert '--selection {argmax,measured}' in told
    assert all(f'--{bound}-{metric}' in told for bound in ('min', 'max') for metric in ('macs', 'params', 'latency'))


def test_a_latency_is_limited_by_the_configs_table(tmp_path):
    work_dir = tmp_path / 'work'
    table = tmp_path / 'board.json'
    table.write_text(tiny.latency_table().format())
    cfg = config(work_dir, None)
    cfg.optim_wrapper.cost = dict(weight=0.1, metric='latency', table=str(table), max=8.0)
    run(cfg, search_only=True)
    select_again(cfg, tmp_path / 'fast', limits={'latency': Limit(None, 4.0)})
    fast = Decision.parse(tmp_path / 'fast' / 'decision.json')
    assert fast.metric == 'latency'
    assert fast.costs['latency'] == price(fast.arch, tiny.SIZE, metric='latency', table=tiny.latency_table()) <= 4
    # another metric has no table
    select_again(cfg, tmp_path / 'few', limits={'macs': Limit(None, LOWER)})
    assert Decision.parse(tmp_path / 'few' / 'decision.json').costs['macs'] <= LOWER


def test_selections_settings_change_no_search():
    searches = [gradient.GRADIENT.settings(config('w', selection)) for selection in (None, 'argmax', MEASURED)]
    assert searches[0].search == searches[1].search == searches[2].search
    assert searches[0].choice == searches[1].choice
    assert searches[2].choice.items() - searches[0].choice.items() >= {('selection.type', 'measured')}
    assert Choosing.parse(MEASURED).measuring.most == 4


def test_a_front_is_validated_beside_the_choice(tmp_path, monkeypatch):
    """Held-out images, through the config's own validation; written down as they come."""
    work_dir = tmp_path / 'work'
    val = {**tiny.loader_cfg(2, transform='TinyPlain'), 'sampler': {'type': 'DefaultSampler', 'shuffle': False}}
    val['dataset'] = {'type': 'ConcatDataset', 'datasets': [val['dataset']]}  # its transforms are inside
    cfg = config(work_dir, {**MEASURED, 'front': dict(networks=3, least=0.6, images=3, calibration=2)}, **{
        'custom_imports.imports': ['tests.engine.tiny_trials'], 'model.type': 'TinyTried', 'val_cfg': {},
        'val_dataloader': val, 'val_evaluator': {'type': 'TinyCloseness'},
    })  # fmt: skip
    cfg.optim_wrapper.selection.front.rank_by = 'closeness'
    run(cfg, search_only=True)
    front = MeasuredFront.parse(work_dir)
    assert front.rank_by == 'closeness'
    assert [network.arch for network in front.networks if network.origin == 'chosen'] == [Decision.parse(work_dir).arch]
    assert all(0 < network.metrics['closeness'] < 1 for network in front.networks)
    records = [json.loads(line) for line in WorkDir(work_dir).validated.open()]
    assert sorted(r['metrics']['closeness'] for r in records) == sorted(
        network.metrics['closeness'] for network in front.networks
    )
    # nothing is validated again for an equal choice
    monkeypatch.setattr('mmnas_ext.runs.selection.validate', None)
    select_again(cfg, tmp_path / 'again')
    assert MeasuredFront.parse(tmp_path / 'again' / 'front.json') == front
    # another reading of the images or another metric is another validation, of the same super-network
    monkeypatch.undo()
    for number, changes in enumerate((
        {'val_evaluator.prefix': 'other'}, {'val_dataloader.dataset.datasets': [tiny.loader_cfg(2)['dataset']]},
    )):  # fmt: skip
        cfg.optim_wrapper.selection.front.rank_by = None
        cfg.merge_from_dict(changes)
        select_again(cfg, tmp_path / 'others') if number else run(cfg, resume=True, search_only=True)
        more = [json.loads(line) for line in WorkDir(work_dir).validated.open()][len(records) :]
        assert [r['path'] for r in more] == [r['path'] for r in records[: len(more)]]
        assert not {r['stamp'] for r in more} & {r['stamp'] for r in records}
        records += more
        assert number or ('other/closeness' in MeasuredFront.parse(work_dir).networks[0].metrics)
    # a run of before the validation was noted is not chosen again for that
    manifest = read_manifest(WorkDir(work_dir).manifest)
    part = manifest.parts[DERIVE]
    older = replace(part, settings={key: each for key, each in part.settings.items() if key != 'selection.evaluation'})
    assert older != part
    write_text(WorkDir(work_dir).manifest, manifest.with_part(DERIVE, older).format())
    monkeypatch.setattr('mmnas_ext.runs.selection.validate', None)
    run(cfg, resume=True, search_only=True)


@pytest.mark.parametrize(('parts', 'stays'), [({SEARCH: Part('a')}, False), ({ADAPT: Part('a')}, True), (None, True)])
def test_another_choice_goes_with_its_search_and_what_is_trained_stays(tmp_path, parts, stays):
    files = WorkDir(tmp_path / 'work')
    write_text(files.selected / 'arch.json', 'chosen')
    if parts is not None:
        write_text(files.manifest, Manifest('a', 'gradient', parts).format())
    clear(config(files.root, None))
    assert files.selected.exists() == stays
    moved = list(files.root.glob('before_*/selected/arch.json'))
    assert len(moved) == (not stays)


COCO = dict(type='CocoMetric', ann_file='a/val.json')


@pytest.mark.parametrize(
    ('files', 'evaluator', 'message'),
    [
        (['a.json', 'b.json'], COCO, 'front validates networks on held-out .* are in 2 files'),
        (['a.json', 'b.json'], [dict(type='Other'), COCO], 'are in 2 files'),
        (['a.json', 'a.json'], COCO, None),
        (['a.json', 'b.json'], dict(type='CocoMetric'), None),
        (['a.json'], None, 'front validates networks, but the config has no val_evaluator'),
    ],
)
def test_what_cannot_be_validated_on_held_out_images_is_told_before_the_search(files, evaluator, message):
    datasets = [dict(type='CocoDataset', data_root='d', ann_file=file) for file in files]
    loader = dict(dataset=dict(type='ConcatDataset', datasets=datasets))
    cfg = Config(dict(train_dataloader=loader, val_dataloader=dict(dataset=datasets[0]), val_evaluator=evaluator))
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        check_validating(cfg, 'front')
