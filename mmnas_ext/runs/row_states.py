"""How far the rows of a comparison are, by the settings of now: what has ended, what was chosen, what is of others."""

import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmnas_ext.archs import ArchSpec
from mmnas_ext.archs.json_file import parse_json
from mmnas_ext.runs.changes import LONGER, RECIPE, figure_changes, find_changes, list_changes
from mmnas_ext.runs.front_runs import host_beside
from mmnas_ext.runs.host_choices import CHOSEN as HOST
from mmnas_ext.runs.later import quiet
from mmnas_ext.runs.manifest import ADAPT, DERIVE, SEARCH, Manifest, ResumeError, read_manifest
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.repeated import NAME as SAME
from mmnas_ext.runs.repeated import find_same, same_changes, trained_in
from mmnas_ext.runs.rows import SEED, Comparison, Row, find_seed, read_options
from mmnas_ext.runs.run import prepare
from mmnas_ext.runs.session import VERSIONS, continue_run, training_then_and_now
from mmnas_ext.workdir import WorkDir, write_text

CHOSEN = WorkDir(Path()).selected.name  # folder of what a row chose from another row's search
READING = threading.RLock()  # MMEngine reads one config at a time
_ASKED = 'asked.json'


@dataclass(frozen=True)
class RowStates:
    """Looks at the work dirs of a comparison's rows; changes none of them but for what `note_choice` writes.

    Args:
        comparison: What is compared.
        whole: All rows that there are, of which `comparison` may have some: the training of any may count for a row.
    """

    comparison: Comparison
    whole: Comparison
    _configs: dict[tuple[str, ...], Config] = field(default_factory=dict, init=False, repr=False, compare=False)

    def is_done(self, row: Row, seed: int) -> bool:
        """Whether a row has ended under the settings of now; where they are others, its run will say so."""
        try:
            with READING, quiet():
                return self._is_done(row, seed)
        except (ValueError, OSError):
            return False

    def why_other(self, row: Row, seed: int) -> str:
        """Why the figure of a row that has ended is none of this comparison by the settings of now.

        Returns:
            What is another now, in words; empty where nothing is, or where nothing has ended.
        """
        try:
            with READING, quiet():
                return self._why_other(row, seed)
        except (ValueError, OSError) as error:
            return f'it cannot be held against the settings of now: {error}'

    def is_found(self, row: Row, folder: Path, options: list[str]) -> bool:
        """Whether the search of a row has given its network, by the settings of now."""
        manifest = read_manifest(WorkDir(folder).manifest)
        if manifest is None:
            return False
        with READING, quiet(), suppress(ResumeError):  # its run will say why
            cfg = self.prepare(row, folder, options)
            manifest, _ = continue_run(manifest, cfg, method_of(cfg), None)
        return manifest.is_done(DERIVE)

    def is_chosen(self, row: Row, seed: int, options: list[str]) -> bool:
        """Whether what is asked for now was chosen, from the search that is there now."""
        folder = self.comparison.folder(row, seed) / CHOSEN
        if not (folder / 'arch.json').is_file():
            return False
        known, wanted = self._choices(row, seed, options)
        return known is not None and known == wanted

    def note_choice(self, row: Row, seed: int, options: list[str]) -> None:
        """Writes down what a row's network was chosen by, after it is there."""
        asked = json.dumps(self._asked(row, seed, options), indent=1)
        write_text(self.comparison.folder(row, seed) / CHOSEN / _ASKED, asked)

    def forget_choice(self, row: Row, seed: int) -> None:
        """Takes back what `note_choice` wrote, before another network is chosen: a kill must not leave both."""
        (self.comparison.folder(row, seed) / CHOSEN / _ASKED).unlink(missing_ok=True)

    def arch_of(self, row: Row, seed: int) -> str | None:
        """What ``--arch`` is given; ``None`` of a row that searches in its own folder."""
        if row.search_of is not None:
            return str(self.comparison.folder(row, seed) / CHOSEN / 'arch.json')
        if row.arch == SEED:
            found = find_seed(self.comparison.read(row))
            if found is None:
                raise ValueError(
                    'the row seed needs model.backbone.init_cfg.seed=dict(arch=…, checkpoint=…) in the config, which '
                    'names no arch: give another by --network NAME=ARCH, and --rows without seed'
                )
            return found if isinstance(found, str) else ArchSpec.parse(found).format('fna')
        if row.needs is not None:
            other = self.comparison.row(row.needs)
            folder = self.comparison.folder(other, seed)
            return str(folder / CHOSEN / 'arch.json' if other.search_of is not None else WorkDir(folder).arch)
        return None if row.arch is None else row.arch.replace('{seed}', str(seed))

    def prepare(self, row: Row, folder: Path, options: list[str]) -> Config:
        """The config of a row's run in a folder, its file read once; to be called while no other is read."""
        config = self.comparison.config_of(row)
        key = (config, *options)
        if key not in self._configs:
            self._configs[key] = prepare(config, options=read_options(options))
        found = self._configs[key].copy()
        found.work_dir = str(folder)
        return found

    def _is_done(self, row: Row, seed: int) -> bool:
        folder, options = self.comparison.folder(row, seed), self.comparison.options_of(row, seed)
        if row.search_of is not None and not self.is_chosen(row, seed, options):
            return False
        arch = self.arch_of(row, seed)
        if arch is not None and (folder / SAME).is_file():
            same = find_same(self.whole, row, seed, arch)
            where = trained_in(self.comparison, row, seed)
            return same is not None and where == self.comparison.folder(same, seed)
        manifest = read_manifest(WorkDir(folder).manifest)
        return manifest is not None and not self._differs(manifest, row, folder, options, arch)

    def _why_other(self, row: Row, seed: int) -> str:
        folder, options = self.comparison.folder(row, seed), self.comparison.options_of(row, seed)
        trained = trained_in(self.comparison, row, seed)
        manifest = read_manifest(WorkDir(trained).manifest)
        if manifest is None or (row.train and manifest.state != 'done'):
            return ''
        for name in row.waits_for:
            if why := self._why_other(self.comparison.row(name), seed):
                return f'of row {name}, which it follows from: {why}'
        if row.search_of is not None and (why := self._chosen_otherwise(row, seed, options)):
            return why
        arch = self.arch_of(row, seed)
        if arch is not None and trained != folder:
            changed = same_changes(self.whole, row, seed, arch, trained)
            return f'it was trained as {trained.name}, and is another now: {list_changes(changed)}' if changed else ''
        return self._differs(manifest, row, folder, options, arch)

    def _differs(self, manifest: Manifest, row: Row, folder: Path, options: list[str], arch: str | None) -> str:
        """In what a run differs from one that has ended under the settings of now; empty where it does not."""
        cfg = self.prepare(row, folder, options)
        if (host := host_beside(cfg, arch)) is not None:
            cfg[HOST] = host
        given, method = None if arch is None else ArchSpec.parse(arch), method_of(cfg)
        try:
            now, said = continue_run(manifest, cfg, method, given, not row.train)
        except ResumeError as error:
            return error.why
        if not (now.state == 'done' if row.train else now.is_done(SEARCH)):
            if given is not None and manifest.state == 'done':
                return f'{folder} has the training of another network than the one of now'
            return '; '.join(line for line in said if not line.startswith(VERSIONS)) or f'{folder} has not ended'
        both = training_then_and_now(now, cfg, method) if row.train else None
        changed = [] if both is None else figure_changes(*both)
        return f'{folder} was trained or validated otherwise: {list_changes(changed)}' if changed else ''

    def _chosen_otherwise(self, row: Row, seed: int, options: list[str]) -> str:
        """In what the choice of a row's network differs from what is asked for now; options that do not count aside."""
        known, wanted = self._choices(row, seed, options)
        if known is None:
            return 'how its network was chosen is not written down'
        if known.get('selection') != wanted['selection']:
            return f'its network was chosen by {known.get("selection")}, and {wanted["selection"]} is asked for'
        if wanted['search'] is not None and known.get('search') != wanted['search']:
            return f'its network was chosen from another search of row {row.search_of}, or before that went on'
        choices = [{} if each.get('choice') is None else dict(each['choice']) for each in (known, wanted)]
        harmless, refused = find_changes(*choices)
        changed = [*harmless, *refused]
        return f'its network was chosen by other settings: {list_changes(changed)}' if changed else ''

    def _choices(self, row: Row, seed: int, options: list[str]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """What a row's network was chosen by, ``None`` where that is not known, and what is asked for now."""
        folder, wanted = self.comparison.folder(row, seed), self._asked(row, seed, options)
        note = folder / CHOSEN / _ASKED
        if not note.is_file():
            return None, wanted
        try:
            known: Any = parse_json(note.read_text(encoding='utf-8'))
        except ValueError:
            return None, wanted
        if not isinstance(known, dict):
            return None, wanted
        manifest = read_manifest(WorkDir(folder).manifest)
        if manifest is not None and ADAPT in manifest.parts:
            # it is trained: whether that goes on with another recipe is told by the training
            for each in (known, wanted):
                if isinstance(each.get('choice'), dict):
                    each['choice'].pop(RECIPE, None)
        if 'choice' not in known and wanted['search'] is not None:
            # of before the choice and the length of the search were noted
            wanted = {key: value for key, value in wanted.items() if key != 'choice'} | {'search': wanted['search'][0]}
        return known, wanted

    def _asked(self, row: Row, seed: int, options: list[str]) -> dict[str, Any]:
        searched = WorkDir(self.comparison.folder(self.comparison.row(str(row.search_of)), seed))
        manifest = read_manifest(searched.manifest)
        part = None if manifest is None else manifest.parts.get(SEARCH)
        search = None if part is None else [part.id, *(part.settings.get(key) for key in LONGER)]
        with READING, quiet():
            cfg = self.prepare(row, searched.root, options)
            choice = dict(method_of(cfg).settings(cfg).choice)  # limits and selection, which no search knows
        asked = {'search': search, 'selection': row.selection, 'config': self.comparison.config_of(row)}
        # as the file has it, so that what is read compares
        plain: dict[str, Any] = json.loads(json.dumps({**asked, 'options': options, 'choice': choice}))
        return plain
