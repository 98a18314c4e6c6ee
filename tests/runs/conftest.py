"""Networks of a few channels: a second thread would cost them more than it computes."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope='module')
def one_thread() -> Iterator[None]:
    """Computes with a single thread, before any fixture of a module runs: other numbers give other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
