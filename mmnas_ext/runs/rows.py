"""Rows of a comparison: networks, each by how it is made, and what a run of one needs."""

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from mmnas_ext.runs.checkpoints import checkpoint_hooks
from mmnas_ext.runs.halves import seed_arch
from mmnas_ext.runs.methods import METHODS, method_of
from mmnas_ext.runs.run import prepare
from mmnas_ext.search.decision import KINDS

SEED, FOUND = 'seed', 'found:'
_NAME = re.compile(r'\w[\w.-]*')
_SEED = 'randomness.seed'


@dataclass(frozen=True)
class Row:
    """One network of a comparison, and how it is made.

    Args:
        name: Name of the row's folder.
        title: Title in the tables; by default the name.
        config: Config that is run; by default the comparison's.
        arch: The network, if it is not searched: ``'seed'`` for the one whose weights the config's search starts from,
            ``'found:<row>'`` for the one that another row finds, else what ``--arch`` of ``tools/train.py`` takes.
            ``{seed}`` in it stands for the random seed, as in `options`.
        options: Overrides of the config, ``key=value``, beside the comparison's.
        search_of: The row whose finished search the network is chosen from.
        selection: How, see ``tools/select_network.py``; by default as the config says.
        train: Train the network; else the row only searches, for others, and is in no table.
        after: Further rows that have to end before this one begins, such as one whose checkpoint an option names.

    Raises:
        ValueError: The name is no name of a folder, or the arguments contradict each other.
    """

    name: str
    title: str = ''
    config: str | None = None
    arch: str | None = None
    options: tuple[str, ...] = ()
    search_of: str | None = None
    selection: str | None = None
    train: bool = True
    after: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f'a row is named by letters, digits, _, - and ., got {self.name!r:.80}')
        object.__setattr__(self, 'title', self.title or self.name)
        object.__setattr__(self, 'options', tuple(self.options))
        object.__setattr__(self, 'after', tuple(self.after))
        if self.selection is not None and (self.search_of is None or self.selection not in KINDS):
            raise ValueError(
                f'row {self.name}: selection must be one of {KINDS} and needs search_of, got {self.selection!r:.40} '
                f'and search_of={self.search_of!r:.40}'
            )
        if self.arch is not None and (self.search_of is not None or not self.train):
            raise ValueError(f'row {self.name}: a given arch is trained, not searched: leave out search_of and train')

    @property
    def needs(self) -> str | None:
        """Name of the row whose search or network this one takes."""
        if self.search_of is not None:
            return self.search_of
        arch = self.arch or ''
        return arch.removeprefix(FOUND) if arch.startswith(FOUND) else None

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Names of the rows that have to end before this one begins."""
        return self.after if self.needs is None else (self.needs, *self.after)


@dataclass(frozen=True)
class Comparison:
    """What is compared: rows, each over the same random seeds.

    Args:
        config: Config of the rows that name none.
        work_dir: Folder of all runs: ``seed<n>/<row>`` each.
        rows: The rows, one that another needs before that.
        seeds: Random seeds.
        options: Overrides of all rows, ``key=value``.

    Raises:
        ValueError: A row comes twice or needs one that does not come before it, `seeds` are no distinct integers, or
            `options` set a random seed.
    """

    config: str
    work_dir: Path
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, 'work_dir', Path(self.work_dir))
        for name in ('rows', 'seeds', 'options'):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        names = [row.name for row in self.rows]
        twice = next((name for name in names if names.count(name) > 1), None)
        if not names or twice is not None:
            raise ValueError(f'rows must be at least one, each of another name, got {twice or "none"!r} twice')
        for place, row in enumerate(self.rows):
            if lacking := [name for name in row.waits_for if name not in names[:place]]:
                raise ValueError(f'row {row.name} needs a row {lacking[0]!r:.40} before it, got {names[:place]}')
            if row.needs is not None:
                self._check_needed(row, self.row(row.needs))
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds or min(self.seeds) < 0:
            raise ValueError(f'--seeds must be distinct integers of at least 0, got {list(self.seeds)}')
        for text in (*self.options, *(text for row in self.rows for text in row.options)):
            if text.partition('=')[0] in {_SEED, *(key for method in METHODS for key in method.seeds)}:
                raise ValueError(f'--cfg-options must not set {text.partition("=")[0]}, which --seeds does, got {text}')

    def check_overrides(self, given: Iterable[str]) -> None:
        """Raises ValueError for overrides that a user gives for all rows where a row sets the same entry itself."""
        own = {text.partition('=')[0]: row.name for row in self.rows for text in row.options}
        for text in given:
            wanted = text.partition('=')[0]
            for key, name in own.items():
                if f'{key}.'.startswith(f'{wanted}.') or f'{wanted}.'.startswith(f'{key}.'):
                    raise ValueError(
                        f'--cfg-options are of all rows, and {text:.80} would not be of row {name}, which sets {key} '
                        'itself: leave that row out by --rows, or the option'
                    )

    def check_shared(self) -> None:
        """Raises ValueError for what the runs of all random seeds would share.

        That is a random seed of a part, which the comparison's would leave as it is, and a folder for checkpoints
        outside of their work dirs, where a row's would be written over.
        """
        for row in self.rows:
            cfg = self.read(row)
            trial = (cfg.get('random_search') or {}).get('trial')
            parts = {'': cfg, 'derived.': cfg.get('derived') or {}, 'random_search.trial.': trial or {}}
            for where, part in parts.items():
                seed = (part.get('randomness') or {}).get('seed')
                if where and seed is not None:
                    raise ValueError(
                        f'{self.config_of(row)} has {where}randomness.seed={seed}, which every random seed of the '
                        'comparison would share: leave it out'
                    )
                for place, hook in checkpoint_hooks(part).items():
                    if hook.get('out_dir') is not None:
                        raise ValueError(
                            f'{self.config_of(row)} has {where}{place}.out_dir={hook["out_dir"]}, where the '
                            "checkpoints of one random seed would be written over by another's: leave it out"
                        )

    @staticmethod
    def _check_needed(row: Row, needed: Row) -> None:
        if row.search_of is not None and (needed.arch is not None or needed.search_of is not None):
            raise ValueError(f'row {row.name}: search_of must be a row that searches itself, got {needed.name!r}')
        if row.search_of is None and not needed.train:
            raise ValueError(f'row {row.name}: {needed.name!r} only searches: say search_of={needed.name!r} instead')

    def row(self, name: str) -> Row:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)

    def only(self, names: Iterable[str] | None) -> 'Comparison':
        """The comparison of some rows alone, and of those that they need; of all where none are named.

        Raises:
            ValueError: There is no row of a name.
        """
        if names is None:
            return self
        wanted = list(names)
        known = [row.name for row in self.rows]
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ValueError(f'rows must be among {known}, got {unknown}')
        for name in wanted:  # it grows
            wanted += [needed for needed in self.row(name).waits_for if needed not in wanted]
        rows = tuple(row for row in self.rows if row.name in wanted)
        return Comparison(self.config, self.work_dir, rows, self.seeds, self.options)

    def folder(self, row: Row, seed: int) -> Path:
        """The work dir of a row's run."""
        return self.work_dir / f'seed{seed}' / row.name

    def config_of(self, row: Row) -> str:
        """The config that a row runs."""
        return row.config or self.config

    def read(self, row: Row) -> Config:
        """The config of a row without a random seed; it is not to be changed."""
        return _read(self.config_of(row), (*self.options, *row.options))

    def options_of(self, row: Row, seed: int) -> list[str]:
        """Overrides of a row's run."""
        seeds = [f'{key}={seed}' for key in (_SEED, *method_of(self.read(row)).seeds)]
        return [*seeds, *self.options, *(text.replace('{seed}', str(seed)) for text in row.options)]


@cache
def _read(config: str, options: tuple[str, ...]) -> Config:
    return prepare(config, options=read_options(options))


def read_options(texts: Sequence[str]) -> dict[str, Any]:
    """Reads ``key=value`` texts as ``--cfg-options`` of the tools does.

    Raises:
        ValueError: One is not of that form.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('--options', nargs='+', action=DictAction)
    try:
        found = parser.parse_args(['--options', *texts] if texts else []).options
    except Exception:  # no sign of equality, or brackets that do not close
        raise ValueError(
            f'--cfg-options must be key=value with balanced brackets, got {" ".join(texts):.200}'
        ) from None
    return dict(found or {})


def find_seed(cfg: Config) -> Any:
    """The architecture whose weights a search starts from, as its config has it; ``None`` of one that names none."""
    return seed_arch((cfg.get('model') or {}).get('backbone') or {})
