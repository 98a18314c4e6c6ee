"""From a found network to the ordinary config that trains it: nothing of the search is left in it."""

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from mmnas_ext.archs import ArchSpec
from mmnas_ext.backbones.chain import is_remapped
from mmnas_ext.registry import MODELS
from mmnas_ext.reports.beside import front_folder
from mmnas_ext.reports.measured import is_table_of
from mmnas_ext.runs import host_choices, imitating
from mmnas_ext.runs.changes import RUNNER_KEYS, find_changes, settings_of
from mmnas_ext.runs.fitting import complete_channels, fit_channels, require_own_backbone
from mmnas_ext.runs.manifest import ADAPT, DERIVE, Part
from mmnas_ext.runs.own_data import ROOT
from mmnas_ext.runs.resolve import VARIABLES, inherit, resolve
from mmnas_ext.runs.session import Session, say, set_aside
from mmnas_ext.search.measured import MeasuredFront
from mmnas_ext.shipped import MARK, find_shipped
from mmnas_ext.workdir import WorkDir, write_text

WEIGHTS = (None, 'distilled', 'remapped')
# a run's own affairs, which the second half settles anew
_RUN_KEYS = ('derived', 'work_dir', 'resume', 'load_from', 'launcher', 'experiment_name')
# variables that change what a file's others stand for; these are then left out, but for what tools of a host read
_CHANGING = ('host', 'image_size', 'data', host_choices.KEY)
_READ = (
    *RUNNER_KEYS, 'custom_imports', 'activation_checkpointing', 'efficient_conv_bn_eval', 'vis_backends', 'tta_model',
    'tta_pipeline', 'train_pipeline', 'test_pipeline',
)  # fmt: skip
# what a distillation hands on
_SHARED_KEYS = ('env_cfg', 'log_level', 'randomness')
_SEARCH_CLASS = re.compile(r'(?:mmnas_ext\.(?:\w+\.)*)?(SuperNet|Search\w+|DeriveHook)')


def derived_config(cfg: Config, arch: ArchSpec, own_key: str = '') -> Config:
    """The config that trains a found network: the search's, changed by its ``derived=dict(…)``.

    ``train_cfg``, ``optim_wrapper`` and ``model.backbone`` in it replace those of the search whole, except that the
    backbone inherits outputs, output stride and seed (`mmnas_ext.runs.resolve`); ``imitate`` adds a hook
    (`mmnas_ext.runs.imitating`); the rest is merged as in any config that inherits.

    Args:
        cfg: Config of the search; left as it is.
        arch: The found network, written into ``model.backbone.arch``; its batch-norm epsilon goes into the backbone's
            ``norm_cfg`` unless that has one.
        own_key: Key of the config that only the method reads, such as ``'random_search'``.

    Raises:
        ValueError: `cfg` has no ``derived``, it does not go with the rest, or a class of the search remains.
    """
    if not cfg.get('derived'):
        raise ValueError('this config has no derived=dict(…): it describes no search')
    derived = copy.deepcopy(cfg.derived.to_dict())
    imitate = derived.pop(imitating.KEY, None)
    # the variables have been applied, and would win over what a user changes of the result
    left_out = {*_RUN_KEYS, *VARIABLES, ROOT, host_choices.KEY, host_choices.CHOSEN, own_key}
    if any(cfg.get(name) is not None for name in _CHANGING):
        left_out |= {*cfg} - {*_READ}
    plain = {key: value for key, value in copy.deepcopy(cfg.to_dict()).items() if key not in left_out}
    # what describes the search is replaced whole, everything else is merged
    for key in ('train_cfg', 'optim_wrapper'):
        if key in derived:
            plain.pop(key, None)
    if 'backbone' in derived.get('model', {}):
        searched = plain['model'].pop('backbone', None) or {}
        derived['model']['backbone'] = inherit(searched, derived['model']['backbone'])
    result = Config(plain, format_python_code=getattr(cfg, '_format_python_code', True))
    try:
        result.merge_from_dict(derived)
    except (TypeError, KeyError) as error:
        raise ValueError(f'derived=dict(…) cannot be merged into the rest of the config: {error}') from None
    backbone = result.model.backbone
    backbone.arch = arch.replace(bn_eps=None).format('fna')
    if arch.bn_eps is not None:
        backbone.norm_cfg = {'type': 'BN', 'eps': arch.bn_eps, **(backbone.get('norm_cfg') or {})}
    imitating.add_imitation(result, imitate)
    complete_channels(result)  # of what `derived` alone says
    left = sorted(set(_search_classes(result.to_dict())))
    if left:
        raise ValueError(f'derived=dict(…) leaves {left} of the search in place: say there what replaces them')
    return result


def _search_classes(value: Any) -> Iterator[str]:
    """Yields the classes of a search that a config names, by text or, in a pure-Python config, as classes."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _search_classes(inner)
    elif isinstance(value, type):
        if value.__module__.startswith('mmnas_ext.') and _SEARCH_CLASS.fullmatch(value.__name__):
            yield value.__name__
    elif isinstance(value, str) and (match := _SEARCH_CLASS.fullmatch(value)):
        yield match[1]


def distilled_config(cfg: Config, arch: ArchSpec) -> Config:
    """The config that trains what a distillation found: that of ``derived=dict(config=FILE, …)``, with this backbone.

    A distillation shares no more than logging and the environment with what comes after it, so its ``derived`` names a
    whole config (relative to the file that says so; of a search, its second half is taken) and says what differs. The
    backbone there becomes an `MBNet` of the found network, and a neck's or head's ``in_channels`` those that it gives.
    ``weights`` says what it starts from: ``'distilled'`` weights, the seed ``'remapped'`` as that config says, or by
    default nothing, as in the paper.

    Args:
        cfg: Config of the distillation, ``work_dir`` set if its weights are to be used; left as it is.
        arch: The found network.

    Raises:
        ValueError: ``derived`` names no config or no such weights, or cannot be merged into it.
        FileNotFoundError: There is no such config.
    """
    derived = copy.deepcopy(cfg.derived.to_dict())
    name, weights = derived.pop('config', None), derived.pop('weights', None)
    derived.pop('name', None)
    if not isinstance(name, str):
        raise ValueError("derived of a distillation must name the config that trains what is found: dict(config='…')")
    if weights not in WEIGHTS:
        raise ValueError(f'derived.weights must be one of {WEIGHTS}, got {weights!r}')
    file = _find_config(Path(str(cfg.filename or '')), name)
    result = resolve(Config.fromfile(file), {key: derived.pop(key) for key in (*VARIABLES, ROOT) if key in derived})
    if result.get('derived'):
        theirs = result.derived.pop(imitating.KEY, None)
        ours = derived.get(imitating.KEY, theirs)
        both = isinstance(ours, Mapping) and isinstance(theirs, Mapping)
        derived[imitating.KEY] = {**theirs, **ours} if both else ours
        result = derived_config(result, arch)
    imitate = derived.pop(imitating.KEY, None)
    for key in VARIABLES:
        result.pop(key, None)
    result.merge_from_dict({key: cfg[key] for key in _SHARED_KEYS if key in cfg})
    try:
        result.merge_from_dict(derived)
    except (TypeError, KeyError) as error:
        raise ValueError(f'derived=dict(…) cannot be merged into {name}: {error}') from None
    require_own_backbone(result.model, name)
    backbone = result.model.backbone
    result.model.pop('pretrained', None)  # weights of the backbone that was there
    backbone.type = 'mmnas_ext.MBNet'
    backbone.arch = arch.format('fna')
    init = backbone.pop('init_cfg', None)
    if weights == 'remapped':
        if not is_remapped(init):
            raise ValueError(
                f"derived.weights='remapped' needs a backbone with a remapped seed in {name}, got {init!r}"
            )
        backbone.init_cfg = init
    elif weights == 'distilled':
        checkpoint = WorkDir(Path(str(cfg.get('work_dir') or ''))).weights
        headless = arch.replace(head_channels=None).format('fna')
        backbone.init_cfg = dict(type='mmnas_ext.Remapped', seed=dict(arch=headless, checkpoint=str(checkpoint)))
    imitating.add_imitation(result, imitate)
    fit_channels(result.model, MODELS.build({**backbone, 'init_cfg': None}).out_channels)
    return result


def _find_config(inheriting: Path, name: str) -> Path:
    """The file that ``derived.config`` names: beside the config or one that it inherits, or one of the package.

    Raises:
        FileNotFoundError: There is none.
    """
    tried, folders = [inheriting], []
    while tried:
        file = tried.pop(0)
        folders.append(file.parent)
        if (file.parent / name).is_file():
            return file.parent / name
        bases = Config._get_base_files(str(file)) if file.is_file() else []
        tried += [find_shipped(base) for base in bases if base.startswith(MARK)]
        tried += [file.parent / base for base in bases if '::' not in base]
    try:
        return find_shipped(name)  # the whole text of one of ours, in a folder of the user's
    except FileNotFoundError:
        places = ', '.join(map(str, folders))
        raise FileNotFoundError(f'derived.config is {name}, and there is no such file in {places}') from None


def settle(session: Session, arch: ArchSpec) -> Config | None:
    """Writes down the network that is to be trained: ``arch.json``, what belongs to it, ``config.py``.

    Nothing is done where they are there already. Where they are another network's, those and their training are set
    aside first.

    Args:
        session: The run.
        arch: The network.

    Returns:
        The config that trains it; ``None`` of a config that only searches.
    """
    method, files = session.method, session.files
    if is_main_process():
        _leave_front(files)
    host = session.host
    config = method.derive(session.settled, arch) if method.derive is not None and session.cfg.get('derived') else None
    trained = {} if config is None else settings_of(config, 'train_dataloader', root=files.root)
    settings = {**session.settings.choice, **{f'derived.{key}': value for key, value in trained.items()}}
    known = session.manifest.parts.get(DERIVE)
    text = arch.format('fna')
    there = files.arch.is_file() and (config is None or files.config.is_file())
    same = known is not None and known.notes.get('arch') == text and dict(known.settings) == settings
    same = same and known is not None and known.notes.get('host') == host
    if known is not None and known.done and same and there:
        return config
    adapted = session.manifest.parts.get(ADAPT)
    former = adapted.settings.get('model.backbone.arch') if adapted else None
    if adapted and (config is None or former != config.model.backbone.get('arch') or _of_other_host(adapted, trained)):
        # the manifest first: what is moved is no longer called done
        session.write(session.manifest.without(ADAPT))
        session.begin(DERIVE, settings)
        session.note(DERIVE, clears=True)
    session.begin(DERIVE, settings)
    if session.manifest.parts[DERIVE].notes.get('clears'):
        say('another network than before: the former one and its training are set aside')
        if is_main_process():
            inside = list(files.derived.iterdir()) if files.derived.is_dir() else []
            set_aside(files, [*(path for path in inside if path != files.snapshots), files.adapt, files.samples])
        session.note(DERIVE, clears=False)
    if is_main_process():
        write_text(files.arch, arch.format('json'))
    if method.supply is not None:
        method.supply(session, arch)
    if is_main_process() and config is not None:
        write_text(files.config, config.pretty_text)
    origin = session.manifest.parts[DERIVE].notes.get('origin', 'search')
    session.finish(DERIVE, arch=text, origin=origin, **({} if host is None else {'host': host}))
    return config


def _leave_front(files: WorkDir) -> None:
    """Sets aside what was trained of a former front: networks that have another number now, or none, and their table.

    It tells them by what is there, so that a run which was killed before it goes on with it.
    """
    try:
        front = MeasuredFront.find(files.root)
    except ValueError:  # damaged: who needs it will say so
        return
    points = () if front is None else front.points
    kept = {front_folder(files, number, network) for number, network in enumerate(points)}
    left = [path for path in sorted(files.adapted.glob('*')) if path.name.isdigit() and path not in kept]
    table = files.adapted_table
    if table.is_file() and not (front is not None and is_table_of(front, table.read_text(encoding='utf-8'))):
        left.append(table)
    if left and (aside := set_aside(files, left)):
        names = ', '.join(path.relative_to(files.root).as_posix() for path in left)
        say(f'of a former front, or former weights: {names} are set aside, in {aside}')


def _of_other_host(adapted: Part, trained: Mapping[str, Any]) -> bool:
    """Whether a training differs from another one in the host alone that was chosen with the network."""
    changed = [change.key for change in find_changes(adapted.settings, trained)[1]]
    return bool(changed) and all(key in host_choices.SETTINGS or '.pipeline' in key for key in changed)
