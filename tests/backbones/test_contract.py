"""What every backbone keeps to: a description, each network of the zoo under its name, and one that was exported."""

import copy
import importlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS
from torch import Tensor

from mmnas_ext.archs import ArchSpec, cost, zoo
from mmnas_ext.backbones import MBNet
from mmnas_ext.backbones.export import export_backbone
from mmnas_ext.backbones.named import NAMES
from mmnas_ext.remap.layout import tensor_shapes
from tests.backbones.reference import traced
from tests.backbones.test_mbnet import ARCH, norms
from tests.filling import fill_state

EXPORTED = ARCH.replace(act='swish')
# as any host's registry meets them: by the scope in the name, or, exported, in MMEngine's own
SUBJECTS: dict[str, tuple[dict[str, Any], ArchSpec]] = {
    'described': (dict(type='mmnas_ext.MBNet', arch=ARCH.format('json')), ARCH),
    'exported': (dict(type='ContractNet'), EXPORTED),
    # those of other stages are in test_residual.py
    **{
        name: (dict(type=f'mmnas_ext.{name}'), zoo.arch(arch))
        for name, arch in NAMES.items()
        if len(zoo.arch(arch).stages) == len(ARCH.stages)
    },
}
subjects = pytest.mark.parametrize('subject', SUBJECTS)


@pytest.fixture(scope='module', autouse=True)
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Writes a backbone and imports its module, as ``custom_imports`` does."""
    folder = tmp_path_factory.mktemp('package')
    export_backbone(EXPORTED, 'ContractNet', folder)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        module = importlib.import_module('contract_net')
        assert Path(module.__file__).parent == folder
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop('contract_net', None)
        MODELS.module_dict.pop('ContractNet', None)


def build(subject: str, **options: Any) -> MBNet:
    return MODELS.build({**SUBJECTS[subject][0], **options})


def filled_net(subject: str, **options: Any) -> MBNet:
    """A network whose weights follow the rule, so that two of them with other options are comparable."""
    net = build(subject, **options)
    net.load_state_dict(fill_state(net.state_dict()))
    return net


def every_output(arch: ArchSpec) -> tuple[int | str, ...]:
    """Indices of all outputs that a network has."""
    expansions = [f'{i}.expand' for i, stage in enumerate(arch.stages) if stage.specs[0].expansion > 1]
    return (*range(len(arch.stages) + bool(arch.head_channels)), *expansions)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 64, 96)


@pytest.mark.parametrize('output_stride', [8, 16, 32])
@subjects
def test_outputs_are_as_published_and_multiply_adds_as_priced(subject: str, output_stride: int, image: Tensor) -> None:
    arch = SUBJECTS[subject][1]
    out_indices = every_output(arch)
    net = build(subject, out_indices=out_indices, output_stride=output_stride).eval()
    outputs, macs = traced(net, image)
    assert len(outputs) == len(out_indices) >= 7
    assert net.out_channels == tuple(output.shape[1] for output in outputs)
    assert net.out_strides == tuple(64 // output.shape[2] for output in outputs)
    assert net.out_strides == tuple(96 // output.shape[3] for output in outputs)
    assert max(net.out_strides) == output_stride
    priced = cost(arch, (64, 96), output_stride, head=len(arch.stages) in out_indices)
    assert priced.macs == macs
    assert priced.params == sum(p.numel() for p in net.parameters())


@subjects
def test_default_outputs_feed_a_feature_pyramid(subject: str) -> None:
    net = build(subject)
    arch = SUBJECTS[subject][1]
    assert net.out_strides == (4, 8, 16, 32)
    assert net.out_channels == tuple(arch.stages[i].channels for i in (1, 2, 4, 6))
    # no head where nobody reads it
    assert net.head is None


@subjects
def test_outputs_come_in_the_order_asked_for(subject: str, image: Tensor) -> None:
    wanted = (6, '5.expand', 0)
    with torch.no_grad():
        outputs = filled_net(subject, out_indices=wanted).eval()(image)
        again = filled_net(subject, out_indices=wanted[::-1]).eval()(image)
    assert len(outputs) == 3
    assert all(torch.equal(output, same) for output, same in zip(outputs, again[::-1], strict=True))


@subjects
def test_odd_sizes_round_up(subject: str) -> None:
    with torch.no_grad():
        outputs = build(subject).eval()(torch.randn(1, 3, 33, 47))
    sizes = [(math.ceil(33 / stride), math.ceil(47 / stride)) for stride in (4, 8, 16, 32)]
    assert [tuple(output.shape[2:]) for output in outputs] == sizes


@subjects
def test_building_twice_from_one_dict(subject: str) -> None:
    described, arch = SUBJECTS[subject]
    cfg: dict[str, Any] = dict(
        **described,
        out_indices=[1, 2, 4, 6],
        norm_cfg=dict(type='BN', momentum=0.05),
        init_cfg=[dict(type='Kaiming', layer='Conv2d')],
    )
    given = copy.deepcopy(cfg)
    first, second = MODELS.build(cfg), MODELS.build(cfg)
    assert cfg == given
    assert isinstance(first, MBNet)
    assert first.arch == arch
    assert list(first.state_dict()) == list(second.state_dict())
    assert all(a is not b for a, b in zip(first.parameters(), second.parameters(), strict=True))


@subjects
def test_state_dict_has_the_keys_that_are_promised(subject: str) -> None:
    arch = SUBJECTS[subject][1]
    outputs = every_output(arch)
    shapes = {key: tuple(tensor.shape) for key, tensor in build(subject, out_indices=outputs).state_dict().items()}
    assert list(shapes.items()) == list(tensor_shapes(arch).items())


@pytest.mark.parametrize('frozen', [-1, 0, 1, 3, 7])
@subjects
def test_frozen_stages_do_not_learn(subject: str, frozen: int, image: Tensor) -> None:
    head = SUBJECTS[subject][1].head_channels
    net = filled_net(subject, out_indices=(6, 7) if head else (6,), frozen_stages=frozen).train()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = sum(output.square().mean() for output in net(image))
    if loss.requires_grad:  # all of a headless network may be frozen
        loss.backward()
    optimizer.step()
    parts = ['stem.', *(f'stages.{i}.' for i in range(7)), *['head.'][: bool(head)]]
    changed = {
        part
        for part in parts
        if any(not torch.equal(before[key], tensor) for key, tensor in net.state_dict().items() if key.startswith(part))
    }
    # statistics count as learning too
    assert changed == set(parts[frozen + 1 :])
    assert all(norm.training == (frozen < 0) for norm in norms(net.stem))
    assert all(norm.training for norm in (norms(net.head) if head else []))


@subjects
def test_norm_eval_keeps_statistics_and_learns_weights(subject: str, image: Tensor) -> None:
    net = filled_net(subject, out_indices=(6,), norm_eval=True).train()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items() if 'running' in key}
    (output,) = net(image)
    output.square().mean().backward()
    assert net.training
    assert not any(norm.training for norm in norms(net))
    after = net.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())
    with torch.no_grad():
        assert torch.equal(net.eval()(image)[0], output)


def trained(net: MBNet, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    outputs = list(net.train()(image))
    sum(output.square().mean() for output in outputs).backward()
    return [*outputs, *net.state_dict().values()], [p.grad for p in net.parameters()]


@pytest.mark.parametrize('out_indices', [(1, 6), ('5.expand', 6)])
@subjects
def test_recomputing_layers_changes_nothing(subject: str, out_indices: tuple[int | str, ...], image: Tensor) -> None:
    plain_values, plain_grads = trained(filled_net(subject, out_indices=out_indices), image)
    values, grads = trained(filled_net(subject, out_indices=out_indices, with_cp=True), image)
    # the values include running statistics: a batch computed twice counts once
    torch.testing.assert_close(values, plain_values, rtol=0, atol=0)
    torch.testing.assert_close(grads, plain_grads)


@subjects
def test_weights_saved_and_loaded_give_equal_outputs(subject: str, tmp_path: Path, image: Tensor) -> None:
    saved = filled_net(subject).eval()
    torch.save(saved.state_dict(), tmp_path / 'net.pth')
    loaded = build(subject, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'net.pth')))
    loaded.init_weights()
    with torch.no_grad():
        for output, expected in zip(loaded.eval()(image), saved(image), strict=True):
            assert torch.equal(output, expected)
