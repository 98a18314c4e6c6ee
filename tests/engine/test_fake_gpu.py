"""No tensor of a CPU meets one of a GPU on the way forward, by PyTorch's tensors without content; no GPU is needed."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmnas_ext.engine.imitation import distance
from tests.distill import small
from tests.engine import tiny

GPU = torch.device('cuda', 0)


def fake(model: Any) -> Any:
    """The model with every parameter and buffer on a GPU that is not there; call it in a `FakeTensorMode`."""
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    there = torch.empty(tensor.shape, dtype=tensor.dtype, device=GPU)
                    held[name] = nn.Parameter(there, tensor.requires_grad) if name in module._parameters else there
    return model


@pytest.fixture(scope='module')
def search() -> tuple[Any, Any]:
    return tiny.build({'with_cp': True, 'affine': True}, norm=True)


@pytest.mark.parametrize('path', [None, ((0,), (1, 0), (1,)), ((0,), (0, 2), (0,))])
def test_a_search_step_stays_on_its_gpu(search: tuple[Any, Any], path: Any) -> None:
    built, wrapper = search
    model = copy.deepcopy(built)
    with FakeTensorMode():
        fake(model)
        model.backbone.set_path(path)
        batch = {name: torch.empty(tensor.shape, device=GPU) for name, tensor in tiny.batch().items()}
        loss = model(**batch, mode='loss')['loss_square']
        costs = [model.backbone.expected_cost(prices) for prices in (None, wrapper.prices)]
    assert {loss.device, *(cost.device for cost in costs)} == {GPU}
    assert {cost.dtype for cost in costs} == {torch.float64}


def test_a_distillation_step_stays_on_its_gpu() -> None:
    built = small.distiller()
    with FakeTensorMode():
        model = fake(built)
        fake(model.teacher)  # no module of the distiller's
        model.start(0, 0)
        losses = model(torch.empty(4, 3, 32, 32, device=GPU), mode='loss')
    assert len(losses) == 2
    assert {loss.device for loss in losses.values()} == {GPU}


def test_an_imitation_stays_on_its_gpu() -> None:
    with FakeTensorMode():
        feature = torch.empty(2, 4, 5, 5, device=GPU, dtype=torch.float16)
        loss = distance([feature], [feature])
    assert (loss.device, loss.dtype) == (GPU, torch.float32)


def test_what_meets_another_device_is_seen() -> None:
    with FakeTensorMode(), pytest.raises(RuntimeError, match='device'):
        torch.empty(3, device=GPU) @ torch.empty(3)
