"""The pages on hosts do what they say: their configs search and adapt, and are tested, drawn and exported."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmnas_ext.cli.main import main
from mmnas_ext.workdir import WorkDir
from tests.examples.outcome import assert_done
from tests.examples.small import COMMON, DETECTOR, HOSTS, ON_PAGES, SEED, SEGMENTOR, make, read
from tests.own_data import CONFIGS, ROOT

PAGES = {'detection': DETECTOR, 'segmentation': SEGMENTOR}
# what the folders of the pages are called
FOLDERS = {'boxes': 'coco', 'devkit': 'voc', 'fields': 'folder-masks'}
# of another host, parts as narrow as those of the examples
NARROW = {
    'mine.py': {'detection': HOSTS['fna_atss_coco'], 'segmentation': HOSTS['fna_lraspp_cityscapes']},
    'vfnet.py': {'detection': HOSTS['fna_atss_coco']},
    'danet.py': {'segmentation': dict(decode_head=dict(channels=16, pam_channels=4), auxiliary_head=dict(channels=8))},
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', (ROOT / f'docs/hosts-{page}.md').read_text(), re.DOTALL)


def nested(options: dict[str, Any]) -> dict[str, Any]:
    """Options by dotted key as the variables of a file."""
    cfg = Config()
    cfg.merge_from_dict(options)
    return cfg.to_dict()


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: data as the pages call them, and their configs, with what makes them short below."""
    root = tmp_path_factory.mktemp('user')
    given = make(root)
    for name, layout in FOLDERS.items():
        (root / layout).rename(root / name)
    for page, short in PAGES.items():
        (root / page).mkdir()
        for block in blocks(page, 'python'):
            name = block.split()[1]
            more = nested({**COMMON, **short, 'seed': given['seed']})
            more.pop('image_size')
            lines = [f'{key} = {value!r}' for key, value in more.items()]
            lines += ["host = globals().get('host') or {}", f'host.update({NARROW[name][page]!r})']
            text = block.replace("'mmnas_ext::", f"'{CONFIGS}/")
            (root / page / name).write_text('\n'.join([text, *lines, '']))
        for data in FOLDERS:
            (root / page / data).symlink_to(root / data)
    return root


@pytest.mark.parametrize('page', PAGES)
def test_the_commands_of_a_page_run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = dict(arch=SEED.format('fna'), checkpoint=str(folder / 'seed.pth'))
    monkeypatch.chdir(folder / page)
    monkeypatch.setattr(DefaultScope, '_instance_dict', DefaultScope._instance_dict.copy())
    commands = [shlex.split(line, comments=True) for block in blocks(page, 'bash') for line in block.splitlines()]
    assert [words[1] for words in commands] == ['train', 'train', 'test', 'report', 'export', 'train']
    newest = {'detection': 'epoch_1.pth', 'segmentation': 'iter_20.pth'}[page]
    for words in commands:
        # the page trains longer
        arguments = [re.sub(r'(epoch|iter)_\d+\.pth', newest, word) for word in words[1:]]
        assert main(arguments) in (0, None), words
    files = WorkDir(Path('work_dirs/mine'))
    name, layout = ON_PAGES[[*PAGES].index(page)]
    assert f'examples/{name}.py' in blocks(page, 'python')[0]
    assert_done(name, layout, files, seed)
    assert Path('mine.onnx').is_file()
    samples = json.loads((files.samples / 'samples.json').read_text())
    assert samples['kind'] == {'detection': 'boxes', 'segmentation': 'labels'}[page]
    assert not Path('work_dirs/vfnet').exists() and not Path('work_dirs/danet').exists()  # of dry runs


@pytest.mark.parametrize('page', [*PAGES, 'pose'])
def test_a_page_names_its_examples_and_no_others(page: str) -> None:
    text = (ROOT / f'docs/hosts-{page}.md').read_text()
    ending = {'detection': '_coco', 'segmentation': '_cityscapes', 'pose': '_coco_keypoints'}[page]
    files = {path.stem for path in (CONFIGS / 'examples').glob(f'fna_*{ending}.py')}
    assert set(re.findall(r'`examples/(\w+)`', text)) == files != set()


@pytest.mark.parametrize('page', PAGES)
def test_the_tables_have_the_strides_that_are_read(page: str) -> None:
    text = (ROOT / f'docs/hosts-{page}.md').read_text()
    for name in HOSTS:
        row = next((line for line in text.splitlines() if line.startswith(f'| `examples/{name}`')), None)
        if row is None:
            continue
        said = [int(each) for each in re.findall(r'\d+', row.split('|')[3])]
        assert name.endswith('_coco') == (page == 'detection')
        outputs = read(name, {}).model.backbone.out_indices
        strides = (2, 4, 8, 16, 16, 32, 32)  # of MobileNetV2's stages
        assert said == [strides[index] for index in outputs]
