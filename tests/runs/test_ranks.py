"""Two joined processes choose as one does: an evolution by losses and by a metric, and a selection with its front."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmnas_ext.runs.manifest import RATING, read_manifest
from mmnas_ext.runs.run import run
from mmnas_ext.search.decision import Decision
from mmnas_ext.search.generations import Generations
from mmnas_ext.search.measured import MeasuredFront
from tests.engine.test_ddp import DISTRIBUTED, both_ranks
from tests.runs.test_evolution import BRED, config, losses_of
from tests.runs.test_last_rung import records
from tests.runs.test_selection import MEASURED

BY_METRIC = {key: value for key, value in BRED.items() if key != 'batches'}
BY_METRIC |= dict(rank_by='closeness', images=3, calibration=2)


@MODELS.register_module()
class TinyScale(nn.Module):
    """Stands for a norm and looks at no batch: one that two processes share is the batch of one."""

    _abbr_ = 'bn'

    def __init__(self, num_features, affine=True, **_kwargs):
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_features, 1, 1), 0.7))
        self.affine = affine

    def forward(self, x):
        return x * self.weight


def choose_each_way(folder, batch):
    """Batches of one image on each of two processes, or of two on one."""
    changes = {
        'train_dataloader.batch_size': batch, 'train_dataloader.dataset.pipeline': [dict(type='TinyPlain')],
        'model.dropout': 0.0, 'model.norm': False, 'model.backbone.norm_cfg': dict(type='TinyScale'),
        **(DISTRIBUTED if batch == 1 else {}),
    }  # fmt: skip
    run(config(folder / 'loss', **changes), search_only=True)
    run(config(folder / 'metric', BY_METRIC, **changes), search_only=True)
    measured = config(folder / 'measured', **changes)
    measured.pop('evolution')
    measured.optim_wrapper.selection = dict(MEASURED, front=dict(networks=2, images=3, calibration=2))
    run(measured, search_only=True)
    scales = {'derived.model.backbone.norm_cfg': dict(type='TinyScale')}
    adapted = config(folder / 'adapted', **changes, **scales)
    adapted.pop('evolution')
    adapt = dict(networks=2, share=0.5, repeats=2, rank_by='closeness', images=3)
    adapted.optim_wrapper.selection = dict(MEASURED, adapt=adapt)
    run(adapted, search_only=True)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """What one process chooses, and what two do."""
    one, two = (tmp_path_factory.mktemp(name) for name in ('one', 'two'))
    both_ranks(choose_each_way, two, 1, tmp_path=two)
    choose_each_way(one, 2)
    return one, two


@pytest.mark.parametrize('way', ['loss', 'metric'])
def test_an_evolution_breeds_the_same_networks_and_finds_the_same(folders: tuple[Path, Path], way: str) -> None:
    """All processes measure each network at a time, on their shares of each batch, or of the images; one writes."""
    one, two = (Generations.parse(folder / way) for folder in folders)
    assert [[(e.arch, e.made) for e in row] for row in one.rows] == [
        [(e.arch, e.made) for e in row] for row in two.rows
    ]
    assert [len(row) for row in one.rows] == [3, 3]
    for each, other in zip(sum(one.rows, ()), sum(two.rows, ()), strict=True):
        assert each.value == pytest.approx(other.value, rel=1e-4)
    alone, shared = folders
    assert Decision.parse(alone / way).arch == Decision.parse(shared / way).arch
    assert read_manifest(shared / way / 'run.json').is_done(RATING)
    assert len(losses_of(shared / way)) == len(losses_of(alone / way))


def test_a_selection_measures_the_same_and_chooses_the_same(folders: tuple[Path, Path]) -> None:
    one, two = (losses_of(folder / 'measured') for folder in folders)
    assert list(one) == list(two) and len(one) > 8
    assert list(one.values()) == pytest.approx(list(two.values()), rel=1e-4)
    assert len(set(one.values())) > 8
    decisions = [Decision.parse(folder / 'measured') for folder in folders]
    assert decisions[0].arch == decisions[1].arch
    assert [each.chosen for each in decisions[0].layers] == [each.chosen for each in decisions[1].layers]
    fronts = [MeasuredFront.parse(folder / 'measured') for folder in folders]
    assert [each.arch for each in fronts[0].points] == [each.arch for each in fronts[1].points]
    for each, other in zip(fronts[0].points, fronts[1].points, strict=True):
        assert each.metrics == pytest.approx(other.metrics, rel=1e-4) and 'closeness' in each.metrics


def test_networks_are_adapted_alike_and_the_same_is_chosen(folders: tuple[Path, Path]) -> None:
    one, two = (folder / 'adapted' for folder in folders)
    reached = [{(r['arch'], r['repeat']): r['metrics']['closeness'] for r in records(folder)} for folder in (one, two)]
    assert len(records(two)) == len(reached[1]) >= 4  # one process writes
    assert reached[1] == pytest.approx(reached[0], abs=1e-4)
    assert Decision.parse(two).arch == Decision.parse(one).arch
    assert read_manifest(two / 'run.json').is_done(RATING)
