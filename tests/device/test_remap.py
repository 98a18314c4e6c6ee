"""Remapped weights compute on the device what they computed before."""

import pytest
import torch

from mmnas_ext.archs import ArchSpec, StageSpec
from mmnas_ext.backbones import MBNet, SuperNet
from mmnas_ext.remap import remap
from mmnas_ext.remap.initializer import RemappedInit
from tests.engine import tiny
from tests.remap.samples import seed_of

SEED = seed_of(tiny.SPACE.arch(((0,), (0, 1), (0,))).replace(bn_eps=1e-3))


def outputs(net: torch.nn.Module, device: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    image = tiny.batch(3, 7)['inputs'].to(device, dtype)
    with torch.no_grad():
        return net.to(device, dtype)(image)[-1]


def loaded(arch: ArchSpec, state: dict[str, torch.Tensor]) -> MBNet:
    net = MBNet(arch, out_indices=(2,)).eval()
    net.load_state_dict(dict(state))
    return net


def test_a_remap_to_the_same_network_is_the_same_to_the_bit(device: str) -> None:
    torch.use_deterministic_algorithms(True)
    state, _ = remap(SEED, SEED.arch)
    plain, again = loaded(SEED.arch, SEED.state_dict), loaded(SEED.arch, state)
    assert torch.equal(outputs(plain, device), outputs(again, device))


def test_a_larger_kernel_computes_the_same_function(device: str) -> None:
    """FNA (ICLR 2020, section 3.1): a larger kernel has the smaller one at its centre and zeros around it."""
    stages = SEED.arch.stages
    wider = SEED.arch.replace(
        stages=tuple(
            StageSpec(s.in_channels, s.channels, tuple('k5' + t[2:] for t in s.layers), s.stride) for s in stages
        )
    )
    state, _ = remap(SEED, wider)
    got, wanted = outputs(loaded(wider, state), device), outputs(loaded(SEED.arch, SEED.state_dict), device)
    assert wider != SEED.arch
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('channels_last', [False, True])
def test_the_seeds_path_in_a_super_network_computes_what_the_seed_computes(device: str, channels_last: bool) -> None:
    net = SuperNet(tiny.SPACE, out_indices=(2,), affine=True, channels_last=channels_last)
    seed = MBNet(SEED.arch, out_indices=(2,))
    for each in (net, seed):
        RemappedInit(SEED)(each)
    net.set_path(tiny.SPACE.path(SEED.arch.replace(bn_eps=None)))
    wanted = outputs(seed.train(), 'cpu', torch.float64)
    got = outputs(net.train(), device).cpu().double()
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
