"""`mmnas space`: what it prints and writes, from each kind of seed, and what it refuses."""

from pathlib import Path

import pytest
import torch

from mmnas_ext.archs import ArchSpec, SearchSpace, StageSpec, zoo
from mmnas_ext.archs.from_seed import space_from
from mmnas_ext.cli.main import main
from tests.remap.samples import seed_of

SEED = ArchSpec((StageSpec(8, 8, ('basic_k3_e1', 'basic_k3_e1'), 1), StageSpec(8, 16, ('basic_k3_e1',), 2)), act='relu')
# of a 32x32 image: the stem's 3 to 8 channels at 16x16 positions, then blocks at 16x16 and 8x8
STEM = 16 * 16 * 3 * 8 * 9
FIRST = 16 * 16 * 2 * 8 * 8 * 9
LAST = 8 * 8 * (8 * 16 * 9 + 16 * 16 * 9 + 8 * 16)
HALF_LAST = 8 * 8 * (8 * 8 * 9 + 8 * 16 * 9 + 8 * 16)


def giga(count: int) -> str:
    return f'{count / 1e9:.4g} G multiply-adds'


def test_it_prints_a_space_and_what_is_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'seed.json').write_text(SEED.format('json'))
    options = ['--kernels', '3', '--widths', '0.5', '1', '--input-size', '32', '32']
    assert main(['space', '--seed', str(tmp_path / 'seed.json'), *options]) == 0
    printed = capsys.readouterr()
    assert SearchSpace.parse(printed.out) == space_from(SEED, (3,))
    # 2 candidates, 2 and skip, 2; the smallest has half the width, and skips
    assert f'{2 * 3 * 2} networks, 3 of 3 layers are searched; at 32x32 pixels' in printed.err
    assert f'the smallest has {giga(STEM + FIRST // 2 + HALF_LAST)}' in printed.err
    assert f'the seed {giga(STEM + 2 * FIRST + LAST)}, the largest {giga(STEM + 2 * FIRST + LAST)}' in printed.err


def test_it_writes_a_file_that_a_config_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'space.json'
    options = ['--kernels', '3', '5', '7', '--expansions', '3', '6', '--depth', *'0210110', '--out', str(out)]
    assert main(['space', '--seed', 'mobilenet_v2', *options]) == 0
    assert SearchSpace.parse(str(out)) == zoo.space('fna_det')
    printed = capsys.readouterr()
    assert printed.out.startswith(f'{out}: {6**6 * 7**15:.4g} networks, 21 of 22 layers')
    assert printed.err == ''


def test_a_checkpoint_is_a_seed_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = seed_of(zoo.arch('mobilenet_v2'))
    torch.save({f'backbone.{key}': tensor for key, tensor in seed.state_dict.items()}, tmp_path / 'mine.pth')
    assert main(['space', '--seed', str(tmp_path / 'mine.pth')]) == 0
    assert SearchSpace.parse(capsys.readouterr().out) == space_from(seed.arch)


def test_a_space_is_no_seed(tmp_path: Path) -> None:
    file = tmp_path / 'resnet18.space.json'
    file.write_text(space_from(zoo.arch('resnet18')).format())
    message = 'resnet18.space.json: this is a search space, whose layers are lists of candidates, and one network is'
    with pytest.raises(SystemExit, match=message):
        main(['space', '--seed', str(file)])
    with pytest.raises(ValueError, match=f'seed: .*{message}'):
        SearchSpace.parse(dict(seed=str(file), kernels=(3,)))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--seed', 'resnet81'], "error: unknown architecture 'resnet81': the zoo has .*resnet18"),
        (['--seed', 'nowhere.pth'], 'error: seed checkpoint does not exist: nowhere.pth'),
        (['--seed', 'nowhere.json'], 'error: architecture file does not exist: nowhere.json'),
        (['--seed', 'mobilenet_v2', '--kernels', '4'], 'error: kernels must be odd'),
        (['--seed', 'mobilenet_v2', '--out', 'space.txt'], 'error: --out must be a .json file'),
        (['--seed', 'mobilenet_v2', '--depth', '1', '1'], 'error: depth must be one number of layers'),
        (['--seed', 'mobilenet_v2', '--input-size', '0', '1'], 'error: size must be a pair of positive'),
    ],
)
def test_what_is_refused(options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(['space', *options])
