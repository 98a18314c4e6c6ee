"""The usual rows of a comparison: a config's seed, what it finds, networks drawn near its limit, and given ones."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, Limit, Prices, SearchSpace
from mmnas_ext.engine.limits import CostTerm, check_limit
from mmnas_ext.engine.whole import price_wholes
from mmnas_ext.runs.gradient import read_space
from mmnas_ext.runs.halves import counted_at
from mmnas_ext.runs.host_choices import has_host, read_choices
from mmnas_ext.runs.methods import method_of
from mmnas_ext.runs.rows import SEED, Row, find_seed
from mmnas_ext.runs.trials import TrialPlan
from mmnas_ext.search import sample_within
from mmnas_ext.workdir import write_text

# of the limit what a random network costs at least: one far below it would lose for that alone
NEAR = 0.9
_LONGEST_TITLE = 40


def usual_rows(
    cfg: Config, work_dir: Path, seeds: Sequence[int], random: int = 0, networks: Sequence[str] = ()
) -> list[Row]:
    """Lists the usual rows of a config.

    Args:
        cfg: The config, as `mmnas_ext.runs.run.prepare` reads it.
        work_dir: Of the comparison: networks that are drawn are written into ``drawn/<digest>`` in it.
        seeds: Random seeds, each of which draws its own networks.
        random: How many are drawn.
        networks: ``NAME=ARCH`` of given networks.

    Raises:
        ValueError: The config searches nothing, an entry of `networks` is no network, or so many cannot be drawn.
        FileNotFoundError: A given network is a file that does not exist.
    """
    if method_of(cfg).find is None:
        raise ValueError('a comparison needs a config that searches, with derived=dict(…), and this one only trains')
    rows = [Row(SEED, _seed_title(cfg), arch=SEED), *_found_rows(cfg)]
    for text in networks:
        name, _, arch = text.partition('=')
        if not arch:
            raise ValueError(f'--network must be NAME=ARCH, got {text!r:.80}')
        ArchSpec.parse(arch)
        rows.append(Row(name, arch=arch))
    if random < 0:
        raise ValueError(f'--random must be at least 0, got {random}')
    drawn = {seed: draw_near(cfg, random, seed) for seed in seeds} if random else {}
    # a folder of its own for each limit and space: another command's must not be written over
    texts = [[arch.format('json') for arch in archs] for archs in drawn.values()]
    folder = work_dir / 'drawn' / hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:12]
    for seed, row in zip(drawn, texts, strict=True):
        for number, text in enumerate(row):
            write_text(folder / f'seed{seed}_{number}.json', text)
    files = [str(folder / f'seed{{seed}}_{number}.json') for number in range(random)]
    return rows + [Row(f'random{n}', f'random network {n}', arch=file) for n, file in enumerate(files)]


def _seed_title(cfg: Config) -> str:
    arch = find_seed(cfg)
    short = isinstance(arch, str) and len(Path(arch).stem) <= _LONGEST_TITLE
    return f'seed ({Path(arch).stem})' if short else 'seed'


def _found_rows(cfg: Config) -> list[Row]:
    """A search by gradients, and what is chosen from it, so that the time of each is known; else one row for both.

    Alpha alone cannot choose a host, so that a search of whole detectors is one row.
    """
    if method_of(cfg).name != 'gradient' or not _trains_alpha(cfg) or has_host(cfg):
        return [Row('found')]
    return [Row('search', options=('optim_wrapper.selection=None',), train=False), Row('found', search_of='search')]


def _trains_alpha(cfg: Config) -> bool:
    """Whether a search has steps of alpha, by which it could choose without losses."""
    loop = cfg.train_cfg
    return bool(loop.get('arch_start') != loop.get('max_epochs', loop.get('max_iters')))


def draw_near(cfg: Config, count: int, seed: int) -> list[ArchSpec]:
    """Draws networks of a config's space that cost nearly as much as its limit allows, or the space without one.

    Args:
        cfg: The config.
        count: How many.
        seed: Of the draw; a larger `count` extends a smaller one's.

    Raises:
        ValueError: The config has no space, or there are not that many.
    """
    space, priced, limit = _limited(cfg)
    cheapest, most = priced.range()
    highest = most if limit.max is None else min(limit.max, most)
    lowest = max(NEAR * highest, limit.min or 0, cheapest)
    try:
        paths = sample_within(space, priced, count, seed, highest, lowest)
    except ValueError as error:
        raise ValueError(f'--random: {error}') from None
    # the epsilon with which the seed's weights were trained, as in what a search finds
    eps = space.bn_eps if (seeds := find_seed(cfg)) is None else ArchSpec.parse(seeds).bn_eps
    return [space.arch(path).replace(bn_eps=eps) for path in paths]


def _limited(cfg: Config) -> tuple[SearchSpace, Prices, Limit]:
    """Space, prices and limit of a search; of whole detectors those in the config's own host."""
    method = method_of(cfg).name
    if method == 'random':
        plan = TrialPlan.of(cfg)
        return plan.space, plan.prices, Limit(plan.settings.limit.get('min'), plan.settings.limit.get('max'))
    if method == 'distillation':
        raise ValueError(f'--random draws from model.backbone.space, and a config of the method {method!r} has none')
    space, backbone = read_space(cfg), cfg.model.backbone
    term = CostTerm.parse(cfg.optim_wrapper.get('cost'))
    size, stride = counted_at(backbone)
    choices = read_choices(cfg)
    if choices is not None:  # a given network is trained in the config's own host
        priced = price_wholes(term, choices, space, stride)[choices.own]
        check_limit(priced, term.limit, choices.own.input_size, term.max_name)
        return space, priced, term.limit
    return space, term.prices(space, size, stride), term.limit
