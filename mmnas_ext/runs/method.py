"""What a method is to a run: how its config is checked, how it finds a network, and what trains that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

from mmnas_ext.archs import ArchSpec

if TYPE_CHECKING:
    from mmnas_ext.runs.session import Session

FINDERS = ('random_search', 'evolution')
"""Keys of a config that ask for another way to find a network than a search by gradients."""


@dataclass(frozen=True)
class Settings:
    """What decides what a method finds, by dotted key, and what reports are made for.

    Args:
        search: Of the search: another value is another search.
        choice: Of the choice of one network, once the search has ended: another value makes it choose again.
        rating: Of what lies between the two, of a method that has such a part.
        report: Facts for figures and tables: ``input_size``, ``output_stride``, ``metric``, ``limits``, ``seed``, …
    """

    search: Mapping[str, Any] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)
    rating: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A method: one entry of the table in `mmnas_ext.runs.methods`, and one file.

    Args:
        name: Its name, as the manifest has it.
        claims: Whether a config is of this method; of the table's entries the first that claims it gets it.
        check: Raises for what would fail later, given the config, the network of ``--arch`` if any, and whether the run
            ends with the search; returns the configs whose data and seeds will be needed.
        settings: What decides what it finds.
        find: Searches, or goes on with it, and returns the network; ``None`` of a method that only trains, and
            returns ``None`` where a search ends without a network.
        derive: The config that trains a network, of a config with ``derived``.
        supply: Writes what belongs to a network beside its config, such as distilled weights.
        report: Draws figures and page of a work dir; returns the files.
        plan: Says before a run, line by line, what its loops cannot say: of networks that are drawn, their limits.
        check_batches: Raises for what would fail later, given the config and how many batches of an epoch the two parts
            of its images have, which is known once they are read.
        writes: What it leaves in a work dir beside what every run does, as attributes of `WorkDir`.
        keeps_limit: Whether all networks of its front meet the limit, so that another limit needs another front.
        shares: Whether processes that are not joined may share its search, see `mmnas_ext.runs.sharing`.
        seeds: Keys of the config that its draws follow from beside ``randomness.seed``.
        first: What its first part is called, in words.
    """

    name: str
    claims: Callable[[Config], bool]
    check: Callable[[Config, ArchSpec | None, bool], list[Config]]
    settings: Callable[[Config], Settings]
    find: Callable[['Session'], ArchSpec | None] | None = None
    derive: Callable[[Config, ArchSpec], Config] | None = None
    supply: Callable[['Session', ArchSpec], None] | None = None
    report: Callable[[Path], tuple[Path, ...]] | None = None
    plan: Callable[[Config], list[str]] | None = None
    check_batches: Callable[[Config, tuple[int, ...]], None] | None = None
    writes: tuple[str, ...] = ()
    keeps_limit: bool = False
    shares: bool = False
    seeds: tuple[str, ...] = ()
    first: str = 'search'
