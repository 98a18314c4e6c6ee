"""Downloads checkpoints: MMEngine resolves its model names, and our own reader reads the files.

MMEngine's own loader falls back to running the code in a file that it cannot read safely.
"""

import os
from difflib import get_close_matches
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch

_HTTP = ('http://', 'https://')
_NAMED = ('torchvision://', 'modelzoo://', 'open-mmlab://', 'openmmlab://', 'mmcls://')


class DownloadError(ConnectionError):
    """A file cannot be downloaded; the message says where to put it by hand."""


def locate(url: str, download: bool = False) -> Path:
    """Returns the file that a URL, or a model name of MMEngine, stands for on this machine, whether it is there or not.

    Args:
        url: As in `fetch`.
        download: Fetch it if it is not there. Unlike `fetch` no process waits for another.

    Raises:
        ValueError: The scheme or the model name is unknown.
        DownloadError: The URL cannot be read.
    """
    address = _address(url)
    if not address.startswith(_HTTP):
        return Path(address)
    target = _target(address)
    if download:
        _download(address, target)
    return target


def fetch(url: str) -> Path:
    """Returns the local file for a URL; downloads it into PyTorch's hub cache first if necessary, as MMEngine does.

    Raises:
        ValueError: The scheme or the model name is unknown.
        FileNotFoundError: A model name stands for a local file that does not exist.
        DownloadError: The URL cannot be read.
    """
    url = _address(url)
    if url.startswith(_HTTP):
        return _download_once(url)
    if not Path(url).is_file():
        raise FileNotFoundError(f'seed checkpoint does not exist: {url}')
    return Path(url)


def _address(url: str) -> str:
    """The web address or the file that a URL stands for."""
    if url.startswith(_NAMED):
        url = _resolve_name(url)
    if '://' in url and not url.startswith(_HTTP):
        known = ', '.join((*_HTTP, *_NAMED, 'package://'))
        raise ValueError(f'the scheme of a seed checkpoint must be one of {known}, got {url!r}')
    return url


def _target(url: str) -> Path:
    return Path(torch.hub.get_dir(), 'checkpoints', os.path.basename(urlparse(url).path) or 'checkpoint')


def _resolve_name(url: str) -> str:
    """Returns the URL or the file that one of MMEngine's model names stands for."""
    from mmengine.runner import checkpoint as mm

    scheme, name = url.split('://', 1)
    if scheme in ('torchvision', 'modelzoo'):
        urls = mm.get_torchvision_models()
    elif scheme == 'mmcls':
        urls = mm.get_mmcls_models()
    else:
        urls = mm.get_external_models()
        name = mm.get_deprecated_model_names().get(name, name)
    if name not in urls:
        raise ValueError(
            f'{scheme}:// has no model {name!r}; similar names are {get_close_matches(name, urls, 4, 0.4)}'
        )
    address: str = urls[name]
    return address if address.startswith(_HTTP) else str(Path(mm._get_mmengine_home(), address))


def _download_once(url: str) -> Path:
    """Downloads a URL on one rank only, if the ranks share the cache; returns the file."""
    from mmengine.dist import barrier, get_rank

    target = _target(url)
    try:
        # the first rank downloads; a rank that does not share its disk finds no file afterwards and downloads its own
        if get_rank() == 0:
            _download(url, target)
    finally:
        barrier()
    _download(url, target)
    return target


def _download(url: str, target: Path) -> None:
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # PyTorch writes under another name and then renames, so an interrupted download does not look like the file
        torch.hub.download_url_to_file(url, str(target), progress=False)
    except (URLError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DownloadError(
            f'cannot download seed checkpoint {url}: {reason:.100}; without a network put the file {target.name} into '
            f'{target.parent} by hand'
        ) from None
