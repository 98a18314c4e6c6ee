"""The files of a work dir: what they are called, and how one is written. Standard library only.

Everything that reads or writes a file of a run asks this module for its place, so a name stands here alone, and every
text goes through `write_text`, so none is ever found half written.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# figures and page of a run
_FIGURES = ('network.png', 'alphas.png', 'evolution.png', 'front.png', 'report.html')


@dataclass(frozen=True)
class WorkDir:
    """The work dir of a run, as a value; nothing is created or read by it.

    Args:
        root: The folder.
    """

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, 'root', Path(self.root))

    @property
    def manifest(self) -> Path:
        """Which run this is and how far it is."""
        return self.root / 'run.json'

    @property
    def search_log(self) -> Path:
        """What a search by gradients says of alpha while it runs, a record a line."""
        return self.root / 'search_log.jsonl'

    @property
    def search_space(self) -> Path:
        """The space that is searched."""
        return self.root / 'search_space.json'

    @property
    def trials(self) -> Path:
        """A folder for each trial of a random search."""
        return self.root / 'trials'

    @property
    def trials_table(self) -> Path:
        """All trials in one table."""
        return self.root / 'trials.md'

    @property
    def evolution(self) -> Path:
        """The generations of an evolution: what each network costs and what was measured of it."""
        return self.root / 'evolution.json'

    @property
    def evolution_figure(self) -> Path:
        """What each of them reached."""
        return self.root / 'evolution.png'

    @property
    def rating_parts(self) -> Path:
        """Ratings, piece by piece as they are found."""
        return self.root / 'ratings'

    @property
    def ratings(self) -> Path:
        """Cost and rating of every path of a distillation."""
        return self.root / 'ratings.json'

    @property
    def front(self) -> Path:
        """Measured networks along a cost; of a distillation also the exact front of cost and rating."""
        return self.root / 'front.json'

    @property
    def front_figure(self) -> Path:
        """A figure of the measured networks."""
        return self.root / 'front.png'

    @property
    def adapted(self) -> Path:
        """A folder for each network of the front that was trained, and their table."""
        return self.root / 'front'

    @property
    def adapted_table(self) -> Path:
        """What the networks of the front cost, and reached before and after their training."""
        return self.adapted / 'results.md'

    @property
    def features(self) -> Path:
        """A few feature maps of teacher and student."""
        return self.root / 'features.npz'

    @property
    def rank(self) -> Path:
        """How well ratings rank networks that were trained alone."""
        return self.root / 'rank.json'

    @property
    def derived(self) -> Path:
        """What the search has found."""
        return self.root / 'derived'

    @property
    def arch(self) -> Path:
        """The network that was found."""
        return self.derived / 'arch.json'

    @property
    def decision(self) -> Path:
        """How the network was chosen: per layer by how much and how surely."""
        return self.derived / 'decision.json'

    @property
    def path_losses(self) -> Path:
        """Losses of a super-network's paths on held-out images, as they are measured, a record a line."""
        return self.root / 'selection' / 'losses.jsonl'

    @property
    def validated(self) -> Path:
        """What networks of the front reached on held-out images, as they are measured, a record a line."""
        return self.root / 'selection' / 'validated.jsonl'

    @property
    def brief(self) -> Path:
        """Networks that were adapted briefly to choose one: a folder of logs each, and a record a line in a file."""
        return self.root / 'selection' / 'brief'

    @property
    def selected(self) -> Path:
        """Another choice from the search in this work dir, unless it was written elsewhere."""
        return self.root / 'selected'

    @property
    def config(self) -> Path:
        """The complete, ordinary config that trains it."""
        return self.derived / 'config.py'

    @property
    def weights(self) -> Path:
        """Its distilled weights, of a distillation."""
        return self.derived / 'distilled.pth'

    @property
    def snapshots(self) -> Path:
        """The network that an earlier epoch, or iteration, would have given."""
        return self.derived / 'snapshots'

    @property
    def adapt(self) -> Path:
        """The work dir of its training."""
        return self.root / 'adapt'

    @property
    def results(self) -> Path:
        """A comparison of finished runs."""
        return self.root / 'results.json'

    @property
    def predictions(self) -> Path:
        """A figure of what the networks of a comparison predict."""
        return self.root / 'predictions.png'

    @property
    def samples(self) -> Path:
        """A few images with ground truth and what networks predict, and ``samples.json`` that names them."""
        return self.root / 'samples'

    @property
    def report(self) -> Path:
        """Figures of a distillation, and images for TensorBoard."""
        return self.root / 'report'

    def of_a_run(self) -> list[Path]:
        """All that one run may leave here but its checkpoints and logs, the manifest first."""
        figures = [self.root / name for name in _FIGURES]
        return [
            self.manifest, self.derived, self.adapt, self.search_log, self.search_space, self.trials, self.trials_table,
            self.evolution, self.rating_parts, self.ratings, self.front, self.adapted, self.features, self.rank,
            self.results, self.predictions, self.samples, self.report, self.path_losses.parent, *figures,
            self.root / 'last_checkpoint',
        ]  # fmt: skip


def write_text(path: Path, text: str, writer: str = '') -> None:
    """Writes a file in one step: a reader, or a run killed midway, never finds half of it.

    Args:
        path: The file; its folder is made if it is missing.
        text: The whole content.
        writer: Tells this process from others that may write the same file at the same time.
    """
    write_bytes(path, text.encode(), writer)


def write_bytes(path: Path, content: bytes, writer: str = '') -> None:
    """Writes a file in one step, as `write_text` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_one_step(path, writer) as part, part.open('wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def in_one_step(path: Path, writer: str = '') -> Iterator[Path]:
    """Gives the path to write a file under; it gets its name when all of it is written, and is deleted otherwise.

    Args:
        path: The file; its folder is there.
        writer: Tells this process from others that may write the same file at the same time.

    Raises:
        OSError: It cannot be written; names the file.
    """
    part = path.with_name(f'.{path.name}{writer}.part')
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a full disk Python names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file; where a run killed midway left half a line, on a line of its own."""
    with path.open('a+b') as file:
        size = file.seek(0, 2)
        if size:
            file.seek(size - 1)
        broken = bool(size) and file.read(1) != b'\n'
        file.write(('\n' * broken + line + '\n').encode())
