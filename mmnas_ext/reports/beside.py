"""Which other trainings belong to a run: its seed's, those of its front; by what they trained, not by their place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmnas_ext.archs import ArchSpec
from mmnas_ext.reports.facts import Facts
from mmnas_ext.search.fields import read_object
from mmnas_ext.search.measured import MeasuredNetwork
from mmnas_ext.workdir import WorkDir

# of a training's settings what two networks must share to be compared: its data, steps and validation; the network
# itself, the random seed, workers and the place of the data may differ
_RECIPE = (
    'data.', 'train_cfg.max_', 'train_dataloader.', 'optim_wrapper.', 'param_scheduler.', 'val_dataloader.dataset.',
    'val_dataloader.num_batch_per_epoch', 'val_dataloader.sampler.', 'val_dataloader.drop_last', 'val_cfg.', 'val_data',
    'val_evaluator.', 'launch.', 'position.', 'custom_hooks.', 'auto_scale_lr.', 'load_from',
)  # fmt: skip
# hooks of MMEngine, of the hosts and of ours that change no weights: any other may; all hosts' figures end alike
_WATCHING = (
    'LoggerHook', 'IterTimerHook', 'RuntimeInfoHook', 'CheckpointHook', 'EmptyCacheHook', 'ProfilerHook',
    'NPUProfilerHook', 'MemoryProfilerHook', 'NumClassCheckHook', 'ClassNumCheckHook', 'CheckInvalidLossHook',
    'SearchMonitorHook', 'ProgressHook', 'DeriveHook',
)  # fmt: skip
_FIGURES = 'VisualizationHook'
LENGTHS = ('train_cfg.max_epochs', 'train_cfg.max_iters')
SPEED = ('num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor')
_FREE = (*SPEED, 'data_root', 'ann_file', 'data_prefix')


def only_watches(key: str) -> bool:
    """Whether a setting is of a hook that changes no weights.

    Args:
        key: Of a part's settings, ``custom_hooks.<type>.…``; a second hook of a type has a plus behind it.
    """
    room, _, rest = key.partition('.')
    name = rest.partition('.')[0].rstrip('+')
    return room == 'custom_hooks' and (name in _WATCHING or name.endswith(_FIGURES))


def same_network(one: ArchSpec, other: ArchSpec) -> bool:
    """Whether two descriptions build the same stem and stages; head and norms may differ."""
    return (one.stem_channels, one.stages) == (other.stem_channels, other.stages)


def read_arch(folder: Path) -> ArchSpec:
    """The network of a work dir."""
    return ArchSpec.parse(WorkDir(folder).arch.read_text(encoding='utf-8'))


def front_folder(files: WorkDir, number: int, network: MeasuredNetwork) -> Path | None:
    """Where the network of a number of the front was trained; ``None`` where nothing was, or what is there is another.

    A network keeps its number no longer than its front: one that is chosen by other limits gives it to another. What
    began with weights of the search itself counts as long as that has not gone on.
    """
    folder = files.adapted / str(number)
    if not WorkDir(folder).arch.is_file() or not same_network(read_arch(folder), network.arch):
        return None
    notes, search = _notes(folder, 'derive'), _part(files.root, 'search')
    if 'follows' in notes and search and notes['follows'] != weights_stamp(str(search.get('id')), search['settings']):
        return None
    return folder if notes.get('host') == network.host else None


def weights_stamp(search: str, settings: Mapping[str, Any]) -> str:
    """What weights of a search's own follow from, as a network notes it that began with them.

    Args:
        search: Id of the search.
        settings: Its settings: how long it is.
    """
    return '/'.join([search, *(str(settings[key]) for key in LENGTHS if key in settings)])


def seed_folder(files: WorkDir, facts: Facts) -> Path | None:
    """Work dir of a run that trained the seed: ``seed`` in this one, or beside it in a comparison; if there is one."""
    places = [files.root, files.root.parent, *([files.root.parent.parent] if files.root.parent.name == 'front' else [])]
    for place in places:
        folder = place / 'seed'
        if folder.resolve() == files.root.resolve() or not WorkDir(folder).arch.is_file():
            continue
        arch = read_arch(folder)
        named = (facts.seed is None and place == files.root) or (
            facts.seed is not None and same_network(arch, facts.seed)
        )
        if named and same_recipe(reference(files), folder):
            return folder
    return None


def same_recipe(one: Path, other: Path) -> bool:
    """Whether the networks of two work dirs were trained on the same images in the same way, as far as both say.

    Where the host was chosen with the network, images of its size belong to it.

    Raises:
        ValueError: A ``run.json`` is not of its form.
    """
    hosted = len({_notes(folder, 'derive').get('host') for folder in (one, other)}) > 1
    mine, theirs = (
        {key: value for key, value in _recipe(folder).items() if not (hosted and '.pipeline' in key)}
        for folder in (one, other)
    )
    if not {*mine} & {*theirs} & {'val_data'}:  # of before it was noted
        mine, theirs = ({key: value for key, value in each.items() if key != 'val_data'} for each in (mine, theirs))
    return not mine or not theirs or mine == theirs


def reference(files: WorkDir) -> Path:
    """Whose recipe counts in a run: its own training's, or else that of the front's network that was trained last."""
    if _recipe(files.root):
        return files.root
    trained = [folder for folder in files.adapted.glob('*') if _recipe(folder)]
    return max(trained, key=lambda folder: WorkDir(folder).manifest.stat().st_mtime_ns, default=files.root)


def _recipe(folder: Path) -> dict[str, Any]:
    part = _part(folder, 'adapt')
    return {
        key: value
        for key, value in dict(part.get('settings') or {}).items()
        if key.startswith(_RECIPE) and not set(key.split('.')) & set(_FREE) and not only_watches(key)
    }


def _notes(folder: Path, name: str) -> Mapping[str, Any]:
    return dict(_part(folder, name).get('notes') or {})


def _part(folder: Path, name: str) -> Mapping[str, Any]:
    """A part of a run, as its ``run.json`` has it; empty where there is none."""
    file = WorkDir(folder).manifest
    parts = read_object(file).get('parts') if file.is_file() else None
    part = parts.get(name) if isinstance(parts, dict) else None
    return part if isinstance(part, dict) else {}
