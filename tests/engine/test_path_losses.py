"""Losses of paths on held-out batches: what a direct forward gives, on the same images, each computed once."""

import copy
import json
import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mmnas_ext.engine.path_losses import PathLosses
from tests.engine import tiny
from tests.engine.test_ddp import both_ranks

PATHS = [((0,), (0, 0), (0,)), ((0,), (1, 2), (1,)), ((0,), (0, 1), (1,))]


class Listed:
    """Held-out batches, and how many were read."""

    def __init__(self, batches):
        self.batches, self.position, self.read = batches, 0, []

    def seek(self, position):
        self.position = position

    def __next__(self):
        self.read.append(self.position)
        self.position += 1
        return self.batches[self.position - 1]


def listed(count=3, first=0):
    return Listed([tiny.batch(4, seed) for seed in range(first, first + count)])


@pytest.fixture
def model():
    """With statistics and dropout behind the searched layers; it has taken steps, so its statistics are not those of a
    batch."""
    built, wrapper = tiny.build(norm=True, dropout=0.5)
    for step in range(2):
        wrapper.start('weights', step)
        built.train_step(tiny.batch(8, 50 + step), optim_wrapper=wrapper)
    return built


def direct(model, path, batch):
    """The loss of a path by hand: norms by the batch, no dropout."""
    copied = copy.deepcopy(model).train()
    copied.dropout = nn.Identity()
    copied.backbone.set_path(path)
    with torch.no_grad():
        return float(copied(**batch, mode='loss')['loss_square'])


def test_a_loss_is_that_of_a_direct_forward_with_the_batchs_statistics(model):
    batches = listed()
    losses = PathLosses(model, batches).rate(PATHS, [0, 2])
    assert losses.shape == (3, 2)
    assert losses.dtype == 'float64'
    for row, path in zip(losses, PATHS, strict=True):
        wanted = [direct(model, path, batches.batches[place]) for place in (0, 2)]
        assert row.tolist() == pytest.approx(wanted, abs=1e-12)
    assert len(set(losses.ravel().tolist())) == 6
    # each batch is read once for all paths
    assert batches.read == [0, 2]


@pytest.mark.parametrize('training', [True, False])
def test_the_model_is_left_as_it_was(model, training):
    model.train(training)
    model.backbone.set_path(PATHS[1])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    given = listed()
    kept = copy.deepcopy(given.batches)
    PathLosses(model, given).rate(PATHS, range(2))
    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert [layer.choice for layer in model.backbone.mixed_layers().values()] == [1, 2, 1]
    assert all(module.training == training for module in model.modules())
    assert all(module.track_running_stats for module in (model.norm, model.backbone.stem.bn))
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert parameter.requires_grad
        assert grad is None or torch.equal(parameter.grad, grad)
    for one, other in zip(given.batches, kept, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)


def test_all_is_put_back_though_a_forward_fails(model):
    batches = Listed([{'inputs': torch.randn(4, 3, 16, 16), 'target': torch.randn(4, 3)}])
    model.backbone.set_path(PATHS[1])
    losses = PathLosses(model, batches)
    with pytest.raises(RuntimeError, match='size of tensor'):
        losses.rate(PATHS, [0])
    assert [layer.choice for layer in model.backbone.mixed_layers().values()] == [1, 2, 1]
    assert model.norm.track_running_stats
    assert model.dropout.training
    assert losses.known == {}


def test_a_loss_is_computed_once_and_told(model):
    batches, told = listed(), []
    losses = PathLosses(model, batches, told=told.append)
    assert losses.missing([*PATHS, PATHS[0]], range(2)) == 6
    first = losses.rate([*PATHS, PATHS[0]], range(2))
    assert first[0].tolist() == first[3].tolist()
    assert told == [1] * 6
    again = losses.rate(PATHS[::-1], range(3))
    assert again[:, :2].tolist() == first[2::-1].tolist()
    assert batches.read == [0, 1, 2]
    assert len(told) == 9
    assert losses.missing(PATHS, range(3)) == 0


def test_losses_are_kept_in_a_file_of_their_stamp(model, tmp_path):
    file = tmp_path / 'selection' / 'losses.jsonl'
    first = PathLosses(model, listed(), file=file, stamp='a/12').rate(PATHS, range(2))
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert records[0] == {'stamp': 'a/12', 'path': [[0], [0, 0], [0]], 'batch': 0, 'loss': first[0][0]}
    batches = listed(first=9)  # other images would give other losses
    assert PathLosses(model, batches, file=file, stamp='a/12').rate(PATHS, range(2)).tolist() == first.tolist()
    assert batches.read == []
    other = PathLosses(model, batches, file=file, stamp='b/12')
    assert other.known == {}
    assert other.rate(PATHS[:1], [0])[0][0] != first[0][0]
    assert PathLosses(model, batches, file=file, stamp='a/12').rate(PATHS, range(2)).tolist() == first.tolist()


@pytest.mark.parametrize('damage', [
    b'{"stamp": "s", "path": [[0], [0, 0], [0]], "ba',
    b'\xff\xfe[[[', b'3', b'[]', b'{"stamp": "s", "path": 3, "batch": 0, "loss": 1}',
    b'{"stamp": "s", "path": [["x"]], "batch": 0, "loss": 1}', b'{"stamp": "s", "path": [[0]], "loss": 1}',
    b'{"stamp": "s", "path": [[0]], "batch": null, "loss": "much"}',
])  # fmt: skip
def test_a_damaged_line_is_passed_over_and_written_behind(model, tmp_path, damage):
    file = tmp_path / 'losses.jsonl'
    first = PathLosses(model, listed(), file=file, stamp='s').rate(PATHS[:2], [0])
    file.write_bytes(file.read_bytes() + damage)  # without an end of line, as a kill leaves it
    batches = listed()
    losses = PathLosses(model, batches, file=file, stamp='s')
    assert losses.rate(PATHS, [0])[:2].tolist() == first.tolist()
    assert losses.missing(PATHS, [0]) == 0
    again = PathLosses(model, batches, file=file, stamp='s')
    assert again.known == losses.known
    assert len(again.known) == 3


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_infinite_and_stays_so(model, tmp_path, value):
    file = tmp_path / 'losses.jsonl'
    batches = Listed([{**tiny.batch(), 'target': torch.full((4, 2), value)}])
    losses = PathLosses(model, batches, file=file, stamp='s').rate(PATHS[:2], [0])
    assert losses.tolist() == [[math.inf], [math.inf]]
    assert json.loads(file.read_text().splitlines()[0])['loss'] is None
    assert PathLosses(model, batches, file=file, stamp='s').known[PATHS[0], 0] == math.inf


def test_what_a_model_draws_is_the_same_for_all_paths_and_each_time(model):
    """A head that samples: it draws by the seed and the batch, however often and in which order paths come."""
    forward = model.forward
    model.forward = lambda *args, **kwargs: {'loss_drawn': torch.rand(())} | forward(*args, **kwargs)
    one = PathLosses(model, listed(), seed=1).rate(PATHS, range(2))
    other = PathLosses(model, listed(), seed=1).rate(PATHS[::-1], range(2))[::-1]
    assert one.tolist() == other.tolist()
    model.forward = forward
    drawn = one - PathLosses(model, listed()).rate(PATHS, range(2))
    assert drawn[:, 0].tolist() == pytest.approx([drawn[0, 0]] * 3)
    assert abs(drawn[0, 0] - drawn[0, 1]) > 1e-3


def measure_on_a_rank(folder):
    """Each process has batches of its own."""
    model, _ = tiny.build(norm=True)
    losses = PathLosses(model, listed(first=10 * dist.get_rank()), file=folder / 'losses.jsonl', stamp='s')
    found = losses.rate(PATHS, range(2))
    (folder / f'rank_{dist.get_rank()}.json').write_text(json.dumps([found.tolist(), len(losses.known)]))
    dist.barrier()
    # read again: what the main process finds is told to the other
    batches = listed(first=10 * dist.get_rank())
    again = PathLosses(model, batches, file=folder / 'losses.jsonl', stamp='s').rate(PATHS, range(2))
    assert again.tolist() == found.tolist()
    assert batches.read == []


def test_two_processes_find_the_mean_over_both(tmp_path):
    both_ranks(measure_on_a_rank, tmp_path, tmp_path=tmp_path)
    first, second = (json.loads((tmp_path / f'rank_{rank}.json').read_text()) for rank in (0, 1))
    assert first == second
    model, _ = tiny.build(norm=True)
    alone = [PathLosses(model, listed(first=10 * rank)).rate(PATHS, range(2)) for rank in (0, 1)]
    for row, wanted in zip(first[0], (sum(alone) / 2).tolist(), strict=True):
        assert row == pytest.approx(wanted, rel=1e-6)
    assert len((tmp_path / 'losses.jsonl').read_text().splitlines()) == 6
