"""A row that would repeat another one's training: same network, settings, data and random seed give the same bits."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmnas_ext.archs import ArchSpec
from mmnas_ext.archs.json_file import read_json
from mmnas_ext.runs.changes import Change, figure_changes, find_changes, training_settings
from mmnas_ext.runs.front_runs import host_beside
from mmnas_ext.runs.host_choices import CHOSEN
from mmnas_ext.runs.manifest import ADAPT, Part, ResumeError, read_manifest
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.rows import Comparison, Row, read_options
from mmnas_ext.runs.run import prepare
from mmnas_ext.search.fields import check_kind
from mmnas_ext.workdir import WorkDir, write_text

_ARCH = 'model.backbone.arch'
NAME = 'same.json'  # names the row whose training counts for this one too


def find_same(comparison: Comparison, row: Row, seed: int, arch: str) -> Row | None:
    """Finds a row whose training has ended and is what this one's would be.

    Args:
        comparison: The comparison.
        row: The row that is to be trained.
        seed: The random seed of both.
        arch: Its network, as ``--arch`` takes it.
    """
    others = {other.name: _training(comparison.folder(other, seed)) for other in comparison.rows if other != row}
    ended = {name: part for name, part in others.items() if part is not None}
    if not ended:
        return None
    settings = _settings(comparison, row, seed, arch)
    if settings is None:
        return None
    same = (name for name, part in ended.items() if find_changes(_built(part.settings), settings) == ([], []))
    return next(map(comparison.row, same), None)


def same_changes(comparison: Comparison, row: Row, seed: int, arch: str, folder: Path) -> list[Change]:
    """What makes a row's training now another one than that in another row's work dir, which counts for it.

    Args:
        comparison: The comparison.
        row: The row.
        seed: The random seed of both.
        arch: Its network, as ``--arch`` takes it.
        folder: The work dir of the other row, which need not be one of the comparison any more.
    """
    part, settings = _training(folder), _settings(comparison, row, seed, arch)
    return [] if part is None or settings is None else figure_changes(_built(part.settings), settings)


def note_same(comparison: Comparison, row: Row, seed: int, same: Row) -> None:
    """Writes down that another row's training, which has ended, is this one's."""
    part = _training(comparison.folder(same, seed))
    if part is None:
        raise ValueError(f'row {same.name} has not ended with random seed {seed}')
    write_text(comparison.folder(row, seed) / NAME, json.dumps({'row': same.name, 'training': part.id}))


def trained_in(comparison: Comparison, row: Row, seed: int) -> Path:
    """The work dir that has a row's training: its own, or that of the row whose training counts for it too.

    Raises:
        ValueError: The note of that is damaged.
    """
    folder = comparison.folder(row, seed)
    if not (folder / NAME).is_file():
        return folder
    note: Mapping[str, Any] = check_kind(read_json(folder / NAME), dict, str(folder / NAME))
    other = folder.parent / str(note.get('row'))
    part = _training(other)
    return other if part is not None and part.id == note.get('training') else folder


def _settings(comparison: Comparison, row: Row, seed: int, arch: str) -> dict[str, Any] | None:
    """Settings of the training of a row's network; ``None`` of a config that only searches."""
    folder = comparison.folder(row, seed)
    cfg = prepare(comparison.config_of(row), str(folder), options=read_options(comparison.options_of(row, seed)))
    if (host := host_beside(cfg, arch)) is not None:
        cfg[CHOSEN] = host
    derive = method_of(cfg).derive
    if derive is None:
        return None
    return _built(training_settings(derive(cfg, ArchSpec.parse(arch)), folder))


def _built(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training, with the network as it is built: detectors leave out the head in a seed's file."""
    arch, outputs = settings.get(_ARCH), settings.get('model.backbone.out_indices')
    # as text only a network of ours has one; another row may train any backbone
    if not isinstance(arch, str) or '|head=' not in arch:
        return {**settings}
    spec = ArchSpec.parse(arch)
    built = spec if len(spec.stages) in (outputs or ()) else spec.replace(head_channels=None)
    return {**settings, _ARCH: built.format('fna')}


def _training(folder: Path) -> Part | None:
    """The training that has ended in a work dir; whoever runs that row says what is damaged there."""
    try:
        manifest = read_manifest(WorkDir(folder).manifest)
    except ResumeError:
        return None
    return manifest.parts[ADAPT] if manifest is not None and manifest.state == 'done' else None
