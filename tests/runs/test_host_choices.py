"""A search of whole detectors: what it costs, both halves of its config, and runs from end to end."""

import copy
import json
import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmnas_ext.archs import ArchSpec, HostChoice, Limit, SearchSpace, SpaceStage, cost
from mmnas_ext.datasets import make_detection
from mmnas_ext.engine.limits import CostTerm
from mmnas_ext.engine.loops import Alternation
from mmnas_ext.engine.optim import SearchOptimWrapperConstructor
from mmnas_ext.engine.seeding import generator
from mmnas_ext.engine.whole import price_wholes
from mmnas_ext.reports.charts import decision_chart
from mmnas_ext.reports.measured import front_cells
from mmnas_ext.reports.result import limit_words
from mmnas_ext.reports.table import format_cost, format_size
from mmnas_ext.runs.checkpoints import find_checkpoint
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.ending import describe_end
from mmnas_ext.runs.front_runs import pick_network, take_host
from mmnas_ext.runs.gradient import GRADIENT
from mmnas_ext.runs.host_choices import (
    chosen_config,
    own_choice,
    read_choices,
    search_config,
    whole_cost,
)
from mmnas_ext.runs.manifest import DERIVE, SEARCH, ResumeError, read_manifest
from mmnas_ext.runs.prepared import scope_of
from mmnas_ext.runs.resolve import resolve
from mmnas_ext.runs.run import run
from mmnas_ext.runs.select_again import select_again
from mmnas_ext.runs.whole_selection import WholeSelector
from mmnas_ext.search.decision import Decision
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.workdir import WorkDir
from tests.engine.kept import loaded
from tests.engine.tiny_seg import KilledError
from tests.small import read

OWN = HostChoice((64, 64), 8, 1)
OFFERED = dict(input_size=[(48, 48), (64, 64)], neck_width=[8, 16], stacked_convs=[1, 2])
FEW = dict(input_size=[(48, 48), (64, 64)], neck_width=[8, 16])
SPACE = SearchSpace(
    (
        SpaceStage(8, 8, (('k3_e1',),), 1),
        SpaceStage(8, 8, (('k3_e3', 'k5_e3'),), 2),
        SpaceStage(8, 12, (('k3_e3', 'k5_e6'),), 2),
        SpaceStage(12, 16, (('k3_e3', 'k5_e3'),), 2),
    )
)
SELECTION = dict(
    type='measured', first=1, networks=1, rounds=1, batches=1, most=1, finalists=1, certain=0.0,
    front=dict(networks=3, images=None, calibration=1),
)  # fmt: skip


@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp('shapes') / 'det'
    make_detection(root, train=8, val=2, size=(96, 96))
    return root


def config(work_dir='work', shapes='data', choices=FEW, limit=1e9, **changes):
    """The demo's detector around a backbone of three searched layers, in a host of 8 channels at 64 px."""
    cfg = copy.deepcopy(read('demo_fna_retinanet.py'))
    cfg.merge_from_dict({
        'work_dir': str(work_dir), 'log_level': 'ERROR', 'custom_hooks': [dict(type='mmnas_ext.DeriveHook')],
        'model.backbone.input_size': (64, 64),
        'model.backbone.out_indices': (2, 3), 'model.backbone.init_cfg': None,
        'model.neck.in_channels': [12, 16], 'model.neck.start_level': 0, 'model.neck.num_outs': 3,
        'model.neck.out_channels': 8, 'model.bbox_head.in_channels': 8, 'model.bbox_head.feat_channels': 8,
        'model.bbox_head.stacked_convs': 1, 'model.bbox_head.anchor_generator.strides': [8, 16, 32],
        'optim_wrapper.keep_seed': 0.0, 'optim_wrapper.selection': SELECTION,
        'train_dataloader.batch_size': 2, 'train_cfg.max_epochs': 1, 'train_cfg.arch_start': 0,
        'derived.train_dataloader.batch_size': 8, 'derived.train_cfg.max_epochs': 1,
        'derived.train_cfg.val_interval': 1, 'host_choices': choices, 'model.test_cfg.score_thr': 0.0,
    })  # fmt: skip
    for name in ('train', 'val', 'test'):
        dataset = cfg[f'{name}_dataloader'].dataset
        dataset.data_root = f'{shapes}/'
        next(step for step in dataset.pipeline if step['type'] == 'Resize')['scale'] = (64, 64)
        if name != 'train':
            cfg[f'{name}_evaluator'].ann_file = f'{shapes}/annotations/instances_val2017.json'
    cfg.model.backbone.space = json.loads(SPACE.format())
    cfg.optim_wrapper.cost = dict(weight=0.1, max=limit)
    cfg.merge_from_dict(changes)
    return resolve(cfg)


def counted(choice):
    """Multiply-adds of neck and head by hand: 12 and 16 channels at strides 8 and 16, one level more, 9 anchors."""
    width, convs = choice.neck_width, choice.stacked_convs
    side = choice.input_size[0]
    first, second, third = (side // 8) ** 2, (side // 16) ** 2, {48: 2, 64: 2}[side] ** 2  # half of 3 is rounded up
    neck = width * (12 * first + 16 * second + 9 * width * (first + second) + 9 * 16 * third)
    a_position = 9 * width * (2 * convs * width + 9 * 8 + 9 * 4)
    return neck + a_position * (first + second + third)


def scales(half):
    found = [half[f'{name}_dataloader'].dataset.pipeline for name in ('train', 'val', 'test')]
    return [next(step['scale'] for step in pipeline if step['type'] == 'Resize') for pipeline in found]


def widths(half):
    model = half.model
    return model.neck.out_channels, model.bbox_head.in_channels, model.bbox_head.feat_channels


# costs


def test_neck_and_head_are_counted_as_by_hand():
    choices = read_choices(config(choices=OFFERED))
    assert own_choice(config()) == OWN
    assert len(choices.all()) == 8
    for choice in choices.all():
        assert choices.cost(choice, 'macs') == counted(choice)
    # weights and biases: two laterals, two outputs, the extra level, two branches, two predictions; here no norms
    parts = 12 * 8 + 16 * 8 + 2 * 9 * 64 + 9 * 16 * 8 + 5 * 8 + 2 * (9 * 64 + 8) + 9 * 8 * 108 + 108
    assert choices.cost(OWN, 'params') == parts


def test_the_limit_seed_is_the_seeds_whole_detector():
    cfg = read('fna_retinanet_mbv2_photos5_whole.py')
    plain = read('fna_retinanet_mbv2_photos5.py')
    assert plain.optim_wrapper.cost.target == 570252800
    # 64 channels, two convolutions, 32 to 320 channels at strides 8 to 32 of 320 px, two levels more, by hand
    levels = [1600, 400, 100, 25, 9]
    neck = 64 * (32 * 1600 + 96 * 400 + 320 * 100 + 9 * 64 * (2100 + 9) + 9 * 320 * 25)
    head = 9 * 64 * (4 * 64 + 9 * 5 + 9 * 4) * sum(levels)
    assert cfg.optim_wrapper.cost.target == 570252800 + neck + head
    share = copy.deepcopy(cfg)
    share.optim_wrapper.cost = dict(max='0.5 seed')
    assert resolve(share).optim_wrapper.cost.max == 0.5 * (570252800 + neck + head)


def test_prices_are_of_whole_detectors():
    cfg = config(choices=OFFERED)
    wholes = price_wholes(CostTerm(), read_choices(cfg), SPACE)
    assert len(wholes) == 8
    for choice, priced in wholes.items():
        for path in (((0,), (0,), (0,), (0,)), ((0,), (1,), (1,), (1,))):
            whole = cost(SPACE.arch(path), choice.input_size).macs + counted(choice)
            assert priced.path(path) == whole
    with pytest.raises(ValueError, match=r'no whole detector of host_choices costs at most .*, though they cost .* to'):
        GRADIENT.check(config(choices=OFFERED, limit=1000.0), None, False)


# both halves


def test_the_search_has_the_widest_host_and_the_second_half_the_chosen_one():
    cfg = config(choices=OFFERED)
    before = copy.deepcopy(cfg.to_dict())
    search = search_config(cfg)
    assert widths(search) == (16, 16, 16)
    assert search.model.bbox_head.stacked_convs == 2
    assert scales(search) == [(64, 64)] * 3
    arch = next(SPACE.sample(0, 1))
    for text, (size, width, convs) in {'48x48-w16-c2': (48, 16, 2), None: (64, 8, 1)}.items():
        if text is not None:
            cfg.host_choice = text
        half = GRADIENT.derive(cfg, arch)
        assert widths(half) == (width,) * 3 if text else widths(half) == (8, 8, 8)
        assert half.model.bbox_head.stacked_convs == convs
        assert scales(half) == [(size, size)] * 3
        assert not {'host_choices', 'host_choice', 'size', 'shapes'} & {*half}
        assert half.model.backbone.type == 'mmnas_ext.MBNet'
        cfg.pop('host_choice', None)
    assert cfg.to_dict() == before  # what is given is left as it is
    chosen = copy.deepcopy(cfg)
    chosen.host_choice = '48x48-w8-c1'
    assert scales(chosen_config(chosen)) == [(48, 48)] * 3


def test_without_choices_both_halves_are_the_config_itself():
    cfg = config(choices=None)
    assert search_config(cfg) is cfg
    assert chosen_config(cfg) is cfg
    assert 'host_choices' not in json.dumps(GRADIENT.settings(cfg).search)


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'optim_wrapper.selection': dict(type='argmax')}, "needs optim_wrapper.selection=dict.type='measured'"),
        ({'derived': None}, 'in this one it has no effect'),
        ({'random_search': dict(count=1)}, 'search by gradients: beside random_search it has no effect'),
        ({'evolution': dict(population=4)}, 'search by gradients: beside evolution it has no effect'),
        (
            {'evolution': dict(population=4), 'optim_wrapper.selection': None},
            'search by gradients: beside evolution it has no effect',
        ),
        ({'derived.host_choices': FEW}, 'derived.host_choices has no effect'),
        ({'host_choices': None, 'host_choice': '64x64-w8-c1'}, 'host_choice is one of host_choices'),
    ],
)
def test_choices_that_nothing_reads_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        config(**changes)


GROUPS = dict(type='GN', num_groups=2)


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (
            {'model.bbox_head.feat_channels': 16},
            'needs the same number written in neck.out_channels, bbox_head.in_chan',
        ),
        ({'derived.model.neck': dict(out_channels=8)}, 'derived.model.neck.out_channels has no effect beside'),
        ({'model.bbox_head.norm_cfg': GROUPS}, 'needs norms by channel: RetinaHead or its neck has GroupNorm'),
        ({'model.bbox_head.type': 'RetinaSepBNHead', 'model.bbox_head.num_ins': 3}, 'RetinaSepBNHead has none'),
        ({'model.roi_head': dict(type='StandardRoIHead')}, r"single-stage detectors.*this one has \['roi_head'\]"),
        ({'model.neck': dict(type='NASFPN', stack_times=1, num_outs=5)}, 'cannot narrow|no argument|cannot'),
        ({'host_choice': '48x48-w8-c1'}, 'host_choice goes with --arch'),
        ({'optim_wrapper.host_choices': FEW, 'host_choices': None}, 'must stand at the top of the config'),
    ],
)
def test_hosts_that_cannot_be_made_smaller_are_refused(changes, said):
    if 'model.neck' in changes:
        cfg = config()
        cfg.model.neck = dict(type='PAFPN', in_channels=[12, 16], out_channels=8, num_outs=3, norm_cfg=GROUPS)
        said = 'needs norms by channel'
    else:
        cfg = config(**changes)
    with pytest.raises(ValueError, match=said):
        GRADIENT.check(cfg, None, False)


def test_convolutions_alone_may_be_chosen_beside_group_norm():
    cfg = config(choices=dict(stacked_convs=[1, 2]), **{'model.bbox_head.norm_cfg': GROUPS})
    assert [each.format() for each in read_choices(cfg).all()] == ['64x64-w8-c1', '64x64-w8-c2']


def test_a_step_has_the_host_that_seed_and_number_draw():
    cfg = config()
    with scope_of(cfg):
        model = MODELS.build(search_config(cfg).model)
        settings = [dict(each.optim_wrapper) for each in (search_config(cfg), config(choices=None))]
        assert [each.pop('constructor') for each in settings] == ['mmnas_ext.SearchOptimWrapperConstructor'] * 2
        wrapper = SearchOptimWrapperConstructor(settings[0])(model)
        plain = SearchOptimWrapperConstructor(settings[1])(MODELS.build(cfg.model))
    assert plain.host is None
    drawn = []
    for phase in ('weights', 'arch'):
        for number in range(30):
            for each in (wrapper, plain):
                each.start(phase, number, 3)
            drawn.append(wrapper.host.choice)
            assert drawn[-1] == wrapper.host.sample(generator(f'host of {phase}', 3, number))
            # paths are those of a search of the backbone
            assert wrapper.draw.get_state().equal(plain.draw.get_state())
    assert {each.format() for each in drawn} == {'48x48-w8-c1', '48x48-w16-c1', '64x64-w8-c1', '64x64-w16-c1'}
    # the limit and the log count the config's own host
    path = ((0,), (1,), (0,), (1,))
    assert wrapper.prices.path(path) == cost(SPACE.arch(path), (64, 64)).macs + counted(OWN)


# runs


@pytest.fixture(scope='module')
def finished(tmp_path_factory, shapes):
    folder = tmp_path_factory.mktemp('whole') / 'work'
    limit = cost(SPACE.arch(((0,), (0,), (0,), (0,))), OWN.input_size).macs + counted(OWN) + 40_000
    cfg = config(folder, shapes, limit=float(limit))
    prepared = check_config(cfg)
    run(cfg, prepared=prepared)
    return folder, limit


@pytest.fixture
def work(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / 'work')


def test_one_limit_covers_the_detector_and_the_chosen_host_is_trained(finished):
    folder, limit = finished
    decision = Decision.parse(folder)
    assert Decision.parse(json.loads(decision.format())) == decision
    chosen = HostChoice.parse(decision.host.choice)
    whole = cost(decision.arch, chosen.input_size)
    assert decision.costs['macs'] == whole.macs + counted(chosen._replace(stacked_convs=1)) <= limit
    assert decision.limit.max == limit
    assert decision.host.own == OWN.format()
    assert decision.host.metric == 'coco/bbox_mAP'
    assert [part.layer for part in decision.host.parts] == ['input_size', 'neck_width']
    # 16 channels at 64 px cost more than the limit with any backbone
    assert counted(HostChoice((64, 64), 16, 1)) > limit
    assert not any('64x64-w16' in each.choice for each in decision.host.compared)
    assert all(each.cost <= limit for each in decision.host.compared)
    for text in (chosen.format(), 'neck and head included', 'coco/bbox_mAP'):
        assert text in decision.describe() + decision.table()
    # the search's host is the widest, what is trained has the chosen one, in its weights and images
    searched = loaded(find_checkpoint(folder).path)['state_dict']
    trained = loaded(find_checkpoint(folder / 'adapt').path)['state_dict']
    assert searched['neck.fpn_convs.0.conv.weight'].shape[:2] == (16, 16)
    assert trained['neck.fpn_convs.0.conv.weight'].shape[:2] == (chosen.neck_width,) * 2
    half = Config.fromfile(WorkDir(folder).config)
    assert widths(half) == (chosen.neck_width,) * 3
    assert scales(half) == [chosen.input_size] * 3
    manifest = read_manifest(folder / 'run.json')
    assert manifest.parts[DERIVE].notes['host'] == chosen.format()
    settings = manifest.parts[SEARCH].settings
    assert settings['optim_wrapper.host_choices.neck_width'] == [8, 16]
    assert not any('costs' in key for key in settings)


def test_the_front_is_of_whole_detectors(finished):
    folder, limit = finished
    front = MeasuredFront.find(folder)
    assert MeasuredFront.parse(front.plain()) == front
    for network in front.networks:
        host = HostChoice.parse(network.host)
        assert network.costs['macs'] == cost(network.arch, host.input_size).macs + counted(host)
        assert network.metrics['coco/bbox_mAP'] >= 0
    decision = Decision.parse(folder)
    chosen = next(each for each in front.points if each.origin == 'chosen')
    assert (chosen.host, chosen.arch) == (decision.host.choice, decision.arch)
    assert all(each.costs['macs'] <= limit for each in front.points)


def test_reports_say_the_host(finished):
    folder, _ = finished
    front, decision = MeasuredFront.find(folder), Decision.parse(folder)
    head, *rows = front_cells(front)
    assert [row[head.index('host')] for row in rows] == [network.host for network in front.networks]
    (bars,) = decision_chart(decision).data
    names = [name.split()[0] for name in bars.y]
    assert names == [*(layer.layer for layer in decision.layers), 'input_size', 'neck_width']
    assert any('in coco/bbox_mAP' in text for text in bars.hovertext)
    cfg = Config(dict(work_dir=str(folder)))
    told = describe_end(cfg, read_manifest(folder / 'run.json'))
    assert f'host       {decision.host.choice}; the whole detector: ' in told
    assert told.splitlines()[0].endswith(f'at {format_size(HostChoice.parse(decision.host.choice).input_size)}')
    assert 'of the whole detector; host ' in limit_words(None, decision)
    half = Config.fromfile(WorkDir(folder).config)
    assert whole_cost(half)[0] == decision.costs['macs']
    assert whole_cost(half)[1] == decision.costs['params']


def test_a_network_is_picked_with_its_host(finished, shapes):
    folder, limit = finished
    front = MeasuredFront.find(folder)
    for number, network in enumerate(front.points):
        cfg = config(folder, shapes, limit=float(limit))
        assert pick_network(cfg, number) == network.arch.format('fna')
        assert cfg.host_choice == network.host
        half = GRADIENT.derive(cfg, network.arch)
        assert widths(half) == (HostChoice.parse(network.host).neck_width,) * 3


def test_another_limit_chooses_again_within_the_whole_detector(work, finished, shapes, tmp_path, capsys):
    cheapest = min(HostChoice(size, 8, 1) for size in ((48, 48), (64, 64)))
    lower = cost(SPACE.arch(((0,), (0,), (0,), (0,))), cheapest.input_size).macs + counted(cheapest)
    cfg = config(work, shapes, limit=float(finished[1]))
    before = len(WorkDir(work).validated.read_text().splitlines())
    capsys.readouterr()
    select_again(cfg, tmp_path / 'out', limits={'macs': Limit(None, lower)})
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line[:1].isalpha())
    bare = cost(SPACE.arch(((0,), (0,), (0,), (0,))), (48, 48)).macs
    assert told['chosen'].startswith(f'{format_cost("macs", bare)} MAdds')
    assert told['chosen'].endswith(f'at {format_size((48, 48))}')
    assert told['host'].startswith(f'48x48-w8-c1; the whole detector: {format_cost("macs", lower)} MAdds')
    decision = Decision.parse(tmp_path / 'out' / 'decision.json')
    assert decision.host.choice == cheapest.format()
    assert decision.costs['macs'] == lower
    assert len(WorkDir(work).validated.read_text().splitlines()) > before
    # the file beside says which host belongs to the network
    given = config(tmp_path / 'given', shapes, limit=float(finished[1]))
    take_host(given, str(tmp_path / 'out' / 'arch.json'))
    assert given.host_choice == cheapest.format()
    plain = config(tmp_path / 'given', shapes, limit=float(finished[1]))
    take_host(plain, SPACE.arch(((0,), (0,), (0,), (0,))).format('fna'))
    assert plain.get('host_choice') is None
    with pytest.raises(ValueError, match="selection of type 'measured'"):
        select_again(cfg, tmp_path / 'other', kind='argmax')
    given.work_dir = cfg.work_dir
    with pytest.raises(ValueError, match='host_choice goes with --arch'):
        select_again(given, tmp_path / 'other')


@pytest.mark.parametrize('choose', ['select', 'resume'])
def test_another_evaluator_measures_detectors_anew(choose, work, finished, shapes, tmp_path):
    cfg = config(work, shapes, limit=float(finished[1]), **{'val_evaluator.proposal_nums': (1, 5, 10)})
    file = WorkDir(work).validated
    before = [json.loads(line) for line in file.open()]
    if choose == 'select':
        select_again(cfg, tmp_path)
    else:
        run(cfg, resume=True, search_only=True)
    after = [json.loads(line) for line in file.open()][len(before) :]
    # parts of the images for the choice, all of them for the front; what both chose is measured by both
    kinds = ['part' in record['stamp'] for record in after]
    assert (True in kinds, False in kinds) == (True, True)
    known = {record['stamp'] for record in before}
    assert not any(record['stamp'] in known for record in after)


def test_the_config_in_a_work_dir_is_that_of_the_search(finished, shapes):
    folder, limit = finished
    (file,) = folder.glob('*.py')
    again = resolve(Config.fromfile(file))
    assert own_choice(again) == OWN
    assert 'host_choices' not in again.optim_wrapper
    assert search_config(again).optim_wrapper == search_config(config(folder, shapes, limit=float(limit))).optim_wrapper


def test_choices_decide_the_search_and_a_done_run_is_left(work, finished, shapes, capsys):
    limit = float(finished[1])
    before = {path: path.read_bytes() for path in work.rglob('*.pth')}
    run(config(work, shapes, limit=limit), resume=True)
    assert 'nothing is left to train' in capsys.readouterr().out
    assert {path: path.read_bytes() for path in work.rglob('*.pth')} == before
    others = {**FEW, 'neck_width': [8, 12]}
    with pytest.raises(ResumeError, match='was begun with other settings'):
        run(config(work, shapes, choices=others, limit=limit), resume=True)


def test_a_killed_search_draws_the_same_hosts_again(finished, tmp_path, shapes, monkeypatch):
    folder, limit = finished
    work, step = tmp_path / 'work', Alternation.step

    def killed(self, iteration, batch):
        if iteration == 1:
            raise KilledError
        return step(self, iteration, batch)

    cfg = config(work, shapes, limit=float(limit), **{
        'default_hooks.checkpoint.interval': 1, 'default_hooks.checkpoint.by_epoch': False,
    })  # fmt: skip
    monkeypatch.setattr(Alternation, 'step', killed)
    with pytest.raises(KilledError):
        run(cfg, search_only=True)
    monkeypatch.setattr(Alternation, 'step', step)
    run(cfg, resume=True, search_only=True)
    ours, theirs = (loaded(find_checkpoint(each).path)['state_dict'] for each in (work, folder))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    told = [json.loads(WorkDir(each).decision.read_text()) for each in (work, folder)]
    computed = [each.pop('notes')['losses'] for each in told]
    assert computed == [len(WorkDir(each).path_losses.read_text().splitlines()) for each in (work, folder)]
    assert told[0] == told[1]


@pytest.mark.parametrize('host', ['its own', 'another'])
def test_losses_that_were_known_are_not_counted_as_computed(host, work, shapes, finished, tmp_path, monkeypatch):
    decision = Decision.parse(work)
    cfg = config(work, shapes, limit=float(finished[1]))
    if host == 'another':
        other = next(each for each in read_choices(cfg).all() if each.format() != decision.host.own)
        choose = WholeSelector.choose
        chosen = lambda selector: (choose(selector)[0], (other, selector.own.reference))  # noqa: E731
        monkeypatch.setattr(WholeSelector, 'choose', chosen)
    select_again(cfg, tmp_path / 'again')
    assert json.loads((tmp_path / 'again' / 'decision.json').read_text())['notes']['losses'] == 0


def test_arch_spec_of_a_given_network_has_the_configs_own_host(tmp_path, shapes):
    cfg = config(tmp_path / 'work', shapes)
    prepared = check_config(cfg, SPACE.arch(((0,), (0,), (0,), (0,))).format('fna'))
    assert widths(prepared.halves[0].cfg) == (8, 8, 8)
    given = ArchSpec.parse(prepared.halves[0].cfg.model.backbone.arch)
    assert given == SPACE.arch(((0,), (0,), (0,), (0,)))
