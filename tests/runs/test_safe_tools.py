"""No tool runs the code of a checkpoint, wherever it loads one."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmnas_ext.backbones import MBNet
from mmnas_ext.backbones.export import export_backbone
from mmnas_ext.engine.distill import join_blocks
from mmnas_ext.remap.reader import CheckpointError
from mmnas_ext.runs.checkpoints import STAMP, find_checkpoint, inspect
from mmnas_ext.runs.predict import read_run
from mmnas_ext.runs.training import open_runner
from tests.engine import tiny
from tests.remap.traps import TRAPS, Reduced

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=['zip', 'legacy', 'object array', 'tar'])
def trap(request, tmp_path):
    """A checkpoint that would make the folder ``trap``, and has not at the end."""
    path = tmp_path / 'mine.pth'
    TRAPS[request.param](tmp_path / 'trap', path)
    yield path
    assert not (tmp_path / 'trap').exists()


def fails(cfg, message):
    """Training fails with one sentence."""
    with open_runner(cfg) as runner, pytest.raises(CheckpointError, match=message) as caught:
        runner.train()
    assert '\n' not in str(caught.value)


def plain_cfg(work_dir, **changes):
    cfg = tiny.search_cfg(work_dir)
    derived = cfg.pop('derived')
    cfg.model.backbone = dict(derived.model.backbone, arch=tiny.SPACE.arch(((0,), (0, 0), (0,))).format('fna'))
    for key in ('train_cfg', 'optim_wrapper', 'custom_hooks'):
        cfg[key] = derived[key]
    cfg.custom_hooks = [{'type': 'mmnas_ext.ReseedHook'}]
    cfg.train_cfg.max_epochs = 1
    cfg.merge_from_dict(changes)
    return cfg


def test_load_from(trap, tmp_path):
    fails(plain_cfg(tmp_path / 'work', load_from=str(trap)), r'checkpoint .*mine\.pth')


def test_a_runner_that_is_only_asked_to_load(trap, tmp_path):
    with open_runner(plain_cfg(tmp_path / 'work', load_from=str(trap))) as runner:
        for load in (runner.load_or_resume, lambda: runner.load_checkpoint(str(trap))):
            with pytest.raises(CheckpointError, match=r'checkpoint .*mine\.pth'):
                load()


def test_resume_takes_none_that_wants_to_run_code(trap, tmp_path):
    trap.rename(tmp_path / 'epoch_2.pth')
    found = find_checkpoint(tmp_path)
    assert found.path is None
    ((path, reason),) = found.refused
    assert path == tmp_path / 'epoch_2.pth' and '\n' not in reason
    (tmp_path / 'epoch_2.pth').rename(trap)
    cfg = plain_cfg(tmp_path / 'work', load_from=str(trap), resume=True)
    with open_runner(cfg, trap) as runner, pytest.raises(CheckpointError, match=r'mine\.pth'):
        runner.train()


def test_pretrained_of_a_hosts_backbone(trap, tmp_path):
    cfg = plain_cfg(tmp_path / 'work')
    cfg.model.backbone = dict(
        type='mmengine.TinyResNet', depth=18, out_indices=(3,), init_cfg=dict(type='Pretrained', checkpoint=str(trap))
    )
    fails(cfg, r'checkpoint .*mine\.pth')


@MODELS.register_module()
def TinyResNet(depth, out_indices, init_cfg):  # noqa: N802
    """MMPretrain's, which says its channels as our tiny model reads them."""
    net = MODELS.build(dict(type='mmpretrain.ResNet', depth=depth, out_indices=out_indices, init_cfg=init_cfg))
    net.out_channels = (512,)
    return net


def test_pretrained_of_an_exported_backbone_in_any_build(trap, tmp_path, monkeypatch):
    torch.save(MBNet('fna_retinanet').state_dict(), tmp_path / 'good.pth')
    done = export_backbone('fna_retinanet', f'Trapped{trap.stat().st_size}', tmp_path / 'out', tmp_path / 'good.pth')
    trap.replace(done.files[2])
    monkeypatch.syspath_prepend(str(tmp_path / 'out'))
    importlib.import_module(done.module)
    net = MODELS.build(dict(type=done.name))
    with pytest.raises(CheckpointError, match=rf'checkpoint .*{done.module}\.pth'):
        net.init_weights()
    done.files[2].replace(trap)


def test_show_predictions(trap, tmp_path):
    Config(dict(model=dict(type='x'))).dump(tmp_path / 'config.py')
    (tmp_path / 'mine.pth').rename(tmp_path / 'iter_2.pth')
    with pytest.raises(FileNotFoundError, match=r'holds no whole checkpoint, .*; of iter_2\.pth, it ') as caught:
        read_run(tmp_path)
    assert '\n' not in str(caught.value)


def test_the_rating_of_several_checkpoints(trap):
    with pytest.raises(CheckpointError, match=r'seed checkpoint .*mine\.pth'):
        join_blocks(None, [trap, trap])


def test_the_tool_that_tests(trap, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location('tools_test', ROOT / 'tools' / 'test.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    cfg = plain_cfg(tmp_path / 'work')
    for key in ('train_cfg', 'train_dataloader', 'optim_wrapper', 'param_scheduler', 'custom_hooks'):
        cfg.pop(key, None)
    cfg.test_dataloader = tiny.loader_cfg()
    cfg.test_dataloader.sampler.shuffle = False
    cfg.test_evaluator, cfg.test_cfg = dict(type='mmengine.DumpResults', out_file_path=str(tmp_path / 'a.pkl')), {}
    cfg.dump(tmp_path / 'plain.py')
    monkeypatch.setattr(sys, 'argv', ['test.py', str(tmp_path / 'plain.py'), str(trap)])
    with pytest.raises(SystemExit, match=r'^error: checkpoint .*mine\.pth'):
        tool.main()


def test_the_config_in_a_checkpoint_is_not_run(tmp_path):
    cfg = plain_cfg(tmp_path / 'work')
    with open_runner(cfg) as runner:
        runner.train()
    path = tmp_path / 'work' / 'epoch_1.pth'
    content = torch.load(path, weights_only=False)
    assert 'model' in content['meta']['cfg']  # MMEngine's newer name, which nothing runs
    content['meta']['config'] = f'import os\nos.mkdir({str(tmp_path / "trap")!r})\n'
    torch.save(content, path)
    assert inspect(path, 1, True, None) == (6, '')
    cfg.train_cfg.max_epochs = 2
    with open_runner(cfg, path) as runner:
        runner.train()
        losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert not (tmp_path / 'trap').exists()
    # the log goes on where it was: six steps and six more
    assert len(losses) == 12
    assert losses[:6].tolist() == content['message_hub']['log_scalars']['train/loss'].data[0].tolist()
    assert content['meta'].get(STAMP) is None


def test_a_checkpoint_of_code_is_passed_over_on_resume(tmp_path):
    torch.save({'state_dict': {}, 'meta': {'epoch': 1, 'iter': 6}}, tmp_path / 'epoch_1.pth')
    torch.save({'state_dict': {}, 'meta': {'epoch': 2}, 'extra': Reduced(tmp_path / 'trap')}, tmp_path / 'epoch_2.pth')
    found = find_checkpoint(tmp_path)
    assert found.path == tmp_path / 'epoch_1.pth'
    assert found.refused[0][1].startswith('it cannot be read: it tries to run code (posix.mkdir) and was refused')
    assert not (tmp_path / 'trap').exists()
