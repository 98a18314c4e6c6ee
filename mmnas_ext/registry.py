"""Child registries of MMEngine's, scope ``mmnas_ext``.

MMEngine imports ``<scope>.registry`` when a config names a type ``<scope>.<Name>``, and a registry imports its
``locations`` before its first look-up. So ``type='mmnas_ext.DNA_a'`` needs no ``custom_imports`` in any config.
"""

import warnings
from collections.abc import Mapping
from typing import Any

from mmnas_ext.install_check import require_mm
from mmnas_ext.shipped import teach_mmengine

try:
    require_mm()  # one clear message instead of the import error of a missing or mixed installation
except ImportError as _error:
    warnings.warn(str(_error), stacklevel=2)  # MMEngine passes over the error where a config's type leads here
    raise

from mmengine import registry as _mm
from mmengine.registry import Registry

teach_mmengine()
_SCOPE = 'mmnas_ext'
MODELS = Registry(
    'model', parent=_mm.MODELS, scope=_SCOPE, locations=['mmnas_ext.backbones', 'mmnas_ext.hosts', 'mmnas_ext.distill']
)
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=_mm.WEIGHT_INITIALIZERS,
    scope=_SCOPE,
    locations=['mmnas_ext.remap.initializer', 'mmnas_ext.remap.pretrained'],
)
DATASETS = Registry('dataset', parent=_mm.DATASETS, scope=_SCOPE, locations=['mmnas_ext.datasets', 'mmnas_ext.hosts'])
TASK_UTILS = Registry('task util', parent=_mm.TASK_UTILS, scope=_SCOPE, locations=['mmnas_ext.hosts'])
TRANSFORMS = Registry('transform', parent=_mm.TRANSFORMS, scope=_SCOPE, locations=['mmnas_ext.datasets'])
MODEL_WRAPPERS = Registry('model_wrapper', parent=_mm.MODEL_WRAPPERS, scope=_SCOPE, locations=['mmnas_ext.engine'])
LOOPS = Registry('loop', parent=_mm.LOOPS, scope=_SCOPE, locations=['mmnas_ext.engine'])
HOOKS = Registry('hook', parent=_mm.HOOKS, scope=_SCOPE, locations=['mmnas_ext.engine'])
OPTIMIZERS = Registry('optimizer', parent=_mm.OPTIMIZERS, scope=_SCOPE, locations=['mmnas_ext.engine.optimizers'])
OPTIM_WRAPPERS = Registry('optim_wrapper', parent=_mm.OPTIM_WRAPPERS, scope=_SCOPE, locations=['mmnas_ext.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor', parent=_mm.OPTIM_WRAPPER_CONSTRUCTORS, scope=_SCOPE, locations=['mmnas_ext.engine']
)


def name_of(part: Any) -> str:
    """Name of the ``type`` of a part of a config, which is text or, in a pure-Python config, the class itself.

    Returns:
        The name without its scope or module; empty of what is no mapping or has no type.
    """
    kind = part.get('type') if isinstance(part, Mapping) else None
    return str(getattr(kind, '__name__', kind or '')).rpartition('.')[2]


def class_of(registry: Registry, kind: Any) -> type | None:
    """The class that a ``type`` or ``constructor`` stands for: its name in a registry, or itself; ``None`` for none."""
    found = registry.get(kind) if isinstance(kind, str) else kind
    return found if isinstance(found, type) else None
