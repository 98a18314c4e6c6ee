"""Which checkpoint a run goes on from: the newest that is whole and belongs to it.

They are looked for where the part's `CheckpointHook` was told to write them. A run killed while it wrote one, a full
disk or a bad sector leave a damaged file behind, which nothing but its checksums tells.
"""

import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.hooks import Hook

from mmnas_ext.registry import name_of
from mmnas_ext.remap.checkpoints import read_training
from mmnas_ext.remap.reader import check_unpacked

STAMP = 'mmnas_ext_part'  # in a checkpoint's ``meta``: id of the part that wrote it
_BEST = re.compile(r'best_.+_(epoch|iter)_([0-9]+)\.pth')


@dataclass(frozen=True)
class Places:
    """Where a training's checkpoints are, as its `CheckpointHook` was told.

    Args:
        folder: The folder.
        template: Name of a file, ``{}`` for the number.
        by_epoch: Whether the number counts epochs, or iterations.
    """

    folder: str
    template: str
    by_epoch: bool

    def numbered(self) -> Iterator[tuple[int, bool, Path]]:
        """Yields number, whether it counts epochs, and path of the files that are there, the best ones among them."""
        before, _, after = self.template.partition('{}')
        own = re.compile(re.escape(before) + r'([0-9]+)' + re.escape(after))
        for path in sorted(Path(self.folder).glob('*')):
            match = own.fullmatch(path.name)
            if match:
                yield int(match[1]), self.by_epoch, path
            elif best := _BEST.fullmatch(path.name):
                yield int(best[2]), best[1] == 'epoch', path


class Found(NamedTuple):
    """The checkpoint to go on from, and newer ones that cannot be used, with the reason.

    Args:
        path: The file; ``None`` where there is none.
        iteration: Iterations done in it.
        refused: Files and reasons, newest first.
    """

    path: Path | None
    iteration: int
    refused: tuple[tuple[Path, str], ...]

    def unusable(self) -> list[str]:
        """The newer ones in words."""
        return [f'{path} cannot be used: {reason}' for path, reason in self.refused]


class StampHook(Hook):
    """Writes into each checkpoint which part of a run it belongs to.

    Args:
        part: Its id.
    """

    priority = 'VERY_LOW'

    def __init__(self, part: str) -> None:
        self.part = part

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the stamp."""
        checkpoint['meta'][STAMP] = self.part


def checkpoint_hooks(cfg: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The hooks that write checkpoints, by their keys in the config, or in a half that says what differs."""
    hooks = {'default_hooks.checkpoint': (cfg.get('default_hooks') or {}).get('checkpoint', {})}
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        if name_of(hook).endswith('CheckpointHook'):
            hooks[f'custom_hooks.{number}'] = hook
    return {key: hook for key, hook in hooks.items() if hook is not None}


def checkpoint_places(cfg: Config) -> list[Places]:
    """Where the hooks of a config write checkpoints; what a part notes of it is a list of these as mappings.

    Raises:
        ValueError: A hook writes them where this cannot look.
    """
    found = []
    for hook in checkpoint_hooks(cfg).values():
        folder = Path(cfg.work_dir)
        if hook.get('out_dir') is not None and str(hook['out_dir']) != str(cfg.work_dir):
            if '://' in str(hook['out_dir']):
                raise ValueError(
                    f'CheckpointHook.out_dir must be a local folder, from which --resume can go on, got '
                    f'{hook["out_dir"]!r}'
                )
            folder = Path(hook['out_dir'], folder.name)  # as MMEngine's hook does
        by_epoch = hook.get('by_epoch', True)
        template = hook.get('filename_tmpl') or ('epoch_{}.pth' if by_epoch else 'iter_{}.pth')
        found.append(Places(str(folder), template, by_epoch))
    return found


def nest_checkpoints(cfg: Config, name: str) -> None:
    """Lets hooks that write elsewhere write into a folder `name` there.

    MMEngine names their folder by the work dir's own, and every run has an ``adapt`` and a ``trials/00``.
    """
    hooks = [(cfg.get('default_hooks') or {}).get('checkpoint'), *(cfg.get('custom_hooks') or [])]
    for hook in hooks:
        if hook is not None and hook.get('out_dir') is not None:
            hook['out_dir'] = f'{str(hook["out_dir"]).rstrip("/")}/{name}'


def note_places(places: Sequence[Places], root: Path) -> list[dict[str, Any]]:
    """Places as a manifest keeps them: those below its work dir move with it."""
    return [
        {**asdict(place), 'folder': os.path.relpath(place.folder, root)}
        if Path(place.folder).is_relative_to(root)
        else asdict(place)
        for place in places
    ]


def read_places(notes: Sequence[Mapping[str, Any]], root: Path) -> list[Places]:
    """Places that `note_places` has noted, of a work dir that may have moved since."""
    return [Places(**{**note, 'folder': str(root / note['folder'])}) for note in notes]


def find_checkpoint(places: str | Path | Sequence[Places], part: str | None = None) -> Found:
    """Finds the newest whole checkpoint; MMEngine's ``last_checkpoint`` is not asked: it may be half written too.

    Args:
        places: Where to look, or a work dir whose files have MMEngine's own names.
        part: Id of the part that must have written it; ``None`` takes any.
    """
    if isinstance(places, str | Path):
        places = [Places(str(places), 'epoch_{}.pth', True), Places(str(places), 'iter_{}.pth', False)]
    files = {path: (number, by_epoch) for place in places for number, by_epoch, path in place.numbered()}
    # a kind's newest first; which kind is further is in the files
    kinds = {
        kind: sorted((path for path, (_, each) in files.items() if each is kind), key=lambda p: (-files[p][0], p.name))
        for kind in (True, False)
    }
    refused: list[tuple[Path, str]] = []
    whole: list[tuple[int, Path]] = []
    for paths in kinds.values():
        for path in paths:
            iteration, reason = inspect(path, *files[path], part)
            if not reason:
                whole.append((iteration, path))
                break
            refused.append((path, reason))
    if not whole:
        return Found(None, 0, tuple(refused))
    iteration, path = max(whole, key=lambda each: each[0])
    return Found(path, iteration, tuple(refused))


def inspect(path: Path, number: int, by_epoch: bool, part: str | None) -> tuple[int, str]:
    """The iterations done in a checkpoint, and why a run cannot go on from it; empty if it can."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked(archive, path)
            broken = archive.testzip()
    except Exception as error:  # whatever a damaged file makes the reader stumble over
        return 0, f'it is truncated or damaged ({error})'
    if broken is not None:
        return 0, f'it is damaged: the checksum of its entry {broken} does not hold'
    try:
        content = read_training(path)
    except ValueError as error:
        return 0, f'it cannot be read: {str(error).replace(f"checkpoint {path}", "it", 1)}'
    if not isinstance(content, Mapping) or 'state_dict' not in content:
        return 0, 'it holds no state_dict'
    meta = content.get('meta')
    if part is None and not meta:
        return 0, ''  # of any tool; it is tested, not gone on from
    if not isinstance(meta, Mapping) or not isinstance(meta.get('iter'), int):
        return 0, 'it holds no state of a training'
    if part is not None and meta.get(STAMP) != part:
        return 0, 'another run has written it'
    if meta.get('epoch' if by_epoch else 'iter') != number:
        return 0, f'its name says {number}, its content {meta.get("epoch" if by_epoch else "iter")}'
    if part is not None and 'optimizer' not in content:
        return 0, 'it holds no state of the optimizer (save_optimizer=False)'
    return int(meta['iter']), ''
