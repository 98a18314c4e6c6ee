"""The documentation says what is so: its tables, the functions and commands that it names, its texts of spaces."""

import argparse
import ast
import importlib.util
import inspect
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, CellSpace, LayerSpec, Limit, SearchSpace, cost, places, zoo
from mmnas_ext.backbones.chain import default_outputs
from mmnas_ext.backbones.named import NAMES
from mmnas_ext.cli.main import COMMANDS
from mmnas_ext.registry import MODELS
from mmnas_ext.search.decision import Decision, LayerChoice

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / 'docs').glob('*.md'))
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding='utf-8') for path in (*PAGES, ROOT / 'README.md')}
# what would tell of the machines and the people that this was written on
PRIVATE = re.compile(r'/(?:work|tmp|root|home)/|\bissue \d|\bsession \d|pypi\.|localhost|127\.0\.0\.1:\d')


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a language in a page."""
    return re.findall(rf'^```{language}\n(.*?)^```', TEXTS[page], re.DOTALL | re.MULTILINE)


def table(page: str, after: str) -> list[list[str]]:
    """Rows of the first table of a page behind a text, without head and rule."""
    lines = TEXTS[page].split(after, 1)[1].lstrip().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith('|'))
    rows = []
    for line in lines[start:]:
        if not line.startswith('|'):
            break
        rows.append(re.split(r'\s*\|\s*', line.strip())[1:-1])
    return rows[2:]


def defined(file: str) -> set[str]:
    """Functions, classes and methods that a file defines, dotted."""
    found = set()
    for node in ast.parse((ROOT / file).read_text(encoding='utf-8')).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            found |= {f'{node.name}.{each.name}' for each in inner if isinstance(each, ast.FunctionDef)}
    return found


def test_the_site_has_every_page_once() -> None:
    loader = type('Loader', (yaml.SafeLoader,), {})
    site = yaml.load((ROOT / 'mkdocs.yml').read_text(), loader)

    def listed(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for each in (entry.values() if isinstance(entry, dict) else entry) for page in listed(each)]

    assert sorted(listed(site['nav'])) == [path.name for path in PAGES]
    assert not re.search(r'https?://', (ROOT / 'mkdocs.yml').read_text())  # what is built asks no other host
    assert site['theme']['font'] is False


@pytest.mark.parametrize('page', TEXTS)
def test_a_page_names_nothing_private_and_its_python_can_be_read(page: str) -> None:
    assert PRIVATE.findall(TEXTS[page]) == []
    for code in blocks(page, 'python'):
        ast.parse(code)


def options_by_command() -> dict[str, set[str]]:
    """Subcommands of ``mmnas`` with their options."""
    parsers = {name: command.fill(argparse.ArgumentParser()) for name, command in COMMANDS.items()}
    return {name: set(parser._option_string_actions) for name, parser in parsers.items()}


@pytest.mark.parametrize('page', TEXTS)
def test_a_subcommand_that_a_page_names_exists(page: str) -> None:
    known = options_by_command()
    lines = [line for code in blocks(page, 'bash') for line in code.splitlines()]
    inline = re.findall(r'`(mmnas [a-z][^`\n]*)`', TEXTS[page])
    for line in (*lines, *inline):
        found = re.match(r'\s*mmnas ([a-z]+)(.*)', line.split('  #')[0])
        if found is None:
            continue
        assert found[1] in known, line
        unknown = {option for option in re.findall(r'(?<!\S)--[a-z][\w-]*', found[2]) if option not in known[found[1]]}
        assert not unknown, line
        config = re.match(r' ([a-z]\w+)(?!\S)', found[2])
        if config and found[1] in ('train', 'config', 'rate', 'select', 'compare', 'latency'):
            assert (ROOT / f'configs/{config[1]}.py').is_file(), line


def test_commands_were_found_at_all() -> None:
    assert [line.split()[:2] for code in blocks('docs/selection.md', 'bash') for line in code.strip().splitlines()] == [
        ['mmnas', 'select'], ['mmnas', 'select'], *[['mmnas', 'train']] * 4,
    ]  # fmt: skip
    assert 'mmnas train fna_retinanet_coco' in TEXTS['README.md']
    assert blocks('docs/fna-detector.md', 'bash')


def test_the_table_of_the_zoo_is_what_is_built() -> None:
    rows = table('docs/swap-backbone.md', '<!-- zoo table')
    assert [row[0] for row in rows] == [f'`mmnas_ext.{name}`' for name in NAMES]
    for (kind, channels, strides, default, macs, params), name in zip(rows, NAMES, strict=True):
        arch = zoo.arch(NAMES[name])
        every = range(len(arch.stages) + bool(arch.head_channels))
        with torch.device('meta'):  # of its shapes alone
            net = MODELS.build(dict(type=kind.strip('`'), out_indices=tuple(every)))
        assert (channels, strides) == tuple(', '.join(map(str, each)) for each in (net.out_channels, net.out_strides))
        assert default == ', '.join(str(net.out_channels[index]) for index in default_outputs(arch))
        assert (macs, params) == tuple(f'{each:,}' for each in cost(arch, (224, 224)))
        # what is built has these strides: tests/backbones/test_contract.py
        dilated = [[stage[-1].reached for stage in places(arch, output_stride=stride).stages] for stride in (16, 8)]
        first, second = (', '.join(map(str, each)) for each in dilated)
        said = f'With `output_stride=16` the strides are {first}; with 8 they are {second}.'
        assert said in TEXTS['docs/swap-backbone.md']


@pytest.mark.parametrize('number', [0, 1])
def test_a_swapped_field_gives_what_is_read(number: int) -> None:
    lines = blocks('docs/swap-backbone.md', 'python')[number].split('\n\n', 1)[1]
    model = Config.fromstring(lines, '.py').model
    backbone = {key: value for key, value in model.backbone.items() if key != '_delete_'}
    with torch.device('meta'):
        net = MODELS.build(backbone)
    if 'neck' in model:
        assert tuple(model.neck.in_channels) == net.out_channels == (24, 32, 96, 320)
    else:
        # the stock config's heads read features 3 and 2
        assert (model.decode_head.in_channels, model.auxiliary_head.in_channels) == (
            net.out_channels[3],
            net.out_channels[2],
        )
        assert net.out_strides == (8, 8, 8, 8)
        assert model.pretrained is None


def test_every_equation_has_its_function() -> None:
    named = []
    for line in TEXTS['docs/how-it-works.md'].splitlines():
        cells = line.split(' | ')
        if line.startswith('| ') and len(cells) == 3 and '`' in cells[1]:
            pairs = re.findall(r'`(mmnas_ext/[\w/]+\.py)` `([\w.]+)`', cells[1])
            assert len(pairs) == cells[1].count('.py`')
            assert re.fullmatch(r'`tests/[\w/]+\.py` \|', cells[2])
            named += pairs
    assert len(named) > 35
    assert [(file, name) for file, name in named if name not in defined(file)] == []


def test_the_picture_of_a_decision_fills_what_is_decided() -> None:
    spec = importlib.util.spec_from_file_location('docs_pictures', ROOT / 'docs/pictures.py')
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    layers = (
        LayerChoice('1.0', 'k3_e6', 'k5_e6', 0.02, 0.01, 0.98, {}),
        LayerChoice('1.1', 'skip', 'k3_e3', -0.01, 0.02, 0.31, {}),
    )
    decision = Decision('measured', 'loss', zoo.arch('mobilenet_v2'), 'macs', {'macs': 1.0}, Limit(), layers)
    axes = pictures.decision_figure(decision).axes[0]
    assert axes.get_title('left') == '1 of 2 layers are 95% certain'
    assert [label.get_text() for label in axes.get_yticklabels()] == ['1.0  k3_e6 over k5_e6', '1.1  skip over k3_e3']
    points = axes.collections[-1]
    assert points.get_offsets().tolist() == [[0.02, 2], [-0.01, 1]]
    assert [list(colour[:3]) == [1, 1, 1] for colour in points.get_facecolors()] == [False, True]


def test_every_name_of_the_api_page_is_public_and_described() -> None:
    named = re.findall(r'^::: (mmnas_ext\.\w+)\.(\w+)$', TEXTS['docs/api.md'], re.MULTILINE)
    assert len(named) > 30
    for room, name in named:
        module = importlib.import_module(room)
        assert name in module.__all__
        assert len(inspect.getdoc(getattr(module, name))) > 40


def test_texts_of_spaces_and_networks_are_read() -> None:
    space, cells = blocks('docs/own-search.md', 'json')
    assert SearchSpace.parse(space).size == 3 * 4 * 2 * 2
    assert [len(stage.cells) for stage in CellSpace.parse(json.loads(cells)).stages] == [1, 2, 2]
    text = next(code for code in blocks('docs/own-search.md', 'text') if code.startswith('[['))
    assert ArchSpec.parse(text.strip()) in SearchSpace.parse(space).__class__.parse(
        {**json.loads(space), 'act': 'swish'}
    )
    spoilt = space.replace('"k5_e6"]', '"k4_e6"]', 1)
    with pytest.raises(ValueError, match=r'stages\[1\]\.layers\[0\]\[2\]'):
        SearchSpace.parse(spoilt)


@pytest.mark.parametrize(
    ('token', 'message'), [('k4_e3', 'odd'), ('k101_e3', 'unknown'), ('k3_e0', '1..99'), ('k3_e3_se1.5', 'unknown')]
)
def test_the_grammar_of_tokens_is_that_of_the_page(token: str, message: str) -> None:
    assert LayerSpec.parse('k5_e3_se0.25') == LayerSpec(5, 3, 0.25)
    with pytest.raises(ValueError, match=message):
        LayerSpec.parse(token)


def test_names_of_spaces_on_the_page_are_those_of_the_zoo() -> None:
    line = next(line for line in TEXTS['docs/own-search.md'].splitlines() if line.startswith("space = 'my_space.json'"))
    named = re.split(r',\s*', line.partition('a name: ')[2])
    assert set(named) == set(zoo.spaces()) - {'dna'}


def test_the_comparison_says_what_was_read_of_each() -> None:
    page = TEXTS['docs/comparison.md']
    names = ('MMRazor', 'FNA', 'DNA', 'once-for-all', 'RF-DETR', 'NVIDIA Model Optimizer', 'NNI')
    read = table('docs/comparison.md', '## What was read')
    for name in names:
        assert any(row[0].startswith(name) for row in read), name
    assert all(len(row) == 3 and re.search(r'commit|2026-11-26', row[2]) for row in read)
    assert 'read on 2026-11-26' in page
    for heads in re.findall(r'^\| \| (.*) \|$', page, re.MULTILINE)[:2]:
        assert len(heads.split(' | ')) == 4


def test_the_readme_is_short_and_still_starts_a_fresh_machine() -> None:
    text = TEXTS['README.md']
    assert len(text.splitlines()) < 80
    assert text.count('![') == 1
    for needed in ('make demo ', 'make test ', 'apt-get install', 'pip install .'):
        assert needed in text
    linked = set(re.findall(r'\]\(docs/([\w-]+\.md)', text))
    assert linked >= {path.name for path in PAGES} - {'one-line.md', 'api.md', 'demos.md'}
