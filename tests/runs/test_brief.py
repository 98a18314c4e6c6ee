"""What brief adaptations keep."""

from mmengine.config import Config

from mmnas_ext.runs.brief import keep_few_checkpoints


def test_the_newest_checkpoints_are_kept_alone():
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=4, save_best='auto'))))
    keep_few_checkpoints(cfg)
    assert cfg.default_hooks.checkpoint == dict(type='CheckpointHook', interval=4, save_best=None, max_keep_ckpts=2)
    none, without = Config(dict(default_hooks=dict(checkpoint=None))), Config()
    for each in (none, without):
        keep_few_checkpoints(each)
    assert none.default_hooks.checkpoint is None
    assert without.default_hooks.checkpoint.max_keep_ckpts == 2
