"""Batch-norm statistics measured anew, against plain means."""

import pytest
import torch
from torch import nn

from mmnas_ext.ops.statistics import averaged_statistics


def test_batches_count_alike_and_momentum_returns() -> None:
    norm = nn.BatchNorm1d(2, momentum=0.3).eval()
    norm.running_mean.fill_(9.0)
    batches = [torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[4.0, 10.0], [4.0, 20.0], [4.0, 30.0]])]
    with averaged_statistics([norm]):
        for batch in batches:
            norm(batch)
    assert norm.running_mean.tolist() == [(1 + 4) / 2, (2 + 20) / 2]
    assert norm.running_var.tolist() == [(2 + 0) / 2, (2 + 100) / 2]
    assert norm.momentum == 0.3 and norm.training


def test_momentum_returns_after_an_error() -> None:
    norm = nn.BatchNorm1d(2, momentum=0.3)
    with pytest.raises(RuntimeError, match='stop'), averaged_statistics([norm]):
        raise RuntimeError('stop')
    assert norm.momentum == 0.3
