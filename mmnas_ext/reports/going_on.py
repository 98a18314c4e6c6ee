"""What one types next: the commands that go on with a run, test what it trained, or do it once more."""

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mmnas_ext.reports.facts import Facts
from mmnas_ext.workdir import WorkDir

_FOUND = ('found', 'derived')
_UNFINISHED = ('created', 'searching', 'rating', *_FOUND, 'adapting')
# what run.json knows once it was said; both take a value
_ONCE = ('--arch', '--pick')
_OPTIONS = '--cfg-options'
_HOST = 'host_choice='  # of the network that --arch gives, so that it goes with that
_JOIN = '--join'  # begins a search or goes on with it, and takes no --resume


def next_commands(files: WorkDir, facts: Facts) -> list[str]:
    """The commands, each as a shell reads it; the last one draws the report again."""
    place, dumped = files.root, _newest(files.root, '*.py')
    started = _started(facts)
    again = ['mmnas', 'train', dumped, '--work-dir', f'{place}-again'] if dumped else []
    again += ['--search-only'] if again and has_flag(started, '--search-only') else []
    lines = []
    if facts.state in _UNFINISHED:
        base = started or (['mmnas', 'train', dumped, '--work-dir', str(place)] if dumped else [])
        if base:
            what = 'trains the network that was found' if facts.state in _FOUND else 'goes on where it stopped'
            what += ', with torchrun as before' if has_flag(base, '--launcher') else ''
            lines.append(f'{shlex.join(_resumed(base, facts.state in _FOUND))}   # {what}')
        elif files.config.is_file():
            words = ['mmnas', 'train', str(files.config), '--work-dir', f'{place}-trained']
            lines.append(f'{shlex.join(words)}   # trains the network from its start')
    if again and (facts.state in _FOUND or facts.state not in _UNFINISHED):
        lines.append(f'{shlex.join(again)}   # the same run once more')
    if facts.state not in _UNFINISHED:
        newest = _newest(files.adapt, '*.pth')
        if files.config.is_file():
            words = ['test', str(files.config), newest] if newest else ['train', str(files.config)]
            more = ['--work-dir', f'{place / "test" if newest else f"{place}-trained"}']
            lines.append(shlex.join(['mmnas', *words, *more]))
    return [*lines, shlex.join(['mmnas', 'report', str(place)])]


def _newest(folder: Path, pattern: str) -> str:
    """The newest of some files; empty where there is none."""
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    return str(found[-1]) if found else ''


def _started(facts: Facts) -> list[str]:
    """The words that the run was last started with, of a training or a demo; none where no file says."""
    for line in reversed(facts.commands):
        with suppress(ValueError):  # what is no line of a shell
            words = shlex.split(line)
            if any(Path(word).stem in ('train', 'demo') for word in words[1:3]):
                return words
    return []


def _resumed(words: Sequence[str], trains: bool) -> list[str]:
    """The same command with ``--resume``, before the options of the config, and without what is said but once."""
    kept: list[str] = []
    skipped = False
    for word in words:
        name = word.partition('=')[0]
        if skipped:
            skipped = False
        elif name in _ONCE:
            skipped = name == word
        elif word != '--resume' and not (trains and has_flag([word], '--search-only')):
            kept += [] if word.removeprefix(f'{_OPTIONS}=').startswith(_HOST) else [word]
    at = next((i for i, word in enumerate(kept) if has_flag([word], _OPTIONS)), len(kept))
    if '=' not in ''.join(kept[at : at + 2]):  # no option is left
        del kept[at : at + 1]
    return kept if has_flag(kept, _JOIN) else [*kept[:at], '--resume', *kept[at:]]


def options_of(words: Sequence[str]) -> list[str]:
    """The options of a config that a command line gives, but for the host of a network that it gives too."""
    found: list[str] = []
    inside = False
    for word in words:
        if word.startswith('--'):
            inside, word = has_flag([word], _OPTIONS), word.partition('=')[2]
        if inside and word and not word.startswith(_HOST):
            found.append(word)
    return found


def has_flag(words: Sequence[str], flag: str) -> bool:
    """Whether a flag is among the words, perhaps shortened, as argparse lets one."""
    return any(len(word) > 3 and flag.startswith(word.partition('=')[0]) for word in words)
