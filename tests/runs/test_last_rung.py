"""The last rung of a choice by losses: networks that are adapted briefly, end to end, killed, and by a changed recipe."""

import json

from mmnas_ext.runs.run import run
from mmnas_ext.search.decision import Decision
from mmnas_ext.workdir import WorkDir
from tests.engine import tiny, tiny_trials

PATHS = tiny_trials.PATHS
ADAPT = dict(networks=3, share=0.5, repeats=2, certain=0.0, rank_by='closeness')
MEASURED = dict(
    type='measured', first=2, networks=3, rounds=2, batches=2, most=4, finalists=2, certain=0.0, window=0.5, adapt=ADAPT
)  # fmt: skip
LIMIT = sorted(map(tiny_trials.macs, PATHS))[7]


def config(work_dir, limit=LIMIT, failing=(), **changes):
    """A search of eight iterations; an adaptation is of four epochs."""
    cfg = tiny.search_cfg(work_dir, **{
        'train_cfg.max_epochs': 2, 'train_dataloader.dataset.count': 16, 'derived.train_cfg.max_epochs': 4,
    })  # fmt: skip
    cfg.merge_from_dict({
        'custom_imports': {'imports': ['tests.engine.tiny_trials']},
        'model': {'type': 'TinyTried', 'failing': list(failing)},
        'val_dataloader': {
            **tiny.loader_cfg(3, transform='TinyPlain', count=7), 'sampler': {'type': 'DefaultSampler', 'shuffle': False}
        },
        'val_cfg': {}, 'val_evaluator': {'type': 'TinyCloseness'},
    })  # fmt: skip
    cfg.optim_wrapper.cost = dict(weight=0.1, max=limit)
    cfg.optim_wrapper.selection = json.loads(json.dumps(MEASURED))
    cfg.merge_from_dict(changes)
    return cfg


def records(work_dir):
    return [json.loads(line) for line in WorkDir(work_dir).brief.with_suffix('.jsonl').read_text().splitlines()]


def test_networks_are_adapted_and_the_best_is_chosen(tmp_path):
    run(config(tmp_path))
    decision = Decision.parse(tmp_path)
    assert decision.adapted is not None
