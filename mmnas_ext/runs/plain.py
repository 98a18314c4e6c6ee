"""Plain training: the method of a config that searches for nothing."""

from mmengine.config import Config

from mmnas_ext.archs import ArchSpec
from mmnas_ext.runs.method import FINDERS, Method, Settings


def _check(cfg: Config, arch: ArchSpec | None, search_only: bool) -> list[Config]:
    del arch, search_only
    for key in FINDERS:
        if cfg.get(key) is not None:
            raise ValueError(f'{key}=dict(…) needs derived=dict(…), which trains what it finds; this config has none')
    return [cfg]


PLAIN = Method(
    'plain', claims=lambda cfg: True, check=_check, settings=lambda cfg: Settings(report={'method': 'plain'})
)
