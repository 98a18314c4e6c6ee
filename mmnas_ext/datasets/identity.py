"""Which images a data set's config names: a digest by content, so that a list that was edited in place is another."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any


def data_identity(dataset: Any) -> str:
    """A digest of which files a dataset's config names, wherever they lie: annotations by content, folders by names."""
    files = [file for leaf in list_datasets(dataset) for file in _data_files(leaf)]
    return digest_files(files)


def digest_files(paths: Iterable[Path]) -> str:
    """A digest of files and folders: of a file its content, of a folder the names in it."""
    return _digest(tuple((path, path.stat().st_mtime_ns) for path in paths))


def list_datasets(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the datasets inside wrappers and concatenations of a dataset's config."""
    inner = dataset.get('datasets') or dataset.get('dataset') if isinstance(dataset, Mapping) else None
    if inner is None:
        yield from [dataset] if isinstance(dataset, Mapping) else []
    else:
        for each in inner if isinstance(inner, list | tuple) else [inner]:
            yield from list_datasets(each)


def _data_files(dataset: Mapping[str, Any]) -> list[Path]:
    root, prefix = dataset.get('data_root') or '', dataset.get('data_prefix') or {}
    sources = dataset.get('sources') or []
    entries = [
        dataset.get('ann_file') or '',
        *([prefix] if isinstance(prefix, str) else prefix.values()),
        *([sources] if isinstance(sources, str) else sources),
    ]
    paths = [Path(root, entry) for entry in entries if isinstance(entry, str) and entry and '://' not in str(root)]
    return [path for path in paths if path.exists()]


@cache
def _digest(files: tuple[tuple[Path, int], ...]) -> str:
    """The digest of files and folders, each with the time of its last change."""
    digest = hashlib.sha256()
    for path, _ in files:
        if path.is_file():
            with path.open('rb') as stream:
                while part := stream.read(1 << 20):
                    digest.update(part)
        else:
            for folder, folders, names in os.walk(path):
                folders.sort()
                digest.update(repr((os.path.relpath(folder, path), sorted(names))).encode())
    return digest.hexdigest()[:16]
