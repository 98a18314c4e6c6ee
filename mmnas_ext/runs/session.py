"""A run that is open: what its work dir holds, what of it is done, and how what happens is written down.

The main process decides by the manifest alone and tells the others; it writes, and they wait. What an earlier run left
is moved into ``before_<time>/``, the manifest first: from then on nothing there passes for the new run's.
"""

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config
from mmengine.dist import barrier, broadcast_object_list, is_main_process

from mmnas_ext.archs import ArchSpec
from mmnas_ext.runs.changes import (
    EVALUATION,
    LONGER,
    RECIPE,
    Change,
    find_changes,
    find_versions,
    list_changes,
    training_settings,
)
from mmnas_ext.runs.checkpoints import Places, checkpoint_places, find_checkpoint, note_places, read_places
from mmnas_ext.runs.host_choices import CHOSEN, chosen_of, has_host
from mmnas_ext.runs.manifest import (
    ADAPT,
    DERIVE,
    RATING,
    SEARCH,
    Manifest,
    Part,
    ResumeError,
    new_id,
    read_manifest,
)
from mmnas_ext.runs.method import Method, Settings
from mmnas_ext.runs.prepared import Prepared
from mmnas_ext.workdir import WorkDir, write_text

if TYPE_CHECKING:
    from mmnas_ext.runs.sharing import Alone

VERSIONS = 'other versions'  # how the line begins that says so
RATED = 'rated'  # origin of a network that the rating tool chose by limits of its own
_FRONT = ('selection.', 'evolution.', 'choice.front')  # settings of a choice that make its front begin so
_NO_FRONT = ('.evaluation', '.recipe')  # how networks are validated, and trained
# what is known of a network that is to be chosen anew
_CHOSEN = ('arch', 'origin', 'asked', 'host')
# MMEngine's own files beside the checkpoints: a folder of logs per start, the config as it was read
_LOGS = re.compile(r'\d{8}_\d{6}')


class Session:
    """An open run.

    Args:
        cfg: Its config, as the user gave it.
        method: Its method.
        manifest: What is known of it.
        settings: What decides what the method finds, if it has been looked up.
        prepared: What a check has built for it.

    Attributes:
        files: Its work dir.
        kept: What a method's `find` leaves for its `supply`, such as a model that is in memory already.
        searched: The run whose search gave the network: this one, unless a network of another run's front is trained.
        work: Which trials of a search this process makes, where processes may share them.
    """

    def __init__(
        self,
        cfg: Config,
        method: Method,
        manifest: Manifest,
        settings: Settings | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        self.cfg, self.method, self.manifest = cfg, method, manifest
        self.files = WorkDir(cfg.work_dir)
        self.settings = settings or method.settings(cfg)
        self.prepared = prepared or Prepared()
        self.kept: dict[str, Any] = {}
        self.searched = self
        self.work: Alone | None = None
        self._fresh: set[str] = set()

    @property
    def found(self) -> ArchSpec | None:
        """The network that is found or given; ``None`` while there is none, or none by the settings of now."""
        part = self.manifest.parts.get(DERIVE)
        searched = all(self.manifest.parts[name].done for name in (SEARCH, RATING) if name in self.manifest.parts)
        if part is None or not (searched or self.manifest.is_given):
            return None
        text = part.notes.get('arch')
        return ArchSpec.parse(text) if text else None

    @property
    def host(self) -> str | None:
        """The text of the host choice that was found or given with the network; ``None`` of a run without any."""
        part = self.manifest.parts.get(DERIVE)
        known = part.notes.get('host') if part else None
        return self.kept.get('host') or known

    @property
    def settled(self) -> Config:
        """The config, told which host the network is trained with."""
        return with_choice(self.cfg, self.host)

    def begin(self, name: str, settings: Mapping[str, Any], cfg: Config | None = None) -> Part:
        """Notes that a part has begun, or goes on with it under the settings of now.

        Args:
            name: Of the part.
            settings: What decides it.
            cfg: Config of its training, if it is one: where it writes checkpoints is noted.
        """
        part = self.manifest.parts.get(name)
        notes = dict(part.notes) if part else {}
        if cfg is not None:
            known = notes.get('checkpoints', [])
            places = note_places(checkpoint_places(cfg), self.files.root)
            notes['checkpoints'] = [*known, *(place for place in places if place not in known)]
        if part is None:
            self._fresh.add(name)
            part = Part(agreed(new_id))
        part = replace(part, settings=settings, notes=notes, done=False)
        self.write(self.manifest.with_part(name, part))
        return part

    def finish(self, name: str, **notes: Any) -> None:
        """Notes that a part has ended, after all that it makes is there."""
        part = self.manifest.parts[name]
        if name == RATING:
            notes = {**notes, 'front': front_settings(self.settings.choice)}
        self.write(self.manifest.with_part(name, replace(part, done=True, notes={**part.notes, **notes})))

    def note(self, name: str, **notes: Any) -> None:
        """Notes something of a part."""
        part = self.manifest.parts[name]
        self.write(self.manifest.with_part(name, replace(part, notes={**part.notes, **notes})))

    def drop_choice(self, clears: bool) -> None:
        """Notes that a network is to be chosen and written down again.

        Args:
            clears: Set the files of the former one, and its training, aside.
        """
        manifest = _open_again(self.manifest, DERIVE)
        if clears:
            part = manifest.parts[DERIVE]
            manifest = manifest.without(ADAPT).with_part(DERIVE, replace(part, notes={**part.notes, 'clears': True}))
        self.write(manifest)

    def checkpoint(self, name: str) -> Path | None:
        """The checkpoint from which a part goes on; ``None`` where it begins."""
        part = self.manifest.parts.get(name)
        if part is None or name in self._fresh:
            return None
        call = ('adaptation' if self.method.find else 'training') if name == ADAPT else name
        return resume_from(read_places(part.notes.get('checkpoints', []), self.files.root), part.id, call)

    def write(self, manifest: Manifest) -> None:
        """Writes the manifest down; all processes go on when it is there."""
        self.manifest = manifest
        if is_main_process():
            write_text(self.files.manifest, manifest.format())
        barrier()


def open_session(
    cfg: Config,
    method: Method,
    resume: bool,
    arch: ArchSpec | None,
    search_only: bool = False,
    prepared: Prepared | None = None,
) -> Session:
    """Opens the run of a config in its work dir: goes on with the one that is there, or sets it aside and begins.

    Args:
        cfg: The config, ``work_dir`` set.
        method: Its method.
        resume: Go on.
        arch: The network that is trained instead of searched, if any. Without `resume` too, a finished search of the
            same settings stays.
        search_only: Only the search is asked for: resumed, a network that was given instead of it is left.
        prepared: What a check has built for it.

    Raises:
        ResumeError: There is nothing to go on from, or a setting has changed that would give another result.
    """
    settings = method.settings(cfg)
    files = WorkDir(cfg.work_dir)
    host = given_host(cfg)

    def decide() -> tuple[Manifest, list[str], bool]:
        if resume:
            return (*continue_run(read_manifest(files.manifest), cfg, method, arch, search_only, settings), False)
        old = _read_if_whole(files)
        if arch is not None and old is not None and _same_search(old, method, settings.search):
            kept = _give(old, arch, True, host)
            return kept, ['the search of this work dir stays; another network is trained'], False
        fresh = Manifest(new_id(), method.name, report=settings.report, versions=find_versions())
        return (fresh if arch is None else _give(fresh, arch, True, host)), [], True

    manifest, said, anew = agreed(decide)
    session = Session(cfg, method, manifest, settings, prepared)
    if anew and is_main_process():
        aside = clear(cfg)
        said += [f'what an earlier run left is set aside: {aside}'] if aside else []
    for line in said:
        say(line)
    known = manifest.report.get('commands', [])
    session.write(replace(manifest, report={**settings.report, 'commands': [*known, command_line()]}))
    return session


def command_line() -> str:
    """The command that this process was started with, as one would write it in a shell."""
    program, *arguments = sys.argv or ['']
    name = Path(program).name
    start = ['python', program] if name.endswith('.py') else [name]
    return shlex.join([*start, *arguments])


def continue_run(
    old: Manifest | None,
    cfg: Config,
    method: Method,
    arch: ArchSpec | None,
    search_only: bool = False,
    settings: Settings | None = None,
) -> tuple[Manifest, list[str]]:
    """The manifest with which a run goes on, and what is to be said of it.

    Raises:
        ResumeError: It cannot go on so.
    """
    if old is None:
        raise ResumeError(
            f'--resume: nothing to go on from in {cfg.work_dir}, which holds no run.json; start without --resume'
        )
    if old.method != method.name:
        raise ResumeError(
            f'--resume: {cfg.work_dir} holds a run of the method {old.method!r}, and this config is one of '
            f'{method.name!r}: take another --work-dir, or start without --resume',
            f'it is a run of the method {old.method!r}, and this config is one of {method.name!r}',
        )
    settings, said, manifest = settings or method.settings(cfg), list[str](), old
    wanted = {SEARCH: settings.search, RATING: settings.rating}
    for name in (SEARCH, RATING):
        part = manifest.parts.get(name)
        if part is None:
            continue
        taken, refused = find_changes(part.settings, wanted[name])
        if refused and name == SEARCH:
            raise refusal(cfg, name, refused)
        said += [f'{name}: taken over: {list_changes(taken)}'] if taken else []
        if refused:
            said.append(f'{name}: done again, {list_changes(refused)}')
        again = bool(refused) or any(change.key in LONGER for change in taken)
        manifest = manifest.with_part(name, replace(part, settings=wanted[name], done=part.done and not again))
        if again:
            manifest = _open_again(manifest, RATING, DERIVE)
    if search_only and manifest.is_given and SEARCH in manifest.parts:
        said.append('the network that was given is left: the search goes on, or gives its own')
        manifest = _open_again(manifest, DERIVE)
    elif manifest.is_given and arch is None and SEARCH in manifest.parts:
        said.append('the network was given by --arch; --resume --search-only goes back to the search in this work dir')
    manifest = _choose_again(manifest, settings.choice, arch, said, given_host(cfg))
    versions = find_versions()
    if versions != dict(old.versions):
        changed = [Change(k, old.versions.get(k), v) for k, v in versions.items() if old.versions.get(k) != v]
        said.append(f'{VERSIONS} than it was begun with: {list_changes(changed)}')
    check_training(manifest, cfg, method, said)
    return manifest, said


def check_training(manifest: Manifest, cfg: Config, method: Method, said: list[str]) -> None:
    """Raises ResumeError where what trains the network has changed since that began; `said` gets what is taken over."""
    taken, refused = training_changes(manifest, cfg, method)
    if refused:
        raise refusal(cfg, 'training' if method.derive is None else 'adaptation', refused)
    said += [f'adaptation: taken over: {list_changes(taken)}'] if taken else []


def training_changes(manifest: Manifest, cfg: Config, method: Method) -> tuple[list[Change], list[Change]]:
    """What has changed of the network's training since that began: what is taken over, and what is refused.

    Of a training that has not begun, or is one of another network, which is set aside, there is nothing to tell.
    """
    both = training_then_and_now(manifest, cfg, method)
    return ([], []) if both is None else find_changes(*both)


def training_then_and_now(
    manifest: Manifest, cfg: Config, method: Method
) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Settings of the network's training, as begun with and of now; ``None`` where `training_changes` tells nothing."""
    part = manifest.parts.get(ADAPT)
    if part is None:
        return None
    text = manifest.parts[DERIVE].notes.get('arch') if DERIVE in manifest.parts else None
    if method.derive is not None and text is None:
        return None  # what is trained is not known yet
    known = with_choice(cfg, manifest.parts[DERIVE].notes.get('host') if DERIVE in manifest.parts else None)
    config = cfg if method.derive is None else method.derive(known, ArchSpec.parse(text))
    if part.settings.get('model.backbone.arch') != config.model.get('backbone', {}).get('arch'):
        return None
    return part.settings, training_settings(config, None if method.derive is None else WorkDir(cfg.work_dir).root)


def front_settings(choice: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings of a choice those that make its front, beside limits and how networks are validated."""
    return {key: value for key, value in choice.items() if key.startswith(_FRONT) and not key.endswith(_NO_FRONT)}


def given_host(cfg: Config) -> str | None:
    """The text of the host choice that a given network is trained with; ``None`` of a config without choices."""
    return chosen_of(cfg).format() if has_host(cfg) else None


def with_choice(cfg: Config, host: str | None) -> Config:
    """A config with a host choice, or as it is."""
    if host is None:
        return cfg
    found = cfg.copy()
    found[CHOSEN] = host
    return found


def resume_from(places: list[Places], part: str, name: str) -> Path | None:
    """Finds the checkpoint of a part on the main process, says what was found, and tells the others.

    Where none is whole the part begins anew: what was done before it is not lost for that.
    """

    def look() -> tuple[Path | None, list[str]]:
        found = find_checkpoint(places, part)
        lines = found.unusable()
        if found.path is None:
            return None, [
                *(f'warning: {line}' for line in lines),
                f'no {"whole " if lines else ""}checkpoint of the {name}{"" if lines else " yet"}: it begins at '
                'iteration 0',
            ]
        lines = [f'warning: {line}; goes on from {found.path} instead' for line in lines]
        return found.path, [*lines, f'the {name} goes on from {found.path}, {found.iteration} iterations are done']

    path, lines = agreed(look)
    for line in lines:
        say(line)
    return path


def clear(cfg: Config) -> Path | None:
    """Sets aside all that an earlier run left in a work dir, and where its checkpoints were told to be.

    Returns:
        Where to; ``None`` where nothing was left.
    """
    files = WorkDir(cfg.work_dir)
    if not files.root.is_dir():
        return None
    old = _read_if_whole(files)
    places = checkpoint_places(cfg)
    for part in (old.parts if old else {}).values():
        places += read_places(part.notes.get('checkpoints', []), files.root)
    checkpoints = [path for place in places for _, _, path in place.numbered()]
    logs = [path for path in files.root.iterdir() if path.is_dir() and _LOGS.fullmatch(path.name)]
    dumped = [path for path in files.root.glob('*.py') if logs]
    chosen = [files.selected] if old and SEARCH in old.parts else []  # from this search; else it is what is trained
    return set_aside(files, [*files.of_a_run(), *chosen, *dict.fromkeys(checkpoints), *logs, *dumped])


def set_aside(files: WorkDir, paths: Iterable[Path]) -> Path | None:
    """Moves what is there of some files and folders into a folder of its own, in this order; returns that, if any."""
    # to the microsecond: two short searches may end in one second
    name = datetime.now().strftime('before_%Y%m%d_%H%M%S_%f')
    moved = None
    for path in paths:
        if not path.exists():
            continue
        inside = path.is_relative_to(files.root)
        target = files.root / name / path.relative_to(files.root) if inside else path.parent / name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        moved = files.root / name
    return moved


def _read_if_whole(files: WorkDir) -> Manifest | None:
    """The manifest of a work dir that is about to be set aside, whatever state it is in."""
    try:
        return read_manifest(files.manifest)
    except ResumeError:
        return None


def refusal(cfg: Config, name: str, refused: list[Change]) -> ResumeError:
    """The error that a part cannot go on, since settings that decide its result are others now."""
    why = begun_otherwise(cfg, name, refused)
    return ResumeError(
        f'--resume: {why}: go on with those, or start without --resume (or --join), which sets the former run aside',
        why,
    )


def begun_otherwise(cfg: Config, name: str, refused: list[Change]) -> str:
    """Says which settings that decide the result of a part are others now."""
    return f'the {name} in {cfg.work_dir} was begun with other settings ({list_changes(refused)})'


def say(text: str) -> None:
    """Prints a line of what a run does, once for all processes."""
    if is_main_process():
        print(text, flush=True)


def agreed(decide: Callable[[], Any]) -> Any:
    """What the main process decides, on all of them; its error, too."""
    outcome: list[Any] = [None, None]
    if is_main_process():
        try:
            outcome[0] = decide()
        except (ValueError, OSError) as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def _give(manifest: Manifest, arch: ArchSpec, anew: bool, host: str | None) -> Manifest:
    """Makes a given network the one to be trained; unless `anew`, what is trained of it already stays."""
    known, text = manifest.parts.get(DERIVE), arch.format('fna')
    if known is not None and (known.notes.get('arch'), known.notes.get('host')) == (text, host) and not anew:
        return manifest
    clears = DERIVE in manifest.parts or ADAPT in manifest.parts
    with_host = {} if host is None else {'host': host}
    part = Part(new_id(), notes={'arch': text, 'origin': 'given', 'clears': clears, **with_host})
    return manifest.without(ADAPT).with_part(DERIVE, part)


def _choose_again(
    manifest: Manifest, choice: Mapping[str, Any], arch: ArchSpec | None, said: list[str], host: str | None
) -> Manifest:
    """The manifest in which a network is chosen again, where another one is given or limits have changed."""
    part = manifest.parts.get(DERIVE)
    if arch is not None:
        given = _give(manifest, arch, False, host)
        if given is not manifest and ADAPT in manifest.parts:
            said.append('another network is given: the former one and its training are set aside')
        return given
    if part is None or manifest.is_given:
        return manifest
    if part.notes.get('origin') == RATED and not any(find_changes(part.notes['asked'], choice)):
        return manifest  # other limits were given to the rating tool, and the config's are as they were
    known = {key: value for key, value in part.settings.items() if not key.startswith('derived.')}
    # runs of before it was noted are not chosen again for that
    choice = {key: value for key, value in choice.items() if key in known or key != EVALUATION}
    taken, refused = find_changes(known, choice)
    changed = {change.key for change in [*taken, *refused]}
    if RECIPE in changed <= {RECIPE, EVALUATION} and ADAPT in manifest.parts:
        # whether the training goes on with it is told by the training itself
        said.append('the choice stays, though brief adaptations of this recipe might choose another network')
        return manifest
    if taken or refused:
        said.append(f'the network is chosen again: {list_changes([*taken, *refused])}')
        return _open_again(manifest, DERIVE)
    return manifest


def _open_again(manifest: Manifest, *names: str) -> Manifest:
    for name in names:
        part = manifest.parts.get(name)
        if part is not None:
            notes = {key: value for key, value in part.notes.items() if name != DERIVE or key not in _CHOSEN}
            manifest = manifest.with_part(name, replace(part, done=False, notes=notes))
    return manifest


def _same_search(old: Manifest, method: Method, settings: Mapping[str, Any]) -> bool:
    """Whether a work dir's search, which must have begun, is that of these settings."""
    part = old.parts.get(SEARCH)
    return old.method == method.name and part is not None and not find_changes(part.settings, settings)[1]
