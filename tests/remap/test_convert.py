"""Released checkpoints become plain files: the DNA authors' figures come out of what loads them."""

import argparse
import runpy
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS as MM_MODELS
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from mmnas_ext.archs import ArchSpec, cost, zoo
from mmnas_ext.backbones import MBNet
from mmnas_ext.registry import MODELS
from mmnas_ext.remap import load_seed
from mmnas_ext.remap.convert import Converted, convert
from tests.filling import assert_described, fill_image, filled
from tests.remap.samples import golden, reference

NAMES = ('DNA_a', 'DNA_b', 'DNA_c', 'DNA_d')
TOOL = Path(__file__).parents[2] / 'tools' / 'convert_checkpoint.py'
# parameters with the classifier of 1000, and multiply-adds at 224x224, of the authors' own code
COUNTS = {
    'DNA_a': (4_243_318, 335_141_728),
    'DNA_b': (4_918_180, 392_492_032),
    'DNA_c': (5_273_896, 450_138_976),
    'DNA_d': (6_409_486, 592_837_792),
}


def averaged(name: str) -> dict[str, Tensor]:
    return filled(golden('dna.json')[name]['tensors'])


def trained(name: str) -> dict[str, Tensor]:
    """Other weights of the same network."""
    return {key: 0.5 * tensor if tensor.is_floating_point() else tensor for key, tensor in averaged(name).items()}


def released(folder: Path, name: str = 'DNA_a') -> Path:
    """A file as timm 0.1.14 writes it: weights, their average, and what a run needs besides."""
    path = folder / f'{name}.pth.tar'
    content = dict(
        epoch=7, arch=name, state_dict=trained(name), state_dict_ema=averaged(name),
        optimizer=dict(state={}, param_groups=[dict(lr=0.1)]), args=argparse.Namespace(model=name), metric=0.0,
    )  # fmt: skip
    torch.save(content, path)
    return path


def saved(folder: Path, content: Any, name: str = 'given.pth') -> Path:
    torch.save(content, folder / name)
    return folder / name


def classifier(name: str, checkpoint: Path | None = None, classes: int = 1000) -> nn.Module:
    """MMPretrain's own classifier around one of our networks, its weights from a file."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        net = MM_MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=dict(type=f'mmnas_ext.{name}', out_indices=(7,)),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=classes, in_channels=1280),
                init_cfg=checkpoint and dict(type='Pretrained', checkpoint=str(checkpoint)),
            )
        )
    net.init_weights()
    return net.eval()


@pytest.mark.parametrize('name', NAMES)
def test_features_and_logits_are_the_authors(name: str, tmp_path: Path) -> None:
    figures = golden('dna.json')[name]
    convert(released(tmp_path, name), tmp_path / 'plain.pth', classifier=True)
    net = classifier(name, tmp_path / 'plain.pth')
    with torch.no_grad():
        (features,) = net.extract_feat(fill_image(figures['input']))
        logits = net(fill_image(figures['input']))
    assert_described(features, figures['features'], rtol=1e-4)
    assert_described(logits, figures['outputs'][0], rtol=1e-4)


def counted(net: nn.Module) -> tuple[int, int]:
    """What an image of 224x224 costs: multiply-adds of convolutions and linear layers; and all else that adds up.

    The latter as the authors' counter has it: two operations per value that a batch norm puts out, one per value that a
    convolution adds its bias to, and one per value that the last pooling reads.
    """
    macs = others = 0

    def count(layer: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        nonlocal macs, others
        if isinstance(layer, nn.Conv2d | nn.Linear):
            macs += output[0].numel() * layer.weight[0].numel()
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            others += output.numel()
        elif isinstance(layer, nn.BatchNorm2d):
            others += 2 * output.numel()
        elif isinstance(layer, nn.AdaptiveAvgPool2d):
            others += inputs[0].numel()

    for module in net.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        net.to('meta')(torch.empty(1, 3, 224, 224, device='meta'))
    return macs, others


@pytest.mark.parametrize('name', NAMES)
def test_parameters_and_multiply_adds_are_the_authors(name: str) -> None:
    figures = golden('dna.json')[name]
    params, macs = COUNTS[name]
    assert (figures['params'], figures['macs_224']) == (params, macs)
    net = classifier(name)
    assert sum(p.numel() for p in net.parameters()) == params
    assert counted(net)[0] == macs
    priced = cost(zoo.arch(name.lower()), (224, 224), head=True)
    assert priced.macs + 1280 * 1000 == macs
    assert priced.params + 1280 * 1000 + 1000 == params


# the paper's, in M; of DNA-b it prints 394, which this way of counting does not give
@pytest.mark.parametrize(('name', 'published'), [('DNA_a', 348), ('DNA_b', 406), ('DNA_c', 466), ('DNA_d', 611)])
def test_published_multiply_adds_count_norms_biases_and_pooling_as_well(name: str, published: int) -> None:
    macs, others = counted(classifier(name))
    assert round((macs + others) / 1e6) == published
    assert round(macs / 1e6) < published


def test_backbone_alone_loads_as_pretrained_and_as_a_seed(tmp_path: Path) -> None:
    done = convert(released(tmp_path), tmp_path / 'deep' / 'plain.pth')
    net = MODELS.build(
        dict(type='mmnas_ext.DNA_a', out_indices=(7,), init_cfg=dict(type='Pretrained', checkpoint=str(done.path)))
    )
    net.init_weights()
    figures = golden('dna.json')['DNA_a']
    with torch.no_grad():
        (output,) = net.eval()(fill_image(figures['input']))
    assert_described(output.mean((2, 3)), figures['features'])
    # a detector's backbone has no head, and finds all else that it needs
    headless = MODELS.build(dict(type='mmnas_ext.DNA_a', init_cfg=dict(type='Pretrained', checkpoint=str(done.path))))
    headless.init_weights()
    expected = load_seed(released(tmp_path)).state_dict
    assert all(torch.equal(tensor, expected[key]) for key, tensor in headless.state_dict().items())
    seed = load_seed(done.path)
    assert seed.arch == zoo.arch('dna_a') and done.arch == seed.arch
    assert seed.state_dict.keys() == expected.keys() == torch.load(done.path, weights_only=True).keys()
    assert list(tmp_path.rglob('*.part')) == []


def test_keys_are_those_of_what_reads_them(tmp_path: Path) -> None:
    plain, whole = (convert(released(tmp_path), tmp_path / f'{i}.pth', classifier=bool(i)) for i in (0, 1))
    state, built = torch.load(plain.path, weights_only=True), MBNet('dna_a', out_indices=(7,)).state_dict()
    assert list(state) == list(built)
    assert {key: tensor.dtype for key, tensor in state.items()} == {key: t.dtype for key, t in built.items()}
    assert list(torch.load(whole.path, weights_only=True)) == list(classifier('DNA_a').state_dict())
    assert (plain.classes, whole.classes) == (None, 1000)
    assert (plain.tensors, whole.tensors) == (490, 492)


@pytest.mark.parametrize('ema', [True, False])
def test_average_is_preferred_and_can_be_refused(ema: bool, tmp_path: Path) -> None:
    done = convert(released(tmp_path), tmp_path / 'plain.pth', ema=ema)
    weight = torch.load(done.path, weights_only=True)['stem.conv.weight']
    assert torch.equal(weight, (averaged if ema else trained)('DNA_a')['conv_stem.weight'])
    assert done.container == ('state_dict_ema' if ema else 'state_dict')


@pytest.mark.parametrize('ema', [True, False])
def test_mmengine_keeps_the_average_where_weights_are_expected(ema: bool, tmp_path: Path) -> None:
    first, second = classifier('DNA_a', classes=3).state_dict(), classifier('DNA_a', classes=3).state_dict()
    content = dict(
        state_dict=first,
        ema_state_dict={'steps': torch.tensor(9), **{f'module.{key}': tensor for key, tensor in second.items()}},
    )
    done = convert(saved(tmp_path, content), tmp_path / 'plain.pth', classifier=True, ema=ema)
    state = torch.load(done.path, weights_only=True)
    expected = first if ema else second
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in state.items())
    assert not torch.equal(first['head.fc.weight'], second['head.fc.weight'])


def test_without_an_average_the_weights_are_taken(tmp_path: Path) -> None:
    for ema in (True, False):
        done = convert(saved(tmp_path, averaged('DNA_a')), tmp_path / 'plain.pth', ema=ema)
        assert done.container == ''
        stem = torch.load(done.path, weights_only=True)['stem.conv.weight']
        assert torch.equal(stem, averaged('DNA_a')['conv_stem.weight'])


@pytest.mark.parametrize(
    ('layout', 'layer'),
    [
        ('torchvision/mobilenet_v2', 'classifier.1'),
        ('timm/efficientnet_lite0', 'classifier'),
        ('fna/mbv2_imagenet', 'classifier'),
        ('efficientnet_lite_pytorch/lite0', '_fc'),
    ],
)
def test_classifiers_of_other_projects(layout: str, layer: str, tmp_path: Path) -> None:
    tensors = reference(layout)
    shapes = {f'{layer}.weight': (1000, 1280), f'{layer}.bias': (1000,)}
    given = {**tensors, **{key: torch.randn(shape) for key, shape in shapes.items()}}
    done = convert(saved(tmp_path, given), tmp_path / 'plain.pth', classifier=True)
    state = torch.load(done.path, weights_only=True)
    assert torch.equal(state['head.fc.weight'], given[f'{layer}.weight'])
    assert torch.equal(state['head.fc.bias'], given[f'{layer}.bias'])


def test_fna_seed_classifies_as_the_authors_code_does(tmp_path: Path) -> None:
    figures = golden('remap_seeds.json')['fna/mbv2_imagenet']
    # with PyTorch's epsilon it would not: the file brings its own, 1e-3
    convert(saved(tmp_path, reference('fna/mbv2_imagenet')), tmp_path / 'plain.pth', classifier=True)
    net = classifier('MobileNetV2MB', tmp_path / 'plain.pth')
    assert net.backbone.bn_eps == 1e-3
    with torch.no_grad():
        assert_described(net(fill_image(figures['input'])), figures['logits'])


def test_what_was_converted_converts_to_itself(tmp_path: Path) -> None:
    first = convert(saved(tmp_path, reference('fna/mbv2_imagenet')), tmp_path / 'a.pth', classifier=True)
    second = convert(first.path, tmp_path / 'b.pth', classifier=True)
    a, b = (torch.load(done.path, weights_only=True) for done in (first, second))
    assert list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)
    assert a._metadata == b._metadata
    assert a._metadata['backbone']['bn_eps'] == first.arch.bn_eps == 1e-3


def test_architecture_that_shapes_do_not_tell(tmp_path: Path) -> None:
    source = saved(tmp_path, reference('timm/efficientnet_lite0'))
    assert convert(source, tmp_path / 'plain.pth').arch.bn_eps is None
    # the zoo's 1e-3 is that of the weights that it was published with, and these do not tell theirs
    assert convert(source, tmp_path / 'plain.pth', 'efficientnet_lite0').arch.bn_eps is None
    written = ArchSpec.parse('efficientnet_lite0').format('fna')
    assert convert(source, tmp_path / 'plain.pth', written).arch.bn_eps == 1e-3
    assert load_seed(tmp_path / 'plain.pth').bn_eps == 1e-3
    with pytest.raises(ValueError, match=r'given\.pth: tensor stages.* is not in the checkpoint'):
        convert(source, tmp_path / 'plain.pth', 'efficientnet_lite2')


NO_CLASSIFIER = 'must be one linear layer .* got none; without --classifier only the backbone is converted'


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'classifier.weight': None, 'classifier.bias': None}, NO_CLASSIFIER),
        ({'classifier.bias': None}, NO_CLASSIFIER),
        ({'classifier.weight': [10, 1280, 1, 1], 'classifier.bias': [10]}, NO_CLASSIFIER),
        (
            {'classifier.1.weight': [9, 1280], 'classifier.1.bias': [9]},
            r"got several, \['classifier', 'classifier.1'\]",
        ),
        ({'classifier.weight': [10, 320]}, 'the classifier classifier must have 1280 input channels, got 320'),
    ],
)
def test_checkpoint_without_a_classifier_that_fits(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    state = averaged('DNA_a')
    for key, shape in changed.items():
        state.pop(key, None)
        if shape:
            state[key] = torch.zeros(shape)
    source = saved(tmp_path, state)
    with pytest.raises(ValueError, match=rf'given\.pth: .*{message}'):
        convert(source, tmp_path / 'plain.pth', classifier=True)
    assert not (tmp_path / 'plain.pth').exists()
    assert convert(source, tmp_path / 'plain.pth').tensors == 490


def test_what_cannot_be_read_or_written(tmp_path: Path) -> None:
    source, target = released(tmp_path), tmp_path / 'plain.pth'
    with pytest.raises(FileNotFoundError, match=r'seed checkpoint does not exist: .*nowhere\.pth\.tar'):
        convert(tmp_path / 'nowhere.pth.tar', target)
    with pytest.raises(ValueError, match=r"unknown checkpoint format: the first of 1 keys are \['layer1\.weight'\]"):
        convert(saved(tmp_path, {'layer1.weight': torch.ones(1)}), target)
    with pytest.raises(ValueError, match=r"must have tensors by name, got \['state_dict_ema'\]"):
        convert(saved(tmp_path, dict(state_dict_ema=averaged('DNA_a'))), target, ema=False)
    with pytest.raises(ValueError, match='out must be a file, got the folder'):
        convert(source, tmp_path)
    with pytest.raises(ValueError, match=r'out must not be the checkpoint .*DNA_a\.pth\.tar for both'):
        convert(source, source)
    assert not target.exists()


def test_a_file_that_is_there_is_replaced(tmp_path: Path) -> None:
    target = saved(tmp_path, OrderedDict(old=torch.ones(1)), 'plain.pth')
    convert(released(tmp_path), target)
    assert 'old' not in torch.load(target, weights_only=True)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(TOOL))['main']
    source, target = released(tmp_path), tmp_path / 'plain.pth'
    main([str(source), str(target)])
    assert capsys.readouterr().out.startswith(f'{target}: backbone, 490 tensors (from its state_dict_ema); [[32, 16], ')
    monkeypatch.setattr(sys, 'argv', ['x', str(source), str(target), '--classifier', '--no-ema', '--arch', 'dna_a'])
    main()
    assert 'classifier of 1000 classes, 492 tensors (from its state_dict)' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(source), str(target), '--arch', 'dna_d'])
    assert 'of another network' in capsys.readouterr().err


def test_report_says_what_was_written() -> None:
    done = Converted(Path('a.pth'), zoo.arch('mobilenet_v2'), '', 312, None)
    assert str(done).startswith('a.pth: backbone, 312 tensors; [[32, 16]')
