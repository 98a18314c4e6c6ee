"""Seeds and figures that the tests of this room share."""

import json
import random
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from mmnas_ext.archs import ArchSpec, StageSpec
from mmnas_ext.backbones import MBNet
from mmnas_ext.remap import Seed, load_seed
from tests.filling import filled

_GOLDEN = Path(__file__).parent.parent / 'golden'


@cache
def golden(name: str) -> dict[str, Any]:
    return json.loads((_GOLDEN / name).read_text())


@cache
def _reference(name: str) -> dict[str, Tensor]:
    return filled(golden('remap_seeds.json')[name]['tensors'])


def reference(name: str) -> dict[str, Tensor]:
    """A filled state dict with another project's keys; its tensors are shared, so only read them."""
    return dict(_reference(name))


@cache
def loaded(name: str) -> Seed:
    """That state dict, saved and read as a seed."""
    with TemporaryDirectory() as folder:
        path = Path(folder, 'seed.pth')
        torch.save(reference(name), path)
        return load_seed(path)


def features(seed: Seed, image: Tensor, *out_indices: int) -> tuple[Tensor, ...]:
    """What the seed's own network computes."""
    return features_of(seed.arch, seed.state_dict, image, *out_indices)


def features_of(arch: ArchSpec, state: dict[str, Tensor], image: Tensor, *out_indices: int) -> tuple[Tensor, ...]:
    net = MBNet(arch, out_indices=out_indices).eval()
    built = net.state_dict()
    net.load_state_dict({name: tensor for name, tensor in state.items() if name in built})
    with torch.no_grad():
        return net(image)


def random_arch(rng: random.Random, kernels: tuple[int, ...] = (1, 3, 5), se: bool = False) -> ArchSpec:
    """A small network of any depths, widths, expansions."""
    widths = [rng.randint(2, 7) for _ in range(4)]
    stages = tuple(
        StageSpec(
            a,
            b,
            tuple(
                f'k{rng.choice(kernels)}_e{rng.randint(1, 4)}' + '_se0.25' * (se and rng.random() < 0.7)
                for _ in range(rng.randint(1, 3))
            ),
            rng.randint(1, 2),
        )
        for a, b in pairwise(widths)
    )
    return ArchSpec(stages, rng.choice([None, 6]), rng.choice(['relu6', 'swish']), rng.choice([None, 1e-3]))


def seed_of(arch: ArchSpec) -> Seed:
    """A seed of that architecture, all values distinct from those of a fresh network."""
    out_indices = (len(arch.stages),) if arch.head_channels else (len(arch.stages) - 1,)
    state = MBNet(arch, out_indices=out_indices).state_dict()
    return Seed(arch, filled([name, list(tensor.shape)] for name, tensor in state.items()))
