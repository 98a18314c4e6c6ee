"""From a search to an ordinary config: nothing of the search is left in it, and any process can go on with it."""

import copy
import multiprocessing
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmnas_ext.archs import ArchSpec, LatencyTable, entries
from mmnas_ext.backbones import SuperNet
from mmnas_ext.engine import DeriveHook
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.run import run
from mmnas_ext.workdir import write_text
from tests.engine import processes, tiny
from tests.engine.kept import loaded, train

ARCH = tiny.SPACE.arch(((0,), (1, 2), (0,)))
SEARCH_WORDS = ('SuperNet', 'SearchEpochLoop', 'SearchOptimWrapperConstructor', 'SearchMonitorHook', 'DeriveHook')


@pytest.fixture(scope='module')
def searched(tmp_path_factory):
    """A work dir of a whole run, search and adaptation."""
    work_dir = tmp_path_factory.mktemp('searched') / 'run'
    run(tiny.search_cfg(work_dir))
    return work_dir


def final(work_dir, name='epoch_4.pth'):
    return loaded(work_dir / name)


def network_of_largest_alphas(state):
    path = [int(state[f'backbone.stages.{name}.alpha'].argmax()) for name in ('1.0', '1.1', '2.0')]
    return tiny.SPACE.arch(((0,), tuple(path[:2]), (path[2],)))


def test_what_a_search_finds_is_written_down(searched):
    state = final(searched)['state_dict']
    wanted = network_of_largest_alphas(state)
    assert ArchSpec.parse(searched / 'derived' / 'arch.json') == wanted.replace(bn_eps=1e-5)
    text = (searched / 'derived' / 'config.py').read_text()
    assert [word for word in SEARCH_WORDS if word in text] == []
    cfg = Config.fromfile(searched / 'derived' / 'config.py')
    assert cfg.train_cfg == {'type': 'EpochBasedTrainLoop', 'max_epochs': 2}
    assert cfg.optim_wrapper == {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.05, 'momentum': 0.9}}
    assert cfg.model.backbone == {
        'type': 'mmnas_ext.MBNet', 'out_indices': (2,), 'arch': wanted.format('fna'),
        'norm_cfg': {'type': 'BN', 'eps': 1e-5},
    }  # fmt: skip
    assert cfg.model.dropout == 0.1
    assert not {'derived', 'work_dir', 'launcher', 'resume', 'load_from'} & set(cfg)


@pytest.mark.parametrize('metric', ['macs', 'latency'])
def test_what_is_found_is_logged_with_its_cost_at_the_output_stride_of_the_search(tmp_path, metric):
    size, said = (64, 64), []
    layers = entries(tiny.STRIDED, size, 8)
    table = LatencyTable('a board', 1, tuple((layer, 0.5) for layer in layers)) if metric == 'latency' else None
    net = {'space': tiny.STRIDED.format(), 'out_indices': (3,), 'input_size': size, 'output_stride': 8}
    model, wrapper = tiny.build(net, tiny.optim_cfg(cost={'metric': metric, 'table': table}))
    for alpha in model.backbone.arch_parameters():
        alpha.data.zero_()
    cfg = tiny.search_cfg(tmp_path)
    logger = SimpleNamespace(info=said.append)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, cfg=cfg, work_dir=str(tmp_path), logger=logger)
    DeriveHook().after_train(runner)
    # stem and first layer at 32x32, then the first candidates: strides leave 16x16 and 8x8, and there the last layer
    # stays, dilated
    macs = (27 * 8 + 9 * 8 + 8 * 4) * 32**2 + 4 * 12 * 32**2 + (9 * 12 + 12 * 8) * 16**2
    macs += (8 * 24 + 9 * 24 + 24 * 8) * 16**2 + 8 * 24 * 16**2 + (9 * 24 + 24 * 8) * 8**2
    macs += (8 * 24 + 9 * 24 + 24 * 8) * 8**2
    (text,) = said
    assert f': {macs / 1e9:.4g} G multiply-adds, ' in text
    # stem and five layers
    assert ('M parameters, 3 ms; written to' in text) == (metric == 'latency')


def test_a_snapshot_of_every_epoch_can_be_trained(searched, tmp_path):
    snapshots = sorted((searched / 'derived' / 'snapshots').iterdir())
    assert [path.name for path in snapshots] == [f'epoch_{number}.json' for number in (1, 2, 3, 4)]
    for number in (3, 4):  # the checkpoints that were kept
        state = final(searched, f'epoch_{number}.pth')['state_dict']
        assert ArchSpec.parse(snapshots[number - 1]) == network_of_largest_alphas(state).replace(bn_eps=1e-5)
    chosen = ARCH.replace(bn_eps=1e-3)
    write_text(tmp_path / 'epoch_2.json', chosen.format('json'))
    work_dir = tmp_path / 'run'
    run(tiny.search_cfg(work_dir), arch=str(tmp_path / 'epoch_2.json'))
    assert not (work_dir / 'epoch_4.pth').exists()
    assert ArchSpec.parse(work_dir / 'derived' / 'arch.json') == chosen
    built = Config.fromfile(work_dir / 'derived' / 'config.py').model.backbone
    assert (built.arch, built.norm_cfg.eps) == (ARCH.format('fna'), 1e-3)
    assert (work_dir / 'adapt' / 'epoch_2.pth').is_file()


def outputs_in_a_fresh_process(work_dir, result):
    cfg = Config.fromfile(f'{work_dir}/derived/config.py')
    model = MODELS.build(cfg.model)
    model.load_state_dict(torch.load(f'{work_dir}/adapt/plain.pth', weights_only=True))
    model.eval()
    torch.save(model(**tiny.batch()), result)


def test_the_trained_network_computes_the_same_in_a_fresh_process(searched, tmp_path):
    state = final(searched, 'adapt/epoch_2.pth')['state_dict']
    torch.save(state, searched / 'adapt' / 'plain.pth')
    log = tmp_path / 'log.txt'
    process = processes.start(outputs_in_a_fresh_process, str(searched), str(tmp_path / 'out.pth'), log=log)
    processes.complete(process, log)
    model = MODELS.build(Config.fromfile(searched / 'derived' / 'config.py').model)
    model.load_state_dict(state)
    model.eval()
    with torch.no_grad():
        wanted = model(**tiny.batch())
    torch.testing.assert_close(torch.load(tmp_path / 'out.pth', weights_only=True), wanted, rtol=0, atol=1e-6)
    assert wanted.abs().sum() > 0


def test_a_derived_config_leaves_the_search_as_it_is(tmp_path):
    cfg = tiny.search_cfg(tmp_path)
    before = copy.deepcopy(cfg.to_dict())
    first = derived_config(cfg, ARCH)
    assert cfg.to_dict() == before
    assert derived_config(cfg, ARCH).to_dict() == first.to_dict()


def test_everything_else_is_merged_as_configs_inherit(tmp_path):
    cfg = tiny.search_cfg(tmp_path)
    cfg.derived.train_dataloader = {'batch_size': 3}
    cfg.derived.default_hooks.logger = {'_delete_': True, 'type': 'LoggerHook'}
    found = derived_config(cfg, ARCH)
    assert found.train_dataloader == {**tiny.search_cfg(tmp_path).train_dataloader, 'batch_size': 3}
    assert found.default_hooks.logger == {'type': 'LoggerHook'}
    assert found.default_hooks.checkpoint == {
        'type': 'CheckpointHook', 'interval': 1, 'by_epoch': True, 'max_keep_ckpts': 2,
    }  # fmt: skip
    assert found.randomness == {'seed': 3}


@pytest.mark.parametrize(('given', 'wanted'), [
    (None, {'type': 'BN', 'eps': 1e-3}),
    ({'type': 'SyncBN'}, {'type': 'SyncBN', 'eps': 1e-3}),
    ({'type': 'BN', 'eps': 1e-2}, {'type': 'BN', 'eps': 1e-2}),
])  # fmt: skip
def test_the_epsilon_of_the_network_goes_into_its_norms(tmp_path, given, wanted):
    cfg = tiny.search_cfg(tmp_path)
    if given:
        cfg.derived.model.backbone.norm_cfg = given
    assert derived_config(cfg, ARCH.replace(bn_eps=1e-3)).model.backbone.norm_cfg == wanted


def test_activation_and_head_are_part_of_the_network(tmp_path):
    arch = ARCH.replace(act='swish', head_channels=24)
    assert ArchSpec.parse(derived_config(tiny.search_cfg(tmp_path), arch).model.backbone.arch) == arch


LEFT = {
    'custom_hooks': ['DeriveHook', 'SearchMonitorHook'],
    'model': ['SuperNet'],
    'train_cfg': ['SearchEpochLoop'],
    'optim_wrapper': ['SearchOptimWrapperConstructor'],
}


@pytest.mark.parametrize('key', LEFT)
def test_a_class_of_the_search_that_stays_is_named(tmp_path, key):
    cfg = tiny.search_cfg(tmp_path)
    del cfg.derived[key]
    with pytest.raises(ValueError, match=r'derived=dict\(…\) leaves \[.*\] of the search in place: say') as error:
        derived_config(cfg, ARCH)
    assert str(LEFT[key]) in str(error.value)


def test_a_config_without_a_second_half_says_so(tmp_path):
    cfg = tiny.search_cfg(tmp_path)
    cfg.pop('derived')
    with pytest.raises(ValueError, match='no derived=dict.*it describes no search'):
        derived_config(cfg, ARCH)


@pytest.mark.parametrize('spoil', [lambda cfg: cfg.pop('derived'), lambda cfg: cfg.update(extra=None)])
def test_what_cannot_be_derived_is_not_searched_for(tmp_path, spoil):
    cfg = tiny.search_cfg(tmp_path)
    cfg.derived.extra = {'merged': 'into nothing'}
    spoil(cfg)
    with pytest.raises(ValueError, match=r'derived=dict\(…\)'):
        run(cfg)
    assert list(tmp_path.glob('*.pth')) == []


def hook_runner(tmp_path, loop):
    """A search of one step, to see what the hook writes when."""
    if loop == 'one epoch':
        return tiny.search_cfg(tmp_path, **{'train_cfg.max_epochs': 1, 'train_cfg.arch_start': 0})
    return tiny.search_cfg(tmp_path, 'iter')


@pytest.mark.parametrize(('loop', 'interval', 'names'), [
    ('one epoch', None, ['epoch_1']),
    ('iterations', None, [f'iter_{n}' for n in range(1, 13)]),
    ('iterations', 5, ['iter_10', 'iter_5']),
])  # fmt: skip
def test_snapshots_are_counted_in_the_loops_own_unit(tmp_path, loop, interval, names):
    cfg = hook_runner(tmp_path, loop)
    cfg.custom_hooks[0].interval = interval
    train(cfg, resume=False)
    assert sorted(path.stem for path in (tmp_path / 'derived' / 'snapshots').iterdir()) == sorted(names)


def test_an_iteration_loop_takes_fifty_snapshots_of_many_iterations(tmp_path):
    hook, taken = DeriveHook(), []
    hook._snapshot = lambda runner, name: taken.append(name)
    for iteration in range(1000):
        runner = SimpleNamespace(train_loop=object(), iter=iteration, max_iters=1000)
        hook.after_train_iter(runner, 0)
    assert taken == [f'iter_{n}' for n in range(20, 1001, 20)]


def test_the_limit_holds_for_what_is_derived(tmp_path):
    target = tiny.MACS['fixed'] + 6336 + 9600  # the cheapest of all
    cfg = tiny.search_cfg(tmp_path, **{'optim_wrapper.cost.target': target})
    run(cfg, search_only=True)
    cheapest = tiny.SPACE.arch(((0,), (0, 2), (0,))).replace(bn_eps=1e-5)
    assert ArchSpec.parse(tmp_path / 'derived' / 'arch.json') == cheapest


def test_the_super_networks_epsilon_is_the_found_networks(tmp_path):
    run(tiny.search_cfg(tmp_path, **{'model.backbone.norm_cfg': {'type': 'BN', 'eps': 1e-3}}), search_only=True)
    assert ArchSpec.parse(tmp_path / 'derived' / 'arch.json').bn_eps == 1e-3
    assert Config.fromfile(tmp_path / 'derived' / 'config.py').model.backbone.norm_cfg.eps == 1e-3
    assert not (tmp_path / 'adapt').exists()


@pytest.mark.parametrize('interval', [0, -3])
def test_an_interval_of_snapshots_is_positive(interval):
    with pytest.raises(ValueError, match=f'interval must be at least 1, got {interval}'):
        DeriveHook(interval)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'deep' / 'file.json'
    write_text(path, 'first')
    assert path.read_text() == 'first'
    seen = []

    def interrupted(source, target):
        seen.append((path.read_text(), os.path.basename(source)))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, 'second')
    assert path.read_text() == 'first'
    assert seen[0][0] == 'first'
    assert seen[0][1] != 'file.json'


def test_a_network_that_no_path_gives_can_be_trained_too(tmp_path):
    """--arch takes any network, not only one of the space."""
    wider = ArchSpec.parse("[[8, 4], ['k3_e1'], 1]|[[4, 12], ['k7_e6'], 2]|[[12, 6], ['k3_e3_se0.25'], 1]")
    assert wider not in tiny.SPACE
    run(tiny.search_cfg(tmp_path), arch=wider.format('json'))
    state = final(tmp_path, 'adapt/epoch_2.pth')['state_dict']
    assert state['backbone.stages.1.0.depthwise.conv.weight'].shape == (24, 1, 7, 7)
    assert isinstance(MODELS.build(tiny.supernet_cfg()), SuperNet)


def test_processes_are_forked_from_one_without_threads():
    assert multiprocessing.get_context('forkserver').get_start_method() == 'forkserver'
    assert 'torch' in sys.modules
