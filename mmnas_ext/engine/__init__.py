"""Thin glue to MMEngine's Runner: loops, hooks and the optimizer wrapper of a search."""

from mmnas_ext.engine.block_optim import BlockOptimWrapper, BlockOptimWrapperConstructor
from mmnas_ext.engine.derive import DeriveHook
from mmnas_ext.engine.distill import BlockParallel, DistillLoop
from mmnas_ext.engine.gathered import GatherHook
from mmnas_ext.engine.imitation import SeedImitationHook
from mmnas_ext.engine.loops import ResumableIterLoop, SearchEpochLoop, SearchIterLoop
from mmnas_ext.engine.monitor import SearchMonitorHook
from mmnas_ext.engine.optim import NonFiniteLossError, SearchOptimWrapper, SearchOptimWrapperConstructor
from mmnas_ext.engine.pace import PacedScheduleHook
from mmnas_ext.engine.progress import ProgressHook
from mmnas_ext.engine.rating_loop import RatingLoop
from mmnas_ext.engine.seeding import ReseedHook
from mmnas_ext.engine.stalls import StepHook

__all__ = [
    'BlockOptimWrapper',
    'BlockOptimWrapperConstructor',
    'BlockParallel',
    'DeriveHook',
    'DistillLoop',
    'GatherHook',
    'NonFiniteLossError',
    'PacedScheduleHook',
    'ProgressHook',
    'RatingLoop',
    'ReseedHook',
    'ResumableIterLoop',
    'SearchEpochLoop',
    'SearchIterLoop',
    'SearchMonitorHook',
    'SearchOptimWrapper',
    'SearchOptimWrapperConstructor',
    'SeedImitationHook',
    'StepHook',
]
