"""A space that is made from the seed of a config: ``space=dict(kernels=(3, 5, 7), …)`` instead of its stages."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmnas_ext.archs import SearchSpace, places
from mmnas_ext.archs.from_seed import KEYS, SEED
from mmnas_ext.archs.places import Places
from mmnas_ext.backbones.chain import is_remapped
from mmnas_ext.remap.initializer import RemappedInit
from mmnas_ext.runs.halves import backbones_of, plain, tell
from mmnas_ext.runs.sources import depth_of, said_keys

_OUTPUTS = ('model', 'backbone', 'out_indices')


def has_no_stages(value: Any) -> bool:
    """Whether a space is given by how it is made."""
    return isinstance(value, Mapping) and 'stages' not in value


def check_made(value: Any) -> None:
    """Raises ValueError unless a space that has no stages has what one is made of, and nothing else."""
    unknown = [key for key in value if key not in KEYS]
    if unknown:
        raise ValueError(
            f'space must be a name, a .json file, a dict with stages, or one of {", ".join(KEYS)}, from which it is '
            f'made: got the key {unknown[0]!r:.40}'
        )


def complete_space(cfg: Config, value: Mapping[str, Any]) -> dict[str, Any]:
    """A space's description with the seed whose layers it is made from: by default the one that the weights are of.

    Args:
        cfg: A config whose backbone has its seed already; if only the seed's file tells its architecture, this is
            written beside it, without a head: a space that is made has none.
        value: The description.

    Raises:
        ValueError: There is no seed, or its file, which alone tells its architecture, is not here.
    """
    if value.get(SEED) is not None:
        return plain(value)
    init: Any = (cfg.model.get('backbone') or {}).get('init_cfg')
    seed = init.get('seed') if is_remapped(init) else None
    if seed is None:
        raise ValueError(
            'space is made from a seed, and this config has none: say seed=dict(arch=…, checkpoint=…), or one in it, '
            "space=dict(seed='resnet50', …)"
        )
    arch = seed.get('arch') if isinstance(seed, Mapping) else None
    if arch is None:
        arch = _write_arch(cfg, seed, 'space is made from the seed', head=False)
    return {SEED: plain(arch), **{key: each for key, each in plain(value).items() if key != SEED}}


def name_seed(cfg: Config) -> None:
    """Writes the architecture of a search's seed beside its checkpoint, in both halves, where its file alone tells it.

    The seed is a network of the space only where its architecture is known: for its cost, its path, its measurement.

    Args:
        cfg: A config whose backbone has its seed already; changed.

    Raises:
        ValueError: The config needs the architecture, and the file is not here to tell it, or cannot be read.
        FileNotFoundError: The same, and there is no such file.
    """
    backbone: Any = cfg.model.get('backbone') or {}
    init = backbone.get('init_cfg')
    seed = init.get('seed') if is_remapped(init) and 'space' in backbone else None
    if seed is None or (isinstance(seed, Mapping) and seed.get('arch') is not None):
        return
    user = _needs_seed(cfg)
    try:
        space = SearchSpace.parse(backbone['space'])
        _write_arch(cfg, seed, f'{user} is about the seed', head=space.head_channels is not None)
    except (ValueError, TypeError, OSError):
        if user:
            raise  # else it is told where the seed is read


def _needs_seed(cfg: Config) -> str:
    """What in a config is about the seed as a network of the space; empty if nothing is."""
    optim, search = cfg.get('optim_wrapper') or {}, cfg.get('random_search') or {}
    choice: Any = optim.get('selection')
    selection = choice if isinstance(choice, Mapping) else dict(type=choice)
    limits = {'optim_wrapper.cost': optim.get('cost'), 'random_search.limit': search.get('limit')}
    evolution = cfg.get('evolution')
    needs = {
        'optim_wrapper.keep_seed': bool(optim.get('keep_seed')),
        'optim_wrapper.selection': selection.get('type') == 'measured' or bool(selection.get('front')),
        'evolution.start_with_seed': isinstance(evolution, Mapping) and evolution.get('start_with_seed', True),
        **{
            name: isinstance(limit, Mapping) and any(str(bound).split()[-1:] == ['seed'] for bound in limit.values())
            for name, limit in limits.items()
        },
    }
    return next((name for name, needed in needs.items() if needed), '')


def _write_arch(cfg: Config, seed: Any, why: str, head: bool) -> str:
    """Writes what a seed's file tells of its architecture beside the seed wherever a backbone has it; returns it."""
    found = RemappedInit(seed).seed_at_hand()
    if found is None:
        raise ValueError(
            f'{why}, and its file {plain(seed)!r:.80} is not here to tell its architecture: name it, '
            'seed=dict(arch=…, checkpoint=…)'
        )
    arch = (found.arch if head else found.arch.replace(head_channels=None)).format('fna')
    inits: list[Any] = [backbone.get('init_cfg') for backbone in backbones_of(cfg)]
    for each in inits:
        if is_remapped(each) and plain(each.get('seed')) == plain(seed):  # limits by the seed need it as well
            each['seed'] = dict(arch=arch, checkpoint=_checkpoint(seed))
    return arch


def _checkpoint(seed: Any) -> Any:
    return seed['checkpoint'] if isinstance(seed, Mapping) else seed


def keep_strides(cfg: Config, former: Any, space: Any) -> None:
    """Lets the backbones give features of the strides that they gave in another space.

    Stages of one network are not those of another: of ResNet's four the last has the stride of MobileNetV2's sixth and
    seventh. Outputs that are said beside the space, or nearer, stay as they are, and so do all where stages of the
    same strides stand in the same places.

    Args:
        cfg: The config; ``out_indices`` of its backbones are changed.
        former: The space that they are written for.
        space: The space; a malformed name or file is told of later, with the rest.

    Raises:
        ValueError: The space has no stage of such a stride, or no head where the former one's is read.
    """
    depth = depth_of(cfg, 'space')
    if depth is not None and _OUTPUTS in said_keys(cfg, depth):
        return
    try:
        before, after = (places(SearchSpace.parse(each)) for each in (former, space))
    except (ValueError, TypeError, OSError):
        if has_no_stages(space):
            raise
        return
    if _strides(before) == _strides(after) and (before.head is None or after.head is not None):
        return
    for backbone in backbones_of(cfg):
        given = backbone.get('out_indices')
        if given is None:
            continue  # the second half's inherits it, and a backbone of which none says any has them by stride
        wanted = [given] if isinstance(given, int | str) else list(given)
        outputs = tuple(_same_stride(index, before, after) for index in wanted)
        tell('out_indices', tuple(wanted), outputs)
        backbone['out_indices'] = outputs


def _strides(walk: Places) -> list[int]:
    return [stage[-1].reached for stage in walk.stages]


def _same_stride(index: int | str, before: Places, after: Places) -> int | str:
    """The output of a space that has the stride of another's; what the other does not have is left as it is.

    Of a stride the last stage is taken, and of expansions, which stand before a stride, the first.
    """
    number, inside, _ = str(index).partition('.')
    strides = _strides(after)
    if number == str(len(before.stages)) and before.head is not None:
        if after.head is None:
            raise ValueError(
                f"model.backbone.out_indices has {index!r}, the head of the config's former space, and this one has "
                'none, as all that are made from a seed: say out_indices beside space, which name its stages'
            )
        return len(strides)
    if not number.isdecimal() or int(number) >= len(before.stages):
        return index
    stride = _strides(before)[int(number)]
    fitting = [i for i, each in enumerate(strides) if each == stride]
    if not fitting:
        raise ValueError(
            f'model.backbone.out_indices has {index!r}, a feature of stride {stride}, and the new space has '
            f'{sorted(set(strides))}: say out_indices beside space'
        )
    return f'{fitting[0]}.expand' if inside else fitting[-1]
