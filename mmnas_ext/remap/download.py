"""Checkpoints at URLs: MMEngine knows what its names stand for, the file is then read by our own reader.

MMEngine's loader would fall back to running the code in a file that it cannot read safely.
"""

import os
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch

_HTTP = ('http://', 'https://')
_NAMED = ('torchvision://', 'modelzoo://', 'open-mmlab://', 'openmmlab://', 'mmcls://')


def fetch(url: str) -> Path:
    """The local file of a URL, downloaded into PyTorch's hub cache unless it is there (as MMEngine does).

    Raises:
        ValueError: Unknown scheme or model name.
        FileNotFoundError: A model name that stands for a local file which does not exist.
        ConnectionError: The URL cannot be read.
    """
    if url.startswith(_NAMED):
        url = _named(url)
    if url.startswith(_HTTP):
        return _downloaded(url)
    if '://' in url:
        known = ', '.join((*_HTTP, *_NAMED, 'package://'))
        raise ValueError(f'unknown scheme in seed checkpoint {url!r}: known are {known}')
    if not Path(url).is_file():
        raise FileNotFoundError(f'seed checkpoint does not exist: {url}')
    return Path(url)


def _named(url: str) -> str:
    """The address, or the file, that one of MMEngine's model names stands for."""
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
        near = sorted(known for known in urls if 'mobilenet' in known or 'efficientnet' in known)
        raise ValueError(f'{scheme}:// has no model {name!r}; among those it has: {", ".join(near)}')
    address: str = urls[name]
    return address if address.startswith(_HTTP) else str(Path(mm._get_mmengine_home(), address))


def _downloaded(url: str) -> Path:
    from mmengine.dist import barrier, get_rank

    target = Path(torch.hub.get_dir(), 'checkpoints', os.path.basename(urlparse(url).path) or 'checkpoint')
    try:
        # one rank downloads; where ranks share no disk, the others find nothing after it and fetch their own
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
        # written under another name and moved, so that a download cut short is not taken for the file
        torch.hub.download_url_to_file(url, str(target), progress=False)
    except (URLError, OSError) as error:
        raise ConnectionError(f'cannot download seed checkpoint {url}: {error}') from None
