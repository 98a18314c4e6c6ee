"""What measures a device, and what leaves a training on it: latencies, ratings, exports."""

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from mmnas_ext.archs import prices
from mmnas_ext.backbones import MBNet
from mmnas_ext.distill import rating
from mmnas_ext.engine.block_optim import BlockOptimWrapperConstructor
from mmnas_ext.runs.export_graphs import write_onnx
from mmnas_ext.runs.exporting import Subject
from mmnas_ext.runs.measure_latency import Subject as Layers
from mmnas_ext.runs.measure_latency import measure_latency
from tests.distill import small
from tests.engine import tiny

PICTURE = np.random.RandomState(0).randint(0, 256, (64, 96, 3), np.uint8)
ARCH = tiny.SPACE.arch(((0,), (1, 0), (1,)))


@pytest.mark.parametrize('channels_last', [False, True])
def test_latencies_are_those_of_the_device(device: str, channels_last: bool) -> None:
    table = measure_latency(Layers(tiny.SPACE, tiny.SIZE, channels_last=channels_last), device, 2, repeats=3, warmup=1)
    assert table.device.startswith(f'{torch.device(device).type}: ')
    if device != 'cpu':
        assert torch.cuda.get_device_name(torch.device(device)) in table.device
    assert len(table.entries) == len(tiny.latency_table().entries)
    assert all(0 < milliseconds < 1000 for _, milliseconds in table.entries)
    least, most = prices(tiny.SPACE, tiny.SIZE, 32, 'latency', table).range()
    assert 0 < least < most


def test_a_large_layer_takes_longer_than_a_small_one(device: str) -> None:
    """By the clock of the device: a call returns before a GPU has computed, at the same time for both."""
    large, images = ((256, 256), 1) if device == 'cpu' else ((1024, 1024), 8)
    took = []
    for size in ((32, 32), large):
        table = measure_latency(Layers(tiny.SPACE, size), device, images, repeats=3, warmup=1)
        took.append(max(milliseconds for _, milliseconds in table.entries))
    assert took[1] > 2 * took[0]


@pytest.mark.parametrize('half', [None, 'float16', 'bfloat16'])
def test_a_distillation_step_trains_the_drawn_paths(device: str, half: str | None) -> None:
    distiller = small.distiller().to(device)
    assert {p.device.type for p in distiller.teacher.parameters()} == {torch.device(device).type}
    cfg = {'optimizer': {'type': 'SGD', 'lr': 0.1}}
    wrapper = BlockOptimWrapperConstructor(cfg if half is None else {**cfg, 'amp': True, 'dtype': half})(distiller)
    before = {name: p.detach().clone() for name, p in distiller.named_parameters()}
    teacher = [p.detach().clone() for p in distiller.teacher.parameters()]
    distiller.start(0, 0)
    drawn = [block.all_cells()[cell].steps() for block, (cell, _) in _drawn(distiller)]
    with wrapper.optim_context(distiller):
        losses = distiller(small.images(8).to(device), mode='loss')
    assert all(torch.isfinite(loss) and loss.dtype is torch.float32 for loss in losses.values())
    wrapper.update_params(torch.stack(list(losses.values())).sum())
    allowed = {
        id(p)
        for steps, (_, (_, path)) in zip(drawn, _drawn(distiller), strict=True)
        for place, choices in enumerate(steps)
        for choice, module in enumerate(choices)
        if module is not None and (not 0 < place <= len(path) or choice == path[place - 1])
        for p in module.parameters()
    }
    moved = {id(p) for name, p in distiller.named_parameters() if not torch.equal(p, before[name])}
    assert moved and moved <= allowed
    assert all(map(torch.equal, teacher, distiller.teacher.parameters()))


def _drawn(distiller):
    return [(block, distiller.draw(index)) for index, block in enumerate(distiller.all_blocks())]


def test_ratings_are_those_of_a_cpu(device: str) -> None:
    here = small.distiller()
    there = copy.deepcopy(here).to(device)
    found = []
    for model, place in ((here, 'cpu'), (there, device)):
        batches = [
            (model.entering(1, x, features), features[model.all_blocks()[1].plan.target])
            for x in (small.images(6, seed).to(place) for seed in (3, 4))
            for features in [model.features(x)]
        ]
        cell = model.all_blocks()[1].all_cells()[0]
        found.append(
            [
                r
                for u in rating.units(cell)
                for r in rating.rate(cell, u.prefix, lambda b=batches: b, lambda b=batches: b)
            ]
        )
    assert len(found[0]) > 1
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_what_was_trained_on_the_device_is_exported(device: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = MBNet(ARCH, out_indices=(2,)).to(device)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net(tiny.batch()['inputs'].to(device))[-1].square().mean().backward()
    optimizer.step()
    torch.save(net.state_dict(), tmp_path / 'net.pth')  # tensors of the device
    seed = {'checkpoint': str(tmp_path / 'net.pth'), 'arch': ARCH.format('json')}
    read = MBNet(ARCH, out_indices=(2,), init_cfg={'type': 'mmnas_ext.Remapped', 'seed': seed})
    read.init_weights()
    write_onnx(
        Subject(read.eval(), ('feature',), 'backbone', read.state_dict()), tmp_path / 'net.onnx', (64, 96), PICTURE
    )
    session = onnxruntime.InferenceSession(tmp_path / 'net.onnx', providers=['CPUExecutionProvider'])
    image = torch.randn(1, 3, 64, 96)
    got = torch.from_numpy(session.run(None, {'image': image.numpy()})[0])
    with torch.no_grad():
        torch.testing.assert_close(got, net.eval()(image.to(device))[-1].cpu(), rtol=1e-3, atol=1e-4)
