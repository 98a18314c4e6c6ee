"""The whole student: its blocks in a row, and with calibrated batch norms what its distilled weights give."""

import pytest
import torch

from mmnas_ext.distill import recalibrate
from mmnas_ext.distill.rating import rate_network
from mmnas_ext.distill.student import Student
from tests.distill import small
from tests.distill.test_stitch import CHOSEN, disturbed, in_a_row, network


@torch.no_grad()
def test_it_computes_what_its_blocks_compute_and_shares_them() -> None:
    model = disturbed(small.distiller(small.space(second=10, third=18)))
    student = Student(model, CHOSEN)
    x = small.images(2)
    assert torch.equal(student(x), in_a_row(model, x))
    first = next(student.parameters())
    assert any(first is parameter for parameter in model.parameters())
    assert student(x).shape[1] == 16  # the teacher's width, not its own
    model.channels_last = True
    assert Student(model, CHOSEN)(x) == pytest.approx(in_a_row(model, x), abs=1e-5)


@torch.no_grad()
def test_its_error_is_that_of_the_network_with_its_weights() -> None:
    model = disturbed(small.distiller(small.space(second=10, third=18)))
    calibration = [small.images(4, seed) for seed in (1, 2)]
    images = [(x, model.features(x)[2]) for x in (small.images(3, 3), small.images(1, 4))]
    net = network(model)
    recalibrate(net, calibration)
    adapter = model.all_blocks()[1].all_cells()[0].leave
    errors = torch.cat([(adapter(net(x)[0]) - target).abs().double().flatten() for x, target in images])
    values = torch.cat([target.double().flatten() for _, target in images])
    wanted = (errors.mean() / values.std(correction=0)).item()
    # batches may come one by one
    found = rate_network(Student(model, CHOSEN), iter(calibration), iter(images))
    assert found == pytest.approx(wanted, rel=1e-4)
