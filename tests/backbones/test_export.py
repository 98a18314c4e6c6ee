"""An exported backbone: what is written, where it is found, and the names that it cannot have."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS

from mmnas_ext.archs import ArchSpec, zoo
from mmnas_ext.backbones import MBNet
from mmnas_ext.backbones.export import export_backbone
from tests.backbones.test_mbnet import ARCH
from tests.filling import fill_image, fill_state

ROOT = Path(__file__).parents[2]
# builds and runs what the configs in some folders say, in a process that knows nothing else of this project
DETECT = """
import sys, torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmdet.registry import MODELS
init_default_scope('mmdet')
for folder in sys.argv[1:]:
    net = MODELS.build(Config.fromfile(f'{folder}/retinanet.py').model)
    net.init_weights()
    print(type(net).__name__, type(net.backbone).__module__, type(net.backbone).__name__, 'tests' in sys.modules)
    with torch.no_grad():
        torch.save(net.eval().backbone(torch.load(f'{folder}/image.pt')), f'{folder}/out.pt')
"""
RETINANET = """
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
custom_imports = dict(imports=['{module}'])
model = dict(
    backbone=dict(_delete_=True, type='{name}', out_indices=(1, 2, 4, 6)), neck=dict(in_channels=[8, 8, 12, 20])
)
"""


def weights(folder: Path, arch: Any = ARCH, out_indices: tuple[int, ...] = (7,), eps: float = 1e-3) -> Path:
    """A training's checkpoint of a detector: a backbone and more, in MMEngine's form."""
    net = MBNet(arch, out_indices=out_indices, norm_cfg=dict(type='BN', eps=eps))
    net.load_state_dict(fill_state(net.state_dict()))
    detector = torch.nn.ModuleDict(dict(backbone=net, neck=torch.nn.Conv2d(1, 1, 1)))
    torch.save(dict(state_dict=detector.state_dict(), meta=dict(epoch=1)), folder / 'epoch_1.pth')
    return folder / 'epoch_1.pth'


def expected(checkpoint: Path, image: torch.Tensor, arch: Any = ARCH) -> tuple[torch.Tensor, ...]:
    """What the network of that checkpoint computes, loaded by hand."""
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    net = MBNet(arch, norm_cfg=dict(type='BN', eps=1e-3)).eval()
    names = net.state_dict()
    net.load_state_dict({name: state[f'backbone.{name}'] for name in names})
    with torch.no_grad():
        return net(image)


def write_detector(folder: Path, module: str, name: str) -> None:
    """Writes a RetinaNet's config around a backbone, and an image for it."""
    (folder / 'retinanet.py').write_text(RETINANET.format(module=module, name=name))
    torch.save(fill_image((1, 3, 64, 96)), folder / 'image.pt')


def detect(*folders: Path) -> list[str]:
    """Runs the configs in the folders in one fresh process, all of them on its path; gives what it prints of each."""
    path = os.pathsep.join([*(str(folder / 'path') for folder in folders), str(ROOT)])
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', DETECT, *map(str, folders)],
        cwd=folders[0], env={**os.environ, 'PYTHONPATH': path}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [line for line in done.stdout.splitlines() if line.startswith('RetinaNet ')]


def test_a_detector_finds_modules_and_packages_in_a_fresh_process_with_their_weights(tmp_path: Path) -> None:
    module, package = tmp_path / 'module', tmp_path / 'package'
    before = []
    for folder in (module, package):
        folder.mkdir()
        before.append(expected(weights(folder), fill_image((1, 3, 64, 96))))
    done = export_backbone(ARCH, 'MyNet', module / 'path', module / 'epoch_1.pth')
    assert [path.name for path in done.files] == ['my_net.py', 'my_net.json', 'my_net.pth']
    (module / 'epoch_1.pth').unlink()  # what was exported stands on its own
    # a module of one's own package
    export_backbone(ARCH, 'OurNet', package / 'path' / 'ours', package / 'epoch_1.pth')
    (package / 'path' / 'ours' / '__init__.py').write_text('from ours.our_net import OurNet\n')
    write_detector(module, 'my_net', 'MyNet')
    write_detector(package, 'ours', 'OurNet')
    assert detect(module, package) == ['RetinaNet my_net MyNet False', 'RetinaNet ours.our_net OurNet False']
    for folder, wanted in zip((module, package), before, strict=True):
        outputs = torch.load(folder / 'out.pt')
        assert len(outputs) == 4
        for output, other in zip(outputs, wanted, strict=True):
            torch.testing.assert_close(output, other, rtol=1e-6, atol=1e-6)


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports an exported module as its own, and forgets its name afterwards."""
    before = dict(MODELS.module_dict)

    def load(path: Path) -> dict[str, Any]:
        return runpy.run_path(str(path), run_name=path.stem)

    yield load
    for name in set(MODELS.module_dict) - set(before):
        MODELS.module_dict.pop(name)


def test_weights_are_the_default_and_can_be_left_out(tmp_path: Path, imported: Any) -> None:
    done = export_backbone(ARCH, 'WithWeights', tmp_path, weights(tmp_path))
    network = imported(done.files[0])['WithWeights']
    assert network is MODELS.get('WithWeights')
    image = fill_image((1, 3, 64, 96))
    nets = [MODELS.build(dict(type='WithWeights', **options)) for options in ({}, dict(init_cfg=None))]
    for net in nets:
        net.init_weights()
    # the epsilon that the weights were trained with came along
    assert [net.bn_eps for net in nets] == [1e-3, 1e-3] and done.arch.bn_eps == 1e-3
    given = expected(tmp_path / 'epoch_1.pth', image)
    with torch.no_grad():
        loaded, fresh = (net.eval()(image) for net in nets)
    torch.testing.assert_close(loaded, given, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(fresh[0], given[0], rtol=1e-2)
    assert MODELS.build(dict(type='WithWeights', out_indices=(7,))).out_channels == (32,)


def test_without_weights_it_starts_as_any_network(tmp_path: Path, imported: Any) -> None:
    done = export_backbone('dna_b', 'Plain', tmp_path)
    assert [path.name for path in done.files] == ['plain.py', 'plain.json'] == sorted(os.listdir(tmp_path))[::-1]
    imported(done.files[0])
    net = MODELS.build(dict(type='Plain'))
    net.init_weights()
    assert net.arch == zoo.arch('dna_b')
    assert {layer['type'] for layer in net.init_cfg} == {'Kaiming', 'Constant'}


def test_what_a_search_derived(tmp_path: Path) -> None:
    found = tmp_path / 'derived' / 'arch.json'
    found.parent.mkdir()
    found.write_text(ARCH.format('json'))
    done = export_backbone(str(found), 'Found', tmp_path)
    assert ArchSpec.parse(json.loads((tmp_path / 'found.json').read_text())) == done.arch == ARCH


def test_weights_without_a_head_export_a_network_without(tmp_path: Path, imported: Any) -> None:
    done = export_backbone(ARCH, 'Headless', tmp_path, weights(tmp_path, out_indices=(6,)))
    assert done.arch.head_channels is None
    imported(done.files[0])
    with pytest.raises(ValueError, match='this network has no head, so no 7'):
        MODELS.build(dict(type='Headless', out_indices=(7,)))


def test_weights_that_do_not_fit_leave_nothing_behind(tmp_path: Path) -> None:
    checkpoint, out = weights(tmp_path), tmp_path / 'out'
    with pytest.raises(ValueError, match=r'epoch_1\.pth: tensor .* the architecture expects'):
        export_backbone('dna_a', 'MyNet', out, checkpoint)
    with pytest.raises(FileNotFoundError, match=r'seed checkpoint does not exist: nowhere\.pth'):
        export_backbone(ARCH, 'MyNet', out, 'nowhere.pth')
    assert not out.exists()


def test_overwriting_is_asked_for(tmp_path: Path) -> None:
    export_backbone(ARCH, 'MyNet', tmp_path, weights(tmp_path))
    module = (tmp_path / 'my_net.py').read_text()
    with pytest.raises(FileExistsError, match=r'my_net\.py exists: pass --overwrite'):
        export_backbone('dna_b', 'MyNet', tmp_path)
    assert ArchSpec.parse(str(tmp_path / 'my_net.json')).stages == ARCH.stages
    assert (tmp_path / 'my_net.py').read_text() == module
    export_backbone('dna_b', 'MyNet', tmp_path, overwrite=True)
    assert ArchSpec.parse(str(tmp_path / 'my_net.json')) == zoo.arch('dna_b')
    # weights of the network that was there are of no use to this one
    assert not (tmp_path / 'my_net.pth').exists()
    assert 'init_cfg: Any = INIT_CFG' in module and 'INIT_CFG = None' not in module


@pytest.mark.parametrize('name', ['my net', 'myNet', '1Net', 'My-Net', '', '../Net', 'None', 'Nät', None])
def test_names_that_are_none_for_a_class(name: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf'name must be a class name: .*, got {name!r}'):
        export_backbone(ARCH, name, tmp_path)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('DNA_a', 'is registered in mmnas_ext already'),
        ('SuperNet', 'is registered in mmnas_ext already'),
        ('FNASegHead', 'is registered in mmnas_ext already'),
        ('ResNet', 'is registered in mmdet already'),
        ('EncoderDecoder', 'is registered in mmseg already'),
        ('ImageClassifier', 'is registered in mmpretrain already'),
        ('Class', r'gives a module class\.py, which cannot be imported'),
        ('Torch', r'gives a module torch\.py, but there is a module torch already, .*__init__\.py'),
    ],
)
def test_names_that_are_taken(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"name '{name}' {message}.*choose another name"):
        export_backbone(ARCH, name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('name', 'stem'),
    [('MyNet', 'my_net'), ('DNASmall', 'dna_small'), ('DNA_e', 'dna_e'), ('Net2D', 'net2_d'), ('X', 'x')],
)
def test_module_is_named_after_the_class(name: str, stem: str, tmp_path: Path) -> None:
    assert export_backbone(ARCH, name, tmp_path).files == (tmp_path / f'{stem}.py', tmp_path / f'{stem}.json')


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(ROOT / 'tools' / 'export_backbone.py'))['main']
    given = [str(ROOT / 'mmnas_ext' / 'archs' / 'zoo' / 'dna_c.json'), '--name', 'MyNet', '--out', str(tmp_path)]
    main(given)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [str(tmp_path / 'my_net.py'), str(tmp_path / 'my_net.json')]
    assert "custom_imports = dict(imports=['my_net'])" in printed[2] and str(tmp_path) in printed[3]
    with pytest.raises(SystemExit):
        main(given)
    assert 'exists: pass --overwrite' in capsys.readouterr().err
    main([*given, '--overwrite', '--weights', str(weights(tmp_path, 'dna_c'))])
    assert (tmp_path / 'my_net.pth').is_file()
