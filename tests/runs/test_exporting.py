"""What leaves this project: run by others, compared with PyTorch, and nothing of it left where it is wrong."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import BaseDataElement
from torch import nn

from mmnas_ext.archs import ArchSpec, StageSpec, zoo
from mmnas_ext.backbones import MBNet
from mmnas_ext.cli import main as cli
from mmnas_ext.remap import load_seed
from mmnas_ext.remap.renaming import rename
from mmnas_ext.runs import export_timm, exporting
from mmnas_ext.runs.export_graphs import _quiet, _write, write_onnx
from mmnas_ext.runs.export_timm import ExportError, build_timm, check_timm, timm_code
from mmnas_ext.runs.exporting import (
    Subject,
    backbone_subject,
    compare,
    model_subject,
    name_outputs,
    real_image,
    verified,
    write_state_dict,
)
from tests.filling import fill_image

ROOT = Path(__file__).parents[2]
ARCH = ArchSpec((StageSpec(32, 8, ('k3_e1',), 1), StageSpec(8, 16, ('k5_e3', 'k3_e2'), 2)))
SE = ArchSpec((StageSpec(16, 8, ('k3_e1',), 1), StageSpec(8, 16, ('k5_e3', 'k3_e2_se0.25'), 2)), 24, 'swish', 1e-3)
BACKBONE = dict(type='mmnas_ext.MBNet', arch=ARCH.format('fna'), out_indices=(0, 1))
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
SIZE = (96, 128)


def detector(backbone: Any = BACKBONE) -> dict[str, Any]:
    anchors = dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[2, 4])
    head = dict(
        type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1, anchor_generator=anchors
    )
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True),
        backbone=backbone,
        neck=dict(type='FPN', in_channels=[8, 16], out_channels=8, num_outs=2),
        bbox_head=head,
        test_cfg=dict(nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=10),
    )


def segmentor() -> dict[str, Any]:
    head = dict(
        type='FCNHead', in_channels=16, in_index=1, channels=8, num_convs=1, num_classes=3, dropout_ratio=0.1,
        norm_cfg=dict(type='BN'), align_corners=False,
    )  # fmt: skip
    return dict(
        type='EncoderDecoder', backbone=BACKBONE, decode_head=head, test_cfg=dict(mode='whole'),
        data_preprocessor=dict(type='SegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=False),
    )  # fmt: skip


def trained(folder: Path, model: dict[str, Any], scope: str) -> Path:
    """A work dir as a run that has ended leaves it."""
    (folder / 'derived').mkdir(parents=True)
    (folder / 'adapt').mkdir()
    cfg = Config(dict(default_scope=scope, model=model))
    cfg.dump(folder / 'derived' / 'config.py')
    (folder / 'derived' / 'arch.json').write_text(ARCH.format('json'))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        built = MODELS.build(cfg.model)
    for key, tensor in built.state_dict().items():
        if key.endswith(('running_mean', 'running_var')):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim > 1:  # far from each other: the order of a detector's boxes is the same everywhere
            nn.init.normal_(tensor, std=1.5 * (tensor[0].numel()) ** -0.5)
    content = dict(state_dict=built.state_dict(), meta=dict(epoch=1, iter=2), optimizer={})
    torch.save(content, folder / 'adapt' / 'epoch_1.pth')
    return folder


def run_onnx(file: str | Path, image: torch.Tensor) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
    return [torch.from_numpy(each) for each in session.run(None, {'image': image.numpy()})]


def test_the_commands_of_the_docs_run_and_a_detector_predicts_from_its_graph(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    # a derived config has the epsilon of the seed's batch norms beside the architecture
    trained(Path('work_dirs/mine'), detector(dict(BACKBONE, norm_cfg=dict(type='BN', eps=0.25))), 'mmdet')
    text = (ROOT / 'docs' / 'export.md').read_text()
    commands = [line for code in re.findall(r'^```bash\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
                for line in code.splitlines()]  # fmt: skip
    assert len(commands) == 6
    for line in commands:
        words = shlex.split(line)
        assert words[0] == 'mmnas' and cli.main(words[1:]) == 0
    printed = capsys.readouterr().out
    assert '[torch.onnx]' not in printed
    assert 'mine.onnx: takes any batch and size, gives cls_score_0, cls_score_1, bbox_pred_0, bbox_pred_1; ' in printed
    assert 'backbone.onnx: takes any batch and size, gives stage1; ' in printed
    # what the head makes of the graph's maps is what the detector predicts
    model: Any = model_subject('work_dirs/mine').module.model
    image = fill_image((1, 3, *SIZE))
    maps = run_onnx('mine.onnx', image)
    metas = [dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1.0, 1.0))]
    with torch.no_grad():
        ours = model.bbox_head.predict_by_feat(maps[:2], maps[2:], batch_img_metas=metas)[0]
        theirs = model.bbox_head.predict_by_feat(*model(image, mode='tensor'), batch_img_metas=metas)[0]
    assert len(theirs.bboxes) == 10
    torch.testing.assert_close(ours.bboxes, theirs.bboxes, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(ours.scores, theirs.scores, rtol=1e-4, atol=1e-4)
    assert ours.labels.tolist() == theirs.labels.tolist()
    # the other files, as their readers take them
    notes = {prop.key: json.loads(prop.value) for prop in onnx.load('mine.onnx').metadata_props}
    assert notes['mmnas_ext.mean'] == MEAN and notes['mmnas_ext.order'] == 'rgb'
    assert ArchSpec.parse(notes['mmnas_ext.arch']) == ARCH.replace(bn_eps=0.25)
    model.load_state_dict(torch.load('mine.pth', weights_only=True), strict=True)
    graph = torch.export.load('mine.pt2').module()
    torch.testing.assert_close(list(graph(image)), maps, rtol=1e-4, atol=1e-4)
    features = run_onnx('backbone.onnx', image)
    net = load_backbone(Path('work_dirs/mine/adapt/epoch_1.pth'))
    torch.testing.assert_close(features, list(net(image)), rtol=1e-4, atol=1e-4)
    timm_net: dict[str, Any] = {}
    (snippet,) = re.findall(r'^```python\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    exec(snippet, timm_net)
    monkeypatch.delitem(sys.modules, 'blocks')
    assert len(timm_net['features']) == 1
    with torch.no_grad():
        torch.testing.assert_close(timm_net['net'].eval().forward_features(image), features[0], rtol=1e-4, atol=1e-4)
    assert (tmp_path / 'backbones' / 'my_net.py').is_file()


def load_backbone(checkpoint: Path) -> Any:
    state = torch.load(checkpoint, weights_only=True)['state_dict']
    net = MBNet(ARCH.replace(bn_eps=0.25), out_indices=(1,)).eval().requires_grad_(False)
    net.load_state_dict({key.removeprefix('backbone.'): t for key, t in state.items() if key.startswith('backbone.')})
    return net


def test_a_segmentors_graph_gives_logits_at_the_size_of_the_image(tmp_path) -> None:
    subject = model_subject(trained(tmp_path / 'run', segmentor(), 'mmseg'))
    done = write_onnx(subject, tmp_path / 'seg.onnx', (64, 96), real_image())
    assert (done.outputs, done.accepts) == (('logits',), 'any batch and size') and done.error <= 1e-4
    image = fill_image((2, 3, 50, 70))  # no multiple of any stride
    model: Any = subject.module.model
    metas = [dict(ori_shape=(50, 70), img_shape=(50, 70), pad_shape=(50, 70))] * 2
    with torch.no_grad():
        wanted = model.encode_decode(image, metas)
    assert wanted.shape == (2, 3, 50, 70)
    torch.testing.assert_close(run_onnx(done.path, image), [wanted], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('make', 'scope', 'order'), [(detector, 'mmdet', 'rgb'), (segmentor, 'mmseg', 'bgr')])
def test_an_image_is_normalised_as_the_model_does(tmp_path, make, scope, order) -> None:
    subject = model_subject(trained(tmp_path / 'run', make(), scope))
    assert subject.order == order
    image = real_image()[:64, :96]
    raw = torch.from_numpy(image.transpose(2, 0, 1).copy())
    samples = [BaseDataElement(metainfo=dict(img_shape=(64, 96)))]
    model: Any = subject.module.model
    theirs = model.data_preprocessor(dict(inputs=[raw], data_samples=samples), False)['inputs']
    torch.testing.assert_close(subject.normalise(image, (64, 96)), theirs if theirs.ndim == 4 else theirs[None])


class Fixed(nn.Module):
    """Gives a figure per image of 4x6 pixels, of no other size."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(72, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.line(image.flatten(1)),)


FIXED = Subject(Fixed().eval(), ('figure',), 'backbone', {})


def test_a_graph_says_what_it_takes(tmp_path) -> None:
    written = []

    def write(program: Any, names: Any, part: Path) -> Any:
        part.write_bytes(b'graph')
        written.append(names)
        return program.module()

    done = _write(FIXED, tmp_path / 'net', (4, 6), real_image(), False, write)
    assert str(done).startswith(f'{tmp_path / "net"}: takes any batch of this size, (2, 3, 4, 6), gives figure; ')
    assert (tmp_path / 'net').read_bytes() == b'graph' and set(written) == {('figure',)}


def test_what_computes_something_else_leaves_no_file(tmp_path) -> None:
    def write(program: Any, names: Any, part: Path) -> Any:
        part.write_bytes(b'graph')
        return lambda x: [each + 2e-4 for each in FIXED.module(x)]

    with pytest.raises(
        ExportError, match=r'cannot be exported so; ExportError: .* differ by 0.0002, and at most 0.0001'
    ):
        _write(FIXED, tmp_path / 'net', (4, 6), real_image(), False, write)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match='none'), verified(tmp_path / 'net') as part:
        part.write_bytes((tmp_path / 'none').read_bytes())
    with pytest.raises(FileNotFoundError), verified(tmp_path / 'net'):
        pass  # nothing was written
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_compared_by_their_own_size() -> None:
    large, small = torch.tensor([1000.0, 1.0]), torch.tensor([0.01])
    assert compare('x', [large], [large + 0.05]) == pytest.approx(5e-5, rel=1e-3)
    for wanted, got in (([large], [large + 0.2]), ([small], [small + 2e-4]), ([small], [small * float('nan')])):
        with pytest.raises(ExportError, match='outputs differ by'):
            compare('x', wanted, got)
    with pytest.raises(ExportError, match=r'shapes \[\(2,\)\], got \[\(1,\)\]'):
        compare('x', [large], [small])


def test_what_is_there_or_has_no_graph_is_refused_before_anything_is_written(tmp_path, capsys) -> None:
    run = trained(tmp_path / 'run', detector(), 'mmdet')
    (tmp_path / 'there.pth').touch()

    def refused(*words: str) -> str:
        with pytest.raises(SystemExit, match='2'):
            cli.main(['export', *words])
        return capsys.readouterr().err

    arch, new = str(run / 'derived' / 'arch.json'), str(tmp_path / 'new.onnx')
    assert 'say what is to be written: --onnx' in refused(arch)
    assert '--keys says how --state-dict is written' in refused(arch, '--onnx', new, '--keys', 'timm')
    assert 'there.pth exists: pass --overwrite' in refused(
        str(run), '--onnx', new, '--state-dict', str(tmp_path / 'there.pth')
    )
    assert 'without weights is of no use elsewhere: name its checkpoint' in refused(arch, '--onnx', new)
    for asked in (('--out-indices', '1'), ('--output-stride', '16')):
        assert f'--out-indices and --output-stride are of a backbone, got {run}, a' in refused(
            str(run), '--onnx', new, *asked
        )
    assert 'blocks.py goes beside it, got blocks.py' in refused(arch, '--timm', 'blocks.py')
    assert 'image none.jpg does not exist' in refused(str(run), '--onnx', new, '--image', 'none.jpg')
    (run / 'adapt' / 'epoch_1.pth').unlink()
    assert 'holds no whole checkpoint of a trained network' in refused(str(run), '--onnx', new)
    assert not Path(new).exists()
    model = nn.Module()
    model.roi_head = nn.Identity()
    with pytest.raises(ExportError, match='Module chooses proposals between its stages'):
        exporting._kind(model)


def test_a_model_of_another_network_is_refused(tmp_path) -> None:
    run, other = trained(tmp_path / 'det', detector(), 'mmdet'), trained(tmp_path / 'seg', segmentor(), 'mmseg')
    with pytest.raises(ValueError, match=r'epoch_1\.pth must hold the network of .*config\.py'):
        model_subject(run / 'derived' / 'config.py', other / 'adapt' / 'epoch_1.pth')
    Config(dict(model=detector(), derived=dict(model={}))).dump(tmp_path / 'search.py')
    with pytest.raises(ValueError, match=r'search\.py describes a search: export what it wrote'):
        model_subject(tmp_path / 'search.py')


@pytest.mark.parametrize('extra', [0, 1, 2])
def test_maps_are_named_by_kind_and_level(extra) -> None:
    head = nn.Module()
    given = [[torch.zeros(1, c, s, s) for s in (8, 1, 1)] for c in (4, 2, *[1] * extra)]  # two levels of one size
    if extra:
        head.loss_centerness = nn.Identity()
    module: Any = SimpleNamespace(model=lambda image, mode: tuple(given))
    module.model.bbox_head = head
    names = name_outputs(Subject(module, (), 'detector', {}), torch.zeros(1, 3, 8, 8))
    kinds = ['cls_score', 'bbox_pred', 'centerness', 'output3'][: 2 + extra]
    assert names == tuple(f'{kind}_{level}' for kind in kinds for level in (0, 1, 2))


def test_levels_of_a_detector_on_a_tiny_image_keep_their_names() -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(detector()).eval()
    module, image = exporting._Outputs(model, 'detector').eval(), torch.zeros(1, 3, 2, 2)
    with torch.no_grad():
        names = name_outputs(Subject(module, (), 'detector', {}), image)
        maps = dict(zip(names, module(image), strict=True))
    # both levels are of one pixel; one anchor has a score for each of two classes and four deltas
    assert {name: tuple(each.shape[1:]) for name, each in maps.items()} == {
        'cls_score_0': (2, 1, 1), 'cls_score_1': (2, 1, 1), 'bbox_pred_0': (4, 1, 1), 'bbox_pred_1': (4, 1, 1),
    }  # fmt: skip


def test_nothing_that_an_exporter_prints_is_shown(capsys) -> None:
    with _quiet():
        print('\N{WHITE HEAVY CHECK MARK}')
    assert capsys.readouterr().out == ''


def test_a_module_of_its_own_is_made_of_a_work_dir(tmp_path, capsys) -> None:
    run, out = trained(tmp_path / 'run', detector(), 'mmdet'), tmp_path / 'c d'

    def refused(*words: str) -> str:
        with pytest.raises(SystemExit, match='2'):
            cli.main(['export', *words, '--name', 'OfARun', '--out', str(out)])
        return capsys.readouterr().err

    assert f'--name takes a backbone, got {run / "derived" / "config.py"}, a whole model' in refused(
        str(run / 'derived' / 'config.py'), '--weights', str(run / 'adapt' / 'epoch_1.pth'), '--state-dict', str(out)
    )
    (tmp_path / 'none').mkdir()
    assert 'arch.json does not exist' in refused(str(tmp_path / 'none'))
    assert not out.exists()
    assert cli.main(['export', str(run), '--name', 'OfARun', '--out', str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"PYTHONPATH='{out}' mmnas train CONFIG" in printed and printed.isascii()
    assert ArchSpec.parse(out / 'of_a_run.json').stages == ARCH.stages
    theirs = torch.load(run / 'adapt' / 'epoch_1.pth', weights_only=True)['state_dict']
    mine = torch.load(out / 'of_a_run.pth', weights_only=True)
    mine = mine.get('state_dict', mine)
    assert all(torch.equal(tensor, theirs[f'backbone.{key}']) for key, tensor in mine.items()) and mine


def test_keys_are_those_of_other_projects() -> None:
    with torch.device('meta'):
        for name, keys, theirs in (
            ('mobilenet_v2', 'torchvision', torchvision.models.mobilenet_v2()),
            ('dna_a', 'timm', build_timm(zoo.arch('dna_a'))),
        ):
            arch = zoo.arch(name)
            ours = rename(MBNet(arch, out_indices=(7,)).state_dict(), arch, keys)
            expected = {key: t.shape for key, t in theirs.state_dict().items() if not key.startswith('classifier')}
            assert {key: tensor.shape for key, tensor in ours.items()} == expected
    with pytest.raises(ValueError, match=r"keys 'torchvision' have none for the squeeze-excite of layer 0 of stage 0"):
        rename({}, zoo.arch('dna_a'), 'torchvision')
    with pytest.raises(ValueError, match=r"keys must be one of mbnet, timm, torchvision, got 'keras'"):
        rename({}, ARCH, 'keras')


@pytest.mark.parametrize('keys', ['', 'mbnet', 'timm', 'torchvision'])
def test_weights_are_read_back_by_those_who_read_such_keys(tmp_path, keys) -> None:
    arch = SE if keys != 'torchvision' else ARCH
    source = tmp_path / 'source.pth'
    net = MBNet(arch, out_indices=(len(arch.stages) - (arch.head_channels is None),))
    torch.save(net.state_dict(), source)
    said = write_state_dict(backbone_subject(arch, source, (1,)), tmp_path / 'out.pth', keys)
    assert f'{len(net.state_dict())} tensors, read back and compared' in said
    seed = load_seed(tmp_path / 'out.pth', arch)
    assert all(torch.equal(tensor, net.state_dict()[key]) for key, tensor in seed.state_dict.items())
    with pytest.raises(FileExistsError, match='exists: pass --overwrite'):
        write_state_dict(backbone_subject(arch, source, (1,)), tmp_path / 'out.pth', keys)


def test_weights_that_differ_when_read_back_leave_no_file(tmp_path, monkeypatch) -> None:
    torch.save(MBNet(ARCH, out_indices=(1,)).state_dict(), tmp_path / 'source.pth')
    subject = backbone_subject(ARCH, tmp_path / 'source.pth')
    write = exporting.save
    monkeypatch.setattr(exporting, 'save', lambda state, file: write({k: t + 1 for k, t in state.items()}, file))
    with pytest.raises(ExportError, match=r'\d+ tensors read back differ from the network'):
        write_state_dict(subject, tmp_path / 'out.pth')
    assert [path.name for path in tmp_path.iterdir()] == ['source.pth']


def test_timm_builds_the_same_network(monkeypatch) -> None:
    state = MBNet(SE, out_indices=(2,)).state_dict()
    params = sum(tensor.numel() for key, tensor in state.items() if key.endswith(('weight', 'bias')))
    assert check_timm(SE, state) == f'timm builds the same network: {params} parameters, the same features'
    assert check_timm(zoo.arch('fna_retinanet')).startswith('timm builds the same network: ')
    other = SE.replace(stages=(SE.stages[0], StageSpec(8, 16, ('k3_e3', 'k3_e2_se0.25'), 2)))
    monkeypatch.setattr(export_timm, 'build_timm', lambda arch: build_timm(other))
    with pytest.raises(
        ExportError, match=r'blocks\.1\.0\.conv_dw\.weight must be \(24, 1, 5, 5\), got \(24, 1, 3, 3\)'
    ):
        check_timm(SE)
    odd = SE.replace(stages=(SE.stages[0], StageSpec(8, 12, ('k5_e3', 'k3_e3'), 2)))
    monkeypatch.setattr(export_timm, 'build_timm', build_timm)
    with pytest.raises(ExportError, match=r'must be \(36,\), got \(40,\) \(timm rounds .* to multiples of 8\)'):
        check_timm(odd)
    monkeypatch.setattr(export_timm, 'build_timm', lambda arch: build_timm(SE.replace(act='relu')))
    with pytest.raises(ExportError, match='of the same tensors that computes something else'):
        check_timm(SE, state)


def test_timm_builds_the_same_fused_layers_and_activations() -> None:
    arch = ArchSpec(
        (
            StageSpec(8, 8, ('k3_e1_relu', 'k3_e1'), 1),
            StageSpec(8, 16, ('fused_k3_e1', 'fused_k3_e1_swish'), 2),
            StageSpec(16, 24, ('fused_k3_e2.5_se0.25', 'k5_e2.3'), 2),
        ),
        head_channels=32,
        act='hswish',
    )
    assert check_timm(arch).startswith('timm builds the same network: ')
    assert timm_code(arch).count('"cn_') == 2


def test_block_strings_are_printed_or_written(tmp_path, capsys) -> None:
    assert cli.main(['export', SE.format('json'), '--timm']) == 0
    assert ArchSpec.parse(capsys.readouterr().out.splitlines()[0]) == SE
    assert cli.main(['export', SE.format('json'), '--timm', str(tmp_path / 'blocks.json')]) == 0
    assert ArchSpec.parse((tmp_path / 'blocks.json').read_text()) == SE
    module = tmp_path / 'blocks.py'
    printed = capsys.readouterr().out
    assert printed.startswith(f'{tmp_path / "blocks.json"}: timm builds the same network')
    assert printed.endswith(f'; build() in {module} does\n')
    # activation, epsilon and head are those of the network; weights without a head have none
    built = runpy.run_path(str(module))['build']()
    assert (built.bn1.eps, type(built.bn1.act), built.num_features) == (1e-3, nn.SiLU, 24)
    state = MBNet(SE, out_indices=(1,)).state_dict()
    assert 'num_features=0,' in timm_code(SE, state) and 'act_layer=nn.ReLU6,' in timm_code(ARCH, state)
    with pytest.raises(SystemExit, match='2'):
        cli.main(['export', SE.format('json'), '--timm', str(tmp_path / 'blocks.txt')])
    assert 'blocks.py exists: pass --overwrite' in capsys.readouterr().err
    assert check_timm(SE, MBNet(SE, out_indices=(2,)).state_dict(), built).endswith('the same features')
    with pytest.raises(ExportError, match='of the same tensors that computes something else'):
        check_timm(SE, None, build_timm(SE.replace(bn_eps=0.5)))
    assert isinstance(real_image(), np.ndarray)
