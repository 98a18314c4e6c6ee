"""Configs by name and by ``mmnas_ext::``, the copies that `mmnas config` prints, and what the metafiles say."""

import re
from pathlib import Path
from typing import Any

import mmdet
import pytest
import yaml
from mmengine import utils
from mmengine.config import Config
from mmengine.hub import get_config

import mmnas_ext
from mmnas_ext.cli import config
from mmnas_ext.cli.main import main
from mmnas_ext.registry import MODELS
from mmnas_ext.runs.derived import _find_config
from mmnas_ext.runs.run import prepare
from mmnas_ext.shipped import configs, find_config, find_shipped, headline, teach_mmengine, tools_folder

ROOT = Path(__file__).resolve().parents[1]
NAME = 'fna_retinanet_coco'


def plain(cfg: Config) -> dict[str, Any]:
    return {key: value for key, value in cfg.to_dict().items() if key != 'work_dir'}


@pytest.mark.parametrize('name', [NAME, f'{NAME}.py', f'mmnas_ext::{NAME}.py', f'configs/{NAME}.py'])
def test_a_shipped_config_is_found_by_name_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = 'configs/_base_/fna_retinanet.py'
    for found, place in ((find_config(name), f'configs/{NAME}.py'), (find_shipped('_base_/fna_retinanet.py'), base)):
        assert found == ROOT / 'mmnas_ext' / '.mim' / place
        assert found.read_bytes() == (ROOT / place).read_bytes()


EXAMPLE = 'examples/fna_atss_coco'


@pytest.mark.parametrize('name', [EXAMPLE, f'{EXAMPLE}.py', f'mmnas_ext::{EXAMPLE}.py', f'configs/{EXAMPLE}.py'])
def test_an_example_is_found_with_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(name).read_bytes() == (ROOT / f'configs/{EXAMPLE}.py').read_bytes()
    assert configs()[EXAMPLE] == find_config(name)
    assert find_shipped('examples/_base_/detector').name == 'detector.py'
    text = config.start(EXAMPLE)
    assert f"_base_ = 'mmnas_ext::{EXAMPLE}.py'" in text and "data = dict(type='coco', root='boxes')" in text
    assert "type='folder-masks'" in config.start('examples/fna_fcn_cityscapes')
    with pytest.raises(FileNotFoundError, match=f'did you mean {EXAMPLE}'):
        find_shipped('fna_atss_coco')


def test_a_file_of_ones_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / f'{NAME}.py'
    mine.touch()
    assert find_config(f'{NAME}.py') == Path(f'{NAME}.py')
    assert find_config(NAME) == Path(f'{NAME}.py')  # and is not passed over where the ending is left out
    mine.unlink()
    assert find_config(NAME) == find_shipped(NAME)


@pytest.mark.parametrize(
    'name', ['../setup', '/etc/hosts', '_base_/../fna_retinanet_coco', 'elsewhere/fna_retinanet_coco', '']
)
def test_only_names_are_looked_up(name: str) -> None:
    with pytest.raises(
        FileNotFoundError, match=r'config .* does not exist, neither as a file nor among those of mmnas'
    ):
        find_shipped(name)


def test_the_nearest_names_are_told() -> None:
    with pytest.raises(FileNotFoundError, match=r'did you mean .*fna_deeplabv3_cityscapes.*\? mmnas config lists them'):
        find_shipped('fna_deeplab_cityscapes')
    with pytest.raises(FileNotFoundError, match='of mmnas_ext: mmnas config lists them$'):
        find_shipped('qqq')


def test_the_default_work_dir_has_the_name_of_the_config() -> None:
    assert prepare('demo_dna').work_dir == 'work_dirs/demo_dna'
    assert prepare('mmnas_ext::demo_dna.py').work_dir == 'work_dirs/demo_dna'


@pytest.mark.parametrize('name', ['fna_deeplabv3_cityscapes', 'demo_dna'])
def test_what_is_printed_runs_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a folder that knows nothing of the project: the short form and the whole give the config itself."""
    monkeypatch.chdir(tmp_path)
    shipped = plain(prepare(name))
    assert main(['config', name]) == 0
    Path('my.py').write_text(capsys.readouterr().out)
    assert main(['config', name, '--full']) == 0
    Path('full.py').write_text(capsys.readouterr().out)
    assert plain(prepare('my.py')) == shipped
    assert plain(prepare('full.py')) == shipped
    assert '_base_ =' not in Path('full.py').read_text()
    assert f'# My own {name}: {headline(configs()[name])}.\n' in Path('my.py').read_text()
    assert [_find_config(Path(file), 'demo_fna_deeplabv3.py').name for file in ('my.py', 'full.py')] == [
        'demo_fna_deeplabv3.py'
    ] * 2


def test_an_inherited_host_is_built_in_its_own_scope(tmp_path: Path) -> None:
    """MMEngine would look for EncoderDecoder in the scope of the package that the base comes from."""
    file = tmp_path / 'mine.py'
    file.write_text("_base_ = 'mmnas_ext::deeplabv3_fna_cityscapes.py'\nmodel = dict(backbone=dict(norm_cfg=None))\n")
    cfg = Config.fromfile(file)
    assert '_scope_' not in cfg.model
    assert cfg.model.type == 'EncoderDecoder'
    assert MODELS.build({**cfg.model.backbone, 'init_cfg': None}).out_channels[-1] == 320


def test_the_hub_finds_ours_and_still_the_others() -> None:
    assert plain(get_config(f'mmnas_ext::{NAME}.py')) == plain(Config.fromfile(configs()[NAME]))
    assert plain(get_config('mmnas_ext::demo_dna.py')) == plain(Config.fromfile(configs()['demo_dna']))
    assert get_config('mmdet::_base_/default_runtime.py').default_scope == 'mmdet'
    assert [utils.get_installed_path(name) for name in ('mmnas_ext', 'mmdet')] == [
        str(Path(module.__file__).parent) for module in (mmnas_ext, mmdet)
    ]
    taught = Config._get_cfg_path
    teach_mmengine()
    assert Config._get_cfg_path is taught
    with pytest.raises(FileNotFoundError, match='did you mean fna_retinanet_coco'):
        get_config('mmnas_ext::fna_retinanet_coca.py')


def test_a_package_is_searched_once_for_what_is_inherited_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """MMEngine reads all YAML files of a package's models each time, which takes most of the time of a config."""
    teach_mmengine()
    first = Config.fromfile(configs()[NAME])

    def search(package_path: str, cfg_path: str) -> str:
        raise AssertionError(f'{cfg_path} is known')

    monkeypatch.setattr('mmengine.config.config._get_external_cfg_base_path', search)
    assert Config.fromfile(configs()[NAME]).to_dict() == first.to_dict()


def test_what_is_shipped_is_what_lies_at_the_top() -> None:
    """By links in a checkout, in copies where the source archive is unpacked."""
    mim = tools_folder().parent
    for name in ('model-index.yml', 'tools/train.py', 'tools/dist_train.sh', 'configs/fna_metafile.yml'):
        assert (mim / name).read_bytes() == (ROOT / name).read_bytes()
    for found in ('configs/*.py', 'configs/examples/*.py', 'configs/examples/_base_/*.py'):
        assert {path.name for path in mim.glob(found)} == {path.name for path in ROOT.glob(found)} != set()


# metafiles


def test_the_metafiles_say_what_the_configs_say() -> None:
    """OpenMMLab's form; every figure stands in the header of its config, and published ones are not left out."""
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert sorted(index['Import']) == sorted(f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.yml'))
    collections, models = {}, {}
    for name in index['Import']:
        content = yaml.safe_load((ROOT / name).read_text())
        collections |= {each['Name']: each for each in content['Collections']}
        models |= {each['Name']: each for each in content['Models']}
    assert set(collections) == {'FNA', 'DNA'}
    for each in collections.values():
        assert each['Paper']['URL'].startswith('https://arxiv.org/abs/')
        assert (ROOT / each['README']).is_file()
    for name, model in models.items():
        assert model['In Collection'] in collections
        assert model['Config'] == f'configs/{name}.py'
        header = ' '.join(re.findall(r'(?m)^# ?(.*)$', (ROOT / model['Config']).read_text())).replace(',', '')
        counts = [str(model.get('Metadata', {}).get(key, '')).rstrip('GM') for key in ('FLOPs', 'Parameters')]
        (result,) = model['Results']
        for figure in (*counts, *map(str, result['Metrics'].values())):
            assert figure in header, (name, figure)
        assert result['Task'] and result['Dataset']
    for name, path in configs().items():
        header = ' '.join(re.findall(r'(?m)^# ?(.*)$', path.read_text()))
        # dna_imagenet.py names the range of four networks
        assert (name in models) == bool(re.search(r'Expected, published: [\d.]+ (?!to )', header)), name


def test_a_headline_is_the_first_sentence() -> None:
    assert headline(configs()[NAME]) == (
        'FNA inside RetinaNet on COCO: search a backbone, remap the seed onto it, train it there'
    )
    assert f"\n_base_ = 'mmnas_ext::{NAME}.py'\n\n# Your own images" in config.start(NAME)
    assert config.start('dna_imagenet').endswith("\n_base_ = 'mmnas_ext::dna_imagenet.py'\n")
