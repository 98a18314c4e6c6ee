"""A training that is resumed between two updates ends like one that was not interrupted."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmnas_ext.engine.gathered import GatherHook
from tests.engine import tiny_seg
from tests.engine.kept import differences, last_checkpoint, loaded, train
from tests.small import read


def trained(folder: Path, *hooks: dict[str, Any], kill: int | None = None) -> Path:
    """Two batches an update, a checkpoint every three: that of the third waits for another."""
    cfg = tiny_seg.training_cfg(folder, **{'optim_wrapper.accumulative_counts': 2})
    cfg.experiment_name = f'{folder.parent.name} {folder.name} {kill}'
    cfg.custom_hooks = [*hooks, *([] if kill is None else [dict(type='StopVisualizationHook', at=kill)])]
    if kill is None:
        train(cfg, resume=True)
    else:
        with pytest.raises(tiny_seg.KilledError):
            train(cfg)
    return folder


@pytest.mark.parametrize('kept', [True, False])
def test_what_was_gathered_is_kept_over_a_checkpoint(tmp_path: Path, kept: bool) -> None:
    hooks = [dict(type='mmnas_ext.GatherHook')] if kept else []
    whole = trained(tmp_path / 'whole', *hooks)
    killed = trained(trained(tmp_path / 'killed', *hooks, kill=5), *hooks)
    found = differences(last_checkpoint(whole)[1], last_checkpoint(killed)[1])
    assert (found == []) is kept  # without the hook MMEngine updates with half of the gradient
    assert ('gathered_gradients' in loaded(whole / 'iter_3.pth')) is kept
    assert 'gathered_gradients' not in loaded(whole / 'iter_6.pth')


def test_processes_take_their_mean_where_a_checkpoint_is_due(monkeypatch: Any) -> None:
    model = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(3))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=4)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, hooks=[], iter=0)
    mine = [torch.full((1, 1), 2.0), None, None]
    theirs = [torch.full((1, 1), 4.0), torch.full((1, 1), 6.0), None]  # another process has used the second too
    for layer, gradient in zip(model, mine, strict=True):
        layer.weight.grad = gradient
    sent: list[torch.Tensor] = []

    def reduce(tensor: torch.Tensor, op: str) -> None:
        sent.append(tensor)
        if op == 'max':
            tensor.copy_(torch.tensor([1, 1, 0]))
        else:
            tensor.add_(theirs[len(sent) - 2]).div_(2)

    monkeypatch.setattr('mmnas_ext.engine.gathered.get_world_size', lambda: 2)
    monkeypatch.setattr('mmnas_ext.engine.gathered.all_reduce', reduce)
    hook = GatherHook()
    wrapper._inner_count = 8  # nothing waits
    hook.after_train_epoch(runner)
    assert sent == []
    wrapper._inner_count = 5
    hook.after_train_iter(runner, 0)  # no checkpoint is due
    assert sent == []
    hook.after_train_epoch(runner)
    assert [layer.weight.grad for layer in model] == [torch.tensor([[3.0]]), torch.tensor([[3.0]]), None]


def test_a_recipe_that_gathers_over_the_end_of_an_epoch_keeps_what_it_has() -> None:
    assert 1281167 // 1024 % read('dna_c_imagenet_4096.py').optim_wrapper.accumulative_counts == 3
    assert 'mmnas_ext.GatherHook' in [hook.type for hook in read('dna_c_imagenet_4096.py').custom_hooks]
