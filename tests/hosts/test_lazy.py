"""Parts of a host are imported when they are built."""

from typing import Any

import pytest

from mmnas_ext import install_check
from mmnas_ext.registry import MODELS


@pytest.fixture
def without_mmseg(monkeypatch: pytest.MonkeyPatch) -> None:
    found = install_check.find_installed()
    left = {line: {k: v for k, v in modules.items() if k != 'mmseg'} for line, modules in found.items()}
    assert left != found
    monkeypatch.setattr(install_check, 'find_installed', lambda: left)
    monkeypatch.setattr(install_check, 'find_spec', lambda name: None if name == 'mmseg' else object())


@pytest.mark.parametrize('name', ['FNASegHead', 'SegCrossEntropyLoss'])
def test_without_mmsegmentation_it_says_what_to_install(name: str, without_mmseg: Any) -> None:
    with pytest.raises(
        ImportError, match=r'mmnas_ext needs mmseg, not installed here(.|\n)*pip install .*segmentation=='
    ):
        MODELS.build(dict(type=f'mmnas_ext.{name}'))


def test_without_mmsegmentation_networks_are_built(without_mmseg: Any) -> None:
    assert MODELS.build(dict(type='mmnas_ext.FNA_DeepLabv3', out_indices=(6,), output_stride=16)).out_channels == (320,)
