"""What a user can get wrong: one clear sentence, an exit code other than 0, no traceback, before anything is built."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset

from mmnas_ext.archs import SearchSpace, SpaceStage
from mmnas_ext.backbones import MBNet
from mmnas_ext.runs.checks import check_config, check_data, check_work_dir
from mmnas_ext.runs.configs import read_config
from mmnas_ext.runs.run import prepare, run
from mmnas_ext.runs.trials import TrialPlan
from tests.engine import tiny
from tests.runs.tiny_coco import coco_of

ROOT = Path(__file__).parents[2]
LITE0 = str(ROOT / 'configs' / 'fna_retinanet_lite0_320.py')
PLAIN = str(ROOT / 'configs' / 'retinanet_mbv2_coco.py')


@pytest.fixture
def train_main(monkeypatch, tmp_path):
    """Calls tools/train.py with arguments; gives what it would print on its way out, or the run that it starts."""
    spec = importlib.util.spec_from_file_location('tools_train', ROOT / 'tools' / 'train.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    started = []
    monkeypatch.setattr('mmnas_ext.runs.run.run', lambda *args, draw, prepared, join: started.append(args))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, arguments)])
        try:
            module.main()
        except SystemExit as end:
            code = end.code
        else:
            return started.pop()
        assert isinstance(code, str), 'a message is what gives exit code 1'
        assert started == []
        return code

    return call


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """COCO's layout with its categories, and a handful of small images."""
    root = tmp_path_factory.mktemp('coco')
    for part in ('train2017', 'val2017'):
        coco_of(root, part, CocoDataset.METAINFO['classes'])
    roots = [f'{name}_dataloader.dataset.data_root={root}/' for name in ('train', 'val', 'test')]
    return roots + [f'{name}_evaluator.ann_file={root}/annotations/instances_val2017.json' for name in ('val', 'test')]


@pytest.fixture
def tiny_file(tmp_path):
    """The tiny search as a file, changed."""

    def write(**changes):
        path = tmp_path / 'tiny.py'
        tiny.search_cfg(tmp_path / 'run', **changes).dump(path)
        return path

    return write


def test_a_sound_config_is_run_with_what_the_command_line_says(train_main, data, tmp_path):
    cfg, resume, search_only, arch = train_main(
        LITE0, '--search-only', '--auto-scale-lr', '--work-dir', tmp_path, '--cfg-options', *data
    )
    assert (resume, search_only, arch) == (False, True, None)
    assert cfg.work_dir == str(tmp_path)
    assert cfg.auto_scale_lr.enable is True
    assert cfg.derived.auto_scale_lr.enable is True
    cfg, _, _, arch = train_main(LITE0, '--arch', 'efficientnet_lite0', '--cfg-options', *data)
    assert arch == 'efficientnet_lite0'
    assert cfg.work_dir == 'work_dirs/fna_retinanet_lite0_320'
    assert cfg.auto_scale_lr.base_batch_size == 4


def test_a_run_that_is_not_there_is_not_resumed(train_main, data, tmp_path):
    answer = train_main(LITE0, '--resume', '--work-dir', tmp_path / 'empty', '--cfg-options', *data)
    assert answer.startswith('error: --resume: nothing to go on from in ')


def test_a_config_that_is_not_there(train_main):
    assert train_main('configs/nowhere.py').startswith('error: config configs/nowhere.py does not exist, neither as')


def test_a_data_set_that_is_not_there(train_main):
    assert train_main(LITE0) == (
        'error: train_dataloader.dataset wants data/coco/annotations/instances_train2017.json, which does not exist, '
        'nor does data/coco/train2017, data/coco/annotations/instances_val2017.json of val_dataloader.dataset, '
        'data/coco/val2017 of val_dataloader.dataset: put the data there, or say where it is, e.g. '
        '--cfg-options data_root=/path/to/data'
    )
    # what moves them all has been tried: another such folder, and no setting of one dataset
    for option in ('data_root=/nowhere', 'train_dataloader.dataset.data_root=/nowhere'):
        answer = train_main(LITE0, '--cfg-options', option)
        assert answer.startswith('error: train_dataloader.dataset wants /nowhere/annotations/instances_train2017.json')
        assert answer.endswith(f'--cfg-options {option.partition("=")[0]}=/path/to/data')


def test_annotations_of_a_metric_that_are_not_there(train_main, data):
    assert train_main(LITE0, '--cfg-options', *data[:3]) == (
        'error: val_evaluator wants data/coco/annotations/instances_val2017.json, which does not exist: say where it '
        'is, e.g. --cfg-options val_evaluator.ann_file=/path/to/annotations.json'
    )


def test_images_that_are_not_there(train_main, data):
    root = Path(data[0].partition('=')[2])
    (root / 'val2017').rename(root / 'val2017_a')
    try:
        message = train_main(LITE0, '--cfg-options', *data)
    finally:
        (root / 'val2017_a').rename(root / 'val2017')
    assert message.startswith(f'error: val_dataloader.dataset wants {root}/val2017, which does not exist')


def seeded(checkpoint):
    return [
        f'model.backbone.init_cfg.seed.checkpoint={checkpoint}',
        f'derived.model.backbone.init_cfg.seed.checkpoint={checkpoint}',
    ]


def test_a_checkpoint_that_is_not_there(train_main, data):
    message = train_main(LITE0, '--cfg-options', *data, *seeded('/nowhere/seed.pth'))
    assert message == 'error: seed checkpoint does not exist: /nowhere/seed.pth'


def test_a_checkpoint_cut_short(train_main, data, tmp_path):
    path = tmp_path / 'seed.pth'
    torch.save(MBNet('efficientnet_lite0').state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    message = train_main(LITE0, '--cfg-options', *data, *seeded(path))
    assert message == f'error: seed checkpoint {path} is truncated: its end is missing, fetch it again'


def test_a_seed_of_another_network(train_main, data, tmp_path):
    path = tmp_path / 'seed.pth'
    torch.save(MBNet('mobilenet_v2').state_dict(), path)
    message = train_main(LITE0, '--cfg-options', *data, *seeded(path))
    assert message.startswith('error: ')
    assert 'efficientnet_lite0' in message or 'shape' in message
    assert '\n' not in message


def test_a_space_of_other_channels_than_the_neck_takes(train_main, data):
    message = train_main(LITE0, '--cfg-options', *data, 'model.backbone.space=fna_det')
    assert message == (
        'error: model.neck.in_channels must be what the backbone gives, [24, 32, 96, 320], got [24, 40, 112, 320]'
    )


def test_an_arch_start_past_the_end(train_main, data):
    given = (LITE0, '--cfg-options', *data, 'train_cfg.max_epochs=9')
    alone = train_main(*given, 'train_cfg.arch_start=9', 'optim_wrapper.selection=None', 'optim_wrapper.keep_seed=None')
    assert alone == (
        'error: train_cfg.arch_start must be in 0..8, got 9: the search has 9 epochs, and alpha would never be trained'
    )
    # where losses decide, alpha need not be trained
    message = train_main(*given, 'train_cfg.arch_start=10')
    assert message == 'error: train_cfg.arch_start must be in 0..9, got 10: the search has 9 epochs'


def test_a_cost_limit_that_nothing_meets(train_main, data):
    message = train_main(LITE0, '--cfg-options', *data, 'optim_wrapper.cost.target=1e6')
    assert message.startswith('error: cost.target must be at least 0.')
    assert 'got 0.001 G multiply-adds: networks of this space cost ' in message
    assert message.endswith('at 320x320')


@pytest.mark.parametrize(('cost', 'message'), [
    ({'metric': 'flops'}, "optim_wrapper.cost: metric must be one of ('macs', 'params', 'latency'), got 'flops'"),
    ({'metric': 'params', 'target': 1000},
     'cost.target must be at least 0.001388 M parameters, got 0.001 M parameters: '
     'networks of this space cost 0.001388 to 0.00414 M parameters at 16x16'),
    ({'metric': 'latency'}, "optim_wrapper.cost: metric='latency' needs table=…"),
    ({'metric': 'latency', 'table': 'gone.json'}, 'latency table does not exist: gone.json'),
])  # fmt: skip
def test_a_cost_of_another_metric_that_cannot_be(train_main, tiny_file, cost, message):
    answer = train_main(tiny_file(**{f'optim_wrapper.cost.{key}': value for key, value in cost.items()}))
    assert message in answer
    assert '\n' not in answer


def test_a_latency_table_of_another_output_stride(train_main, tiny_file, tmp_path):
    table = tmp_path / 'latency.json'
    table.write_text(tiny.latency_table().format())
    cost = {'optim_wrapper.cost': {'metric': 'latency', 'table': str(table), 'weight': 0.1}}
    assert train_main(tiny_file(**cost))[1:] == (False, False, None)  # it is run
    strided = {'model.backbone.space': tiny.STRIDED.format(), 'model.backbone.output_stride': 8}
    answer = train_main(tiny_file(**cost, **strided))
    assert answer.startswith('error: the latency table of a board lacks 3 of 9 layers, the first is k3_e3 8 -> 8, ')
    assert answer.endswith('at input size 16 16 and output stride 8')


def test_a_second_half_that_still_searches(train_main, tiny_file):
    cfg = tiny_file()
    text = cfg.read_text()
    cfg.write_text(text.replace("type='mmnas_ext.MBNet'", "type='mmnas_ext.SuperNet'"))
    assert text != cfg.read_text()
    message = train_main(cfg)
    assert message == "error: derived=dict(…) leaves ['SuperNet'] of the search in place: say there what replaces them"


@pytest.mark.parametrize('arguments', [['--search-only'], ['--arch', 'mobilenet_v2']])
def test_a_search_asked_of_a_config_that_has_none(train_main, arguments):
    message = train_main(PLAIN, *arguments)
    assert message == ('error: --search-only and --arch need a config with derived=dict(…); this one is just trained')


def test_arguments_that_contradict_each_other(train_main, tiny_file):
    message = train_main(tiny_file(), '--search-only', '--arch', 'mobilenet_v2')
    assert message == 'error: --search-only and --arch contradict each other'


def test_a_network_that_cannot_be_read(train_main, tiny_file):
    message = train_main(tiny_file(), '--arch', 'mobilenet_v9')
    assert message.startswith("error: unknown architecture 'mobilenet_v9': the zoo has dna_a")
    assert train_main(tiny_file(), '--arch', 'gone.json') == 'error: architecture file does not exist: gone.json'


def test_a_learning_rate_scaled_from_nowhere(train_main, tiny_file):
    message = train_main(tiny_file(), '--auto-scale-lr')
    assert message == 'error: --auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in the config'


@pytest.mark.parametrize(('changes', 'message'), [
    ({'model.backbone': {'_delete_': True, 'type': 'mmnas_ext.MBNet', 'arch': 'mobilenet_v2'}},
     "its model.backbone must be dict(type='mmnas_ext.SuperNet', space=…), got type 'mmnas_ext.MBNet'"),
    ({'model.backbone.space': 'fna_dte'}, 'fna_dte'),
    ({'model.backbone.space': SearchSpace((SpaceStage(8, 8, (('k3_e1',),), 1),)).format()},
     'model.backbone.space has nothing to search: every layer has a single candidate'),
    ({'train_cfg.arch_start': -1}, 'train_cfg.arch_start must be in 0..3, got -1: the search has 4 epochs'),
    ({'train_cfg.arch_start': '1'}, "train_cfg.arch_start must be an integer, got '1'"),
    ({'train_cfg': {'_delete_': True, 'type': 'EpochBasedTrainLoop', 'max_epochs': 2}},
     "train_cfg.type must be a search loop, 'mmnas_ext.SearchEpochLoop' or 'mmnas_ext.SearchIterLoop', "
     "got 'EpochBasedTrainLoop'"),
    ({'train_cfg': {'_delete_': True, 'type': 'mmnas_ext.SearchEpochLoop', 'arch_start': 1}},
     'train_cfg.max_epochs must be an integer, got None'),
    ({'optim_wrapper': {'_delete_': True, 'optimizer': {'type': 'SGD', 'lr': 0.1}}},
     "optim_wrapper.constructor must be 'mmnas_ext.SearchOptimWrapperConstructor' in a search, got None"),
    ({'optim_wrapper.cost.target': 'small'}, "cost.target must be a number or None, got 'small'"),
])  # fmt: skip
def test_a_search_that_cannot_be(train_main, tiny_file, changes, message):
    answer = train_main(tiny_file(**changes))
    assert answer.startswith('error: ')
    assert message in answer
    assert '\n' not in answer


def test_the_seed_of_the_second_half_is_looked_at_before_the_first_begins(tmp_path):
    cfg = tiny.search_cfg(tmp_path)
    cfg.derived.model.backbone.init_cfg = {'type': 'mmnas_ext.Remapped', 'seed': {'checkpoint': '/nowhere.pth'}}
    with pytest.raises(FileNotFoundError, match='seed checkpoint does not exist: /nowhere.pth'):
        check_config(cfg)


def test_a_seed_that_cannot_be_downloaded_is_said_before_the_run(tmp_path, monkeypatch):
    asked = []

    def offline(url, *args, **kwargs):
        asked.append(url)
        raise OSError('no network')

    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr('torch.hub.download_url_to_file', offline)
    cfg = tiny.search_cfg(tmp_path / 'run')
    cfg.derived.model.backbone.init_cfg = {'type': 'mmnas_ext.Remapped', 'seed': 'torchvision://mobilenet_v2'}
    with pytest.raises(ConnectionError, match='no network; without a network put the file mobilenet_v2-.*by hand'):
        check_config(cfg)
    assert len(asked) == 1
    assert not (tmp_path / 'run').exists()


def test_a_work_dir_of_the_main_process_stops_the_others_at_once(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr('mmnas_ext.runs.checks.is_main_process', lambda: False)
    monkeypatch.setattr('mmnas_ext.runs.checks.all_gather_object', lambda mine: ['work_dir x cannot be written', mine])
    monkeypatch.setattr('mmnas_ext.runs.checks.build_half', lambda *args, **kwargs: built.append(args))
    with pytest.raises(ValueError, match='^another process: work_dir x cannot be written'):
        check_config(tiny.search_cfg(tmp_path / 'run'))
    assert built == []


def test_a_seed_that_was_downloaded_is_looked_at(tmp_path, monkeypatch):
    folder = tmp_path / 'checkpoints'
    folder.mkdir()
    torch.save({'a': torch.ones(1)}, folder / 'seed.pth')
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path))
    cfg = tiny.search_cfg(tmp_path / 'run')
    cfg.derived.model.backbone.init_cfg = {'type': 'mmnas_ext.Remapped', 'seed': 'https://nowhere.invalid/seed.pth'}
    with pytest.raises(ValueError, match='seed.pth'):
        check_config(cfg)


def test_a_work_dir_that_takes_no_files(tmp_path):
    with pytest.raises(ValueError, match='work_dir /proc/foo/bar cannot be written: .*; take another --work-dir'):
        check_work_dir('/proc/foo/bar')
    check_work_dir(str(tmp_path / 'a' / 'b'))
    check_work_dir(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_data_of_the_second_half_is_looked_at_before_the_first_begins(tmp_path):
    cfg = tiny.search_cfg(tmp_path)
    cfg.derived.train_dataloader = {'dataset': {'data_root': '/nowhere', 'ann_file': 'a.json'}}
    with pytest.raises(FileNotFoundError, match='train_dataloader.dataset wants /nowhere/a.json'):
        check_config(cfg)


@pytest.mark.parametrize('wrapper', ['RepeatDataset', 'ConcatDataset'])
def test_data_inside_wrappers_is_looked_at(tmp_path, wrapper):
    cfg = tiny.search_cfg(tmp_path)
    inner = {'type': 'TinyImages', 'data_root': '/nowhere', 'data_prefix': {'img': 'images'}}
    key, value = ('dataset', inner) if wrapper == 'RepeatDataset' else ('datasets', [inner])
    cfg.train_dataloader.dataset = {'type': wrapper, key: value}
    with pytest.raises(FileNotFoundError, match='wants /nowhere/images, which does not exist'):
        check_config(cfg)


@pytest.mark.parametrize('root', ['s3://bucket/coco', ''])
def test_data_elsewhere_is_left_to_the_data_set(tmp_path, root):
    cfg = tiny.search_cfg(tmp_path)
    cfg.train_dataloader.dataset.update(data_root=root, ann_file='s3://bucket/a.json')
    check_data(cfg)


def test_both_halves_train_in_mixed_precision_when_asked(tiny_file):
    cfg = prepare(str(tiny_file()), amp=True)
    amp = {'type': 'AmpOptimWrapper', 'loss_scale': 'dynamic'}
    for wrapper in (cfg.optim_wrapper.weights, cfg.optim_wrapper.arch, cfg.derived.optim_wrapper):
        assert amp.items() <= dict(wrapper).items()
        assert 'optimizer' in wrapper
    assert 'type' not in cfg.optim_wrapper
    plain = prepare(str(tiny_file()))
    assert plain.derived.optim_wrapper.type == 'OptimWrapper'


@pytest.mark.parametrize('derived', [dict(config='a.py'), dict(config='a.py', auto_scale_lr=dict(base_batch_size=32))])
def test_what_is_asked_of_both_halves_reaches_one_that_a_file_describes(tmp_path, derived):
    """What stands in the file is added to by what `derived` says beside it."""
    file = tmp_path / 'mine.py'
    cfg = tiny.search_cfg(tmp_path)
    cfg.derived, cfg.auto_scale_lr = derived, dict(base_batch_size=8)
    cfg.dump(file)
    found = prepare(str(file), amp=True, auto_scale_lr=True)
    assert found.derived.optim_wrapper == dict(type='AmpOptimWrapper', loss_scale='dynamic')
    assert found.derived.auto_scale_lr == {**derived.get('auto_scale_lr', {}), 'enable': True}
    assert found.auto_scale_lr == dict(base_batch_size=8, enable=True)


def test_mixed_precision_leaves_a_trial_the_optimizer_that_it_inherits():
    cfg = prepare('random_retinanet_mbv2_steel', amp=True)
    plan = TrialPlan.of(cfg)
    trial = plan.trial_config(plan.drawn[0][0])
    assert (trial.optim_wrapper.type, trial.optim_wrapper.optimizer.type) == ('AmpOptimWrapper', 'AdamW')
    assert 'optim_wrapper' not in cfg.random_search.trial


def test_mixed_precision_without_a_gpu_is_refused_by_the_host(tiny_file):
    cfg = prepare(str(tiny_file()), amp=True)
    with pytest.raises(AssertionError, match='only available training on gpu'):
        run(cfg, search_only=True)


def test_the_command_itself_ends_with_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', ROOT / 'tools' / 'train.py', PLAIN, '--search-only'],
        cwd=tmp_path, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith('error: --search-only and --arch need a config with derived')
    assert list(tmp_path.iterdir()) == []


def test_a_config_of_this_project_is_sound_as_far_as_data_is_not_asked_for(data):
    check_config(read_config(LITE0, dict(entry.split('=') for entry in data)))


def test_processes_are_joined_before_they_are_counted(monkeypatch, train_main, tiny_file, tmp_path):
    """A resumed run on four ranks is compared with one on four ranks."""
    seen = []
    monkeypatch.setattr('mmnas_ext.runs.run.start_processes', lambda cfg: seen.append('start'))
    monkeypatch.setattr('mmnas_ext.runs.checks.check_config', lambda *args: seen.append('check'))
    train_main(tiny_file())
    assert seen == ['start', 'check']
