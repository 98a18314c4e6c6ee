"""A search with a key of its own, as a user would add it: one new file, for which this one stands, and one line.

It is small and real: networks are drawn, the better half by a score is changed a little, and the best of the last
generation is trained. Everything else is there: resume, ``--arch``, derived config, manifest, set-aside.
"""

import random
from functools import partial
from pathlib import Path

import pytest
from mmengine.config import Config

from mmnas_ext.archs import ArchSpec, SearchSpace, cost
from mmnas_ext.runs.changes import flatten, settings_of
from mmnas_ext.runs.checks import check_config
from mmnas_ext.runs.derived import derived_config
from mmnas_ext.runs.gradient import configs_to_check, describe_backbone, read_space
from mmnas_ext.runs.manifest import SEARCH, ResumeError, read_manifest
from mmnas_ext.runs.method import Method, Settings
from mmnas_ext.runs.methods import METHODS, method_of
from mmnas_ext.runs.rows import Comparison, Row
from mmnas_ext.runs.run import run
from mmnas_ext.runs.select_again import select_again
from mmnas_ext.runs.session import Session
from tests.engine import tiny

# --- what the new file would hold ---------------------------------------------------------------------------------


def score(arch: ArchSpec) -> float:
    """Stands for a short training: the nearer to 60,000 multiply-adds, the better."""
    return -abs(cost(arch, tiny.SIZE).macs - 60_000)


def change(space: SearchSpace, parent: tuple[tuple[int, ...], ...], rng: random.Random) -> tuple[tuple[int, ...], ...]:
    """One layer of a network takes another candidate."""
    stage = rng.choice([i for i, s in enumerate(space.stages) if any(len(layer) > 1 for layer in s.layers)])
    layer = rng.choice([j for j, candidates in enumerate(space.stages[stage].layers) if len(candidates) > 1])
    row = list(parent[stage])
    row[layer] = rng.randrange(len(space.stages[stage].layers[layer]))
    return (*parent[:stage], tuple(row), *parent[stage + 1 :])


def find(session: Session) -> ArchSpec:
    """Generation by generation, each noted in the manifest when it is there."""
    wanted, space = session.cfg.annealing, read_space(session.cfg)
    part = session.begin(SEARCH, session.settings.search)
    generations = [[tuple(map(tuple, row)) for row in rows] for rows in part.notes.get('generations', [])]
    for number in range(len(generations), wanted.generations):
        rng = random.Random(f'{wanted.seed}/{number}')
        if not number:
            parents = [space.sample_path(rng) for _ in range(wanted.population)]
        else:
            best = sorted(generations[-1], key=lambda p: -score(space.arch(p)))[: wanted.population // 2]
            parents = [*best, *(change(space, rng.choice(best), rng) for _ in best)]
        generations.append(parents)
        session.note(SEARCH, generations=generations)
    session.finish(SEARCH)
    return space.arch(max(generations[-1], key=lambda p: score(space.arch(p))))


def check(cfg: Config, arch: ArchSpec | None, search_only: bool) -> list[Config]:
    if cfg.annealing.get('population', 0) < 2:
        raise ValueError(f'annealing.population must be at least 2, got {cfg.annealing.get("population")!r}')
    return configs_to_check(cfg, cfg, read_space(cfg), arch, search_only)


ANNEALING = Method(
    'annealing',
    claims=lambda cfg: cfg.get('annealing') is not None,
    check=check,
    settings=lambda cfg: Settings(
        search={**settings_of(cfg, 'train_dataloader'), **flatten(cfg.annealing, 'annealing')},
        report={'method': 'annealing', **describe_backbone(cfg)},
    ),
    find=find,
    derive=partial(derived_config, own_key='annealing'),
    seeds=('annealing.seed',),
    first='annealing',
)

# --- and what a run then does -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def line_in_the_table(monkeypatch):
    monkeypatch.setattr('mmnas_ext.runs.methods.METHODS', [ANNEALING, *METHODS])


def config(work_dir: Path, **changes) -> Config:
    annealing = {'generations': 4, 'population': 4, 'seed': 1}
    return tiny.search_cfg(work_dir, annealing=annealing, **{'derived.train_cfg.max_epochs': 1, **changes})


def test_it_is_run_like_any_other(tmp_path):
    cfg = config(tmp_path)
    assert method_of(cfg) is ANNEALING
    check_config(cfg)
    run(cfg)
    manifest = read_manifest(tmp_path / 'run.json')
    assert (manifest.method, manifest.state) == ('annealing', 'done')
    found = ArchSpec.parse(tmp_path / 'derived' / 'arch.json')
    generations = manifest.parts['search'].notes['generations']
    scores = [max(score(tiny.SPACE.arch(tuple(map(tuple, p)))) for p in rows) for rows in generations]
    assert len(scores) == 4
    assert scores == sorted(scores)  # the best is never lost
    assert score(found) == scores[-1]
    assert (tmp_path / 'adapt' / 'epoch_1.pth').is_file()
    assert 'annealing' not in Config.fromfile(tmp_path / 'derived' / 'config.py')


def test_it_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    run(config(tmp_path / 'whole'), search_only=True)
    original = Session.note

    def die(session, name, **notes):
        original(session, name, **notes)
        if len(notes.get('generations', [])) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Session, 'note', die)
        with pytest.raises(KeyboardInterrupt):
            run(config(tmp_path / 'killed'), search_only=True)
    assert read_manifest(tmp_path / 'killed' / 'run.json').state == 'searching'
    run(config(tmp_path / 'killed'), resume=True, search_only=True)
    texts = [(tmp_path / name / 'derived' / 'arch.json').read_text() for name in ('whole', 'killed')]
    assert texts[0] == texts[1]


def test_its_settings_are_checked_and_held(tmp_path):
    with pytest.raises(ValueError, match='annealing.population must be at least 2, got 1'):
        check_config(config(tmp_path, **{'annealing.population': 1}))
    run(config(tmp_path), search_only=True)
    with pytest.raises(ResumeError, match='annealing.seed 1 -> 2'):
        run(config(tmp_path, **{'annealing.seed': 2}), resume=True)


def test_another_network_may_be_given_to_it(tmp_path):
    run(config(tmp_path), arch=tiny.SPACE.arch(((0,), (1, 2), (1,))).format('fna'))
    assert 'search' not in read_manifest(tmp_path / 'run.json').parts
    assert ArchSpec.parse(tmp_path / 'derived' / 'arch.json').stages[2].layers == ('k5_e6',)


def test_a_comparison_and_the_checks_know_it_by_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr('mmnas_ext.runs.rows.METHODS', [ANNEALING, *METHODS])
    file = tmp_path / 'mine.py'
    config(tmp_path / 'work').dump(file)
    comparison = Comparison(str(file), tmp_path, (Row('mine'),))
    assert comparison.options_of(comparison.rows[0], 5) == ['randomness.seed=5', 'annealing.seed=5']
    with pytest.raises(ValueError, match='must not set annealing.seed, which --seeds does'):
        Comparison(str(file), tmp_path, (Row('mine', options=('annealing.seed=1',)),))
    assert [half.name for half in check_config(config(tmp_path / 'other')).halves] == ['annealing', 'adaptation']
    with pytest.raises(ValueError, match='a network is selected from a search by gradients'):
        select_again(config(tmp_path / 'other'), tmp_path / 'selected')
