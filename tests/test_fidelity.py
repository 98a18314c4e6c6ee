"""docs/fidelity.md is what the configs and the tables of the authors' settings say, and nothing is left out."""

from pathlib import Path
from typing import Any

import pytest

from tests.fidelity import render
from tests.fidelity.render import Table, complaints, equal, parse, shown
from tests.small import CONFIGS, read

CONFIG = 'retinanet_fna_coco.py'
HEAD = f"config = '{CONFIG}'\ntitle = 'A test'\nsource = 'nobody'\n"
# covers a whole config, so that a test may leave out what it is about
ALL = ''.join(f"[[row]]\nkey = '{key}'\nreason = 'x'\n" for key in (
    'model', 'train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr', 'test_dataloader',
    'test_evaluator', 'randomness',
))  # fmt: skip


def test_the_page_is_what_is_made() -> None:
    assert render.PAGE.read_text(encoding='utf-8') == render.page(), 'run python -m tests.fidelity.render'


@pytest.mark.parametrize('name', render.names())
def test_a_table_is_complete_and_gives_its_reasons(name: str) -> None:
    assert complaints(parse(name)) == []


def test_every_config_has_a_table_or_a_reason_to_have_none() -> None:
    assert render.without_table() == []
    assert set(render.untold()) < set(CONFIGS)
    tables = {parse(name).config for name in render.names()}
    assert {'fna_retinanet_coco.py', 'fna_retinanet_coco_1gpu.py', 'random_deeplabv3_cityscapes.py'} <= tables
    assert not tables & set(render.untold())


MUTATIONS: dict[str, dict[str, Any]] = {
    'dna_imagenet': {
        'derived.optim_wrapper.optimizer.lr': 5e-3,
        'derived.weights': 'remapped',
        'derived.config': 'dna_b_imagenet.py',
    },
    # together, as to derive the second half of a host takes a second
    'fna_retinanet_coco': {
        'default_hooks.param_scheduler': None,
        'load_from': 'x.pth',
        'train_dataloader.dataset.ann_file': 'annotations/instances_val2017.json',
        'train_dataloader.dataset.data_prefix.img': 'val2017/',
        'test_cfg.fp16': True,
        'sync_bn': 'torch',
        'model_wrapper_cfg.type': 'MMDistributedDataParallel',
    },
}


@pytest.mark.parametrize('name', MUTATIONS)
def test_what_is_set_beside_the_table_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = read(parse(name).config)
    cfg.merge_from_dict(MUTATIONS[name])
    changed, stock = {parse(name).config: render.halves_of(cfg)}, render.halves
    monkeypatch.setattr(render, 'halves', lambda config: changed.get(config) or stock(config))
    found = {line.partition(':')[0] for line in complaints(parse(name))}
    named = {'derived.config': 'second_half', 'train_dataloader.dataset.data_prefix.img': ''}
    assert {named.get(key, key) for key in MUTATIONS[name]} - {''} <= found
    assert name == 'dna_imagenet' or 'train_dataloader.dataset.data_prefix' in found


def test_the_page_shows_what_is_in_a_space() -> None:
    shown_there = render.value_at('dna_imagenet.py', 'model.space')
    assert 'stride 2: 40 x3, 40 x4 of k3_e3_se0.25 k3_e6_se0.25' in shown_there
    assert 'stride 1: 96 x4, 112 x4 of' in shown_there and shown_there.startswith('dna: stem 32; ')
    assert shown_there in render.PAGE.read_text(encoding='utf-8')


def table(folder: Path, text: str, name: str = 'a') -> Table:
    (folder / f'{name}.toml').write_text(text)
    return parse(name, folder)


def test_a_table_that_covers_everything_has_no_complaints(tmp_path: Path) -> None:
    assert complaints(table(tmp_path, HEAD + ALL)) == []


def test_a_setting_without_a_row_is_named(tmp_path: Path) -> None:
    rows = ALL.replace("'optim_wrapper'", "'optim_wrapper.optimizer.lr'")
    assert complaints(table(tmp_path, HEAD + rows)) == [
        f'optim_wrapper.{key}: no row, and ours is {ours}'
        for key, ours in (
            ('type', 'OptimWrapper'), ('optimizer.type', 'SGD'), ('optimizer.momentum', '0.9'),
            ('optimizer.weight_decay', '5e-05'), ('clip_grad.max_norm', '35'), ('clip_grad.norm_type', '2'),
        )
    ]  # fmt: skip


def test_a_row_without_a_setting_is_named(tmp_path: Path) -> None:
    rows = "[[row]]\nkey = 'optim_wrapper.optimizer.nesterov'\nauthors = true\n"
    assert complaints(table(tmp_path, HEAD + ALL + rows)) == [
        'optim_wrapper.optimizer.nesterov: the config has no such key'
    ]


@pytest.mark.parametrize(
    ('row', 'complaint'),
    [
        ('authors = 0.05', ''),
        ("authors = 0.02\nreason = 'so'", ''),
        ('authors = 0.02', "ours is 0.05, the authors' 0.02, and no reason is given"),
        ('', "ours is 0.05, the authors' not known, and no reason is given"),
    ],
)
def test_a_deviation_needs_a_reason(tmp_path: Path, row: str, complaint: str) -> None:
    key = 'optim_wrapper.optimizer.lr'
    found = complaints(table(tmp_path, f"{HEAD}{ALL}[[row]]\nkey = '{key}'\n{row}\n"))
    assert found == ([f'{key}: {complaint}'] if complaint else [])


def test_a_row_is_held_against_what_no_longer_key_covers(tmp_path: Path) -> None:
    rows = (
        "[[row]]\nkey = 'optim_wrapper.optimizer'\nauthors = { type = 'SGD', lr = 0.05, weight_decay = 5e-5 }\n"
        "[[row]]\nkey = 'optim_wrapper.optimizer.momentum'\nreason = 'so'\n"
    )
    made = table(tmp_path, HEAD + ALL + rows)
    assert complaints(made) == []
    lines = render.render([made], {}).splitlines()
    sgd = 'SGD(lr=0.05, weight_decay=5e-05)'
    assert f'| `optim_wrapper.optimizer` | {sgd} | {sgd} |  |' in lines
    assert '| `optim_wrapper.optimizer.momentum` | not known | 0.9 | so |' in lines
    assert any(line.startswith('| `optim_wrapper` |') and 'SGD' not in line for line in lines)


def test_what_differs_from_the_config_that_it_is_like_is_named(tmp_path: Path) -> None:
    text = HEAD.replace(CONFIG, 'retinanet_mbv2_coco.py') + "like = 'retinanet_fna_coco'\n"
    (tmp_path / 'retinanet_fna_coco.toml').write_text(HEAD + ALL)
    found = complaints(table(tmp_path, text))
    assert found == ['model: differs from that of retinanet_fna_coco, and has no row of its own']
    own = "[[row]]\nkey = 'model.backbone.type'\nreason = 'another'\n"
    made = table(tmp_path, text + own)
    assert complaints(made) == []
    assert [row.key for row in made.rows if not row.inherited] == ['model.backbone.type']


def test_the_second_half_of_a_search_is_covered_too(tmp_path: Path) -> None:
    text = HEAD.replace(CONFIG, 'fna_retinanet_coco.py') + ALL
    found = complaints(table(tmp_path, text))
    # what both halves have in common is not named
    assert 'derived.optim_wrapper.optimizer.lr: no row, and ours is 0.05' in found
    assert 'derived.train_dataloader.batch_size: no row, and ours is 4' in found
    assert not [line for line in found if line.startswith(('derived.model.bbox_head', 'derived.randomness'))]


def test_what_no_key_says_needs_a_test(tmp_path: Path) -> None:
    rows = "[[in_code]]\nwhat = 'w'\nauthors = 'a'\nours = 'b'\ntest = 'tests/test_fidelity.py::{}'\n"
    name = 'test_what_no_key_says_needs_a_test'
    assert complaints(table(tmp_path, HEAD + ALL + rows.format(name))) == ['w: ours differs, and no reason is given']
    assert complaints(table(tmp_path, HEAD + ALL + rows.format('test_gone') + "reason = 'r'\n")) == [
        'w: there is no test tests/test_fidelity.py::test_gone'
    ]


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ("[[row]]\nkey = 'a'\nvalue = 1\n", r"a: a: missing \[\], unknown \['value'\]"),
        ("[[row]]\nauthors = 1\n", r"a: None: missing \['key'\]"),
        ("[[row]]\nkey = 'a'\n[[row]]\nkey = 'a'\n", r"a: given twice: \['a'\]"),
        ("[[in_code]]\nwhat = 'w'\n", r"a: w: missing \['authors', 'ours', 'test'\]"),
    ],
)  # fmt: skip
def test_a_table_that_is_written_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table(tmp_path, HEAD + text)


@pytest.mark.parametrize(
    ('authors', 'ours', 'same'),
    [
        (0.333333333, 1 / 3, True), (1e-4, 1.01e-4, False), ([1, 2], (1, 2), True), ([1, 2], (1, 2, 3), False),
        ('None', None, True), (True, True, True), (1, True, False), ({'a': 1}, {'a': 1, '_scope_': 'mmdet'}, True),
        ({'a': 1}, {'a': 1, 'b': 2}, False), ('SGD', 'SGD', True),
    ],
)  # fmt: skip
def test_values_are_compared_as_settings(authors: Any, ours: Any, same: bool) -> None:
    assert equal(authors, ours) is same


def test_values_are_shown_as_in_a_config() -> None:
    value = dict(type='Resize', scale=(1333, 800), keep=True, backend_args=None, ratio=1 / 3)
    assert shown(value) == 'Resize(scale=[1333, 800], keep=True, ratio=0.333333)'
