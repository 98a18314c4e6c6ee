"""What a backbone's config stands for, whatever it is called: ours by class, by name of the zoo, or by an export's."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from mmengine import registry as mm

from mmnas_ext.archs import ArchSpec, SearchSpace, zoo
from mmnas_ext.backbones.chain import Chain
from mmnas_ext.backbones.mbnet import MBNet
from mmnas_ext.backbones.named import NAMES
from mmnas_ext.backbones.supernet import SuperNet
from mmnas_ext.registry import MODELS

_NAMED = 'mmnas_ext.backbones.named'
_OURS = (MBNet.__name__, SuperNet.__name__, *NAMES)


def backbone_spec(backbone: Mapping[str, Any], scope: str = '') -> ArchSpec | SearchSpace | None:
    """The architecture, or the space, of a backbone's config; ``None`` of a backbone of another project.

    Args:
        backbone: The config, ``model.backbone``.
        scope: The config's ``default_scope``, where a type without a scope is looked for first.

    Raises:
        ValueError: No backbone has that ``type`` (the message has near names), or what describes it is malformed.
        FileNotFoundError: A ``.json`` path in it does not exist.
    """
    found = find_backbone(backbone.get('type'), scope)
    if found is None:
        return None
    for kind, key, parse in ((MBNet, 'arch', ArchSpec.parse), (SuperNet, 'space', SearchSpace.parse)):
        if found is kind:
            if key not in backbone:
                raise ValueError(f'model.backbone of type {kind.__name__} needs {key}, got the keys {list(backbone)}')
            return parse(backbone[key])
    name = getattr(found, '__name__', '')
    if name in NAMES and MODELS.get(f'{MODELS.scope}.{name}') is found:
        return zoo.arch(NAMES[name])
    built: Chain = found(**{key: value for key, value in backbone.items() if key != 'type'} | {'init_cfg': None})
    return built.space if isinstance(built, SuperNet) else built.arch if isinstance(built, MBNet) else None


def find_backbone(kind: Any, scope: str = '') -> Any:
    """The class, or function, that builds a backbone of this ``type`` if it is one of ours or an export; else ``None``.

    Args:
        kind: The ``type``: a text, or the class itself.
        scope: The config's ``default_scope``.

    Raises:
        ValueError: No backbone has that name; the message has near names.
    """
    if not isinstance(kind, str):
        return kind if _is_ours(kind) else None
    place, _, name = kind.rpartition('.')
    if place == MODELS.scope:
        found = MODELS.get(kind)
        if found is None:
            raise ValueError(_unknown(kind, name))
        return found if _is_ours(found) else None
    # an export is in MMEngine's own registry, where every host looks last
    found = mm.MODELS.get(f'{place or scope}.{name}' if place or scope else name)
    if found is None and not place:
        found = mm.MODELS.get(name)
    if found is None and _near(name):
        raise ValueError(_unknown(kind, name))
    return found if _is_ours(found) else None


def _is_ours(found: Any) -> bool:
    return (isinstance(found, type) and issubclass(found, Chain)) or getattr(found, '__module__', '') == _NAMED


def _near(name: str) -> list[str]:
    """Names of ours that are like this one, the nearest first."""
    lower = {each.lower(): each for each in (*_OURS, *_exports())}
    return [lower[each] for each in get_close_matches(name.lower(), lower, 3, 0.7)]


def _exports() -> list[str]:
    return [name for name, found in mm.MODELS.module_dict.items() if _is_ours(found)]


def _unknown(kind: str, name: str) -> str:
    exports = _exports()
    near = [each if each in exports else f'{MODELS.scope}.{each}' for each in _near(name)]
    known = f'near names are {", ".join(near)}' if near else f'mmnas_ext has {", ".join((*_OURS, *exports))}'
    return f'model.backbone.type must be a registered backbone, got {kind!r:.60}: {known}'
