"""Thin glue to MMEngine's Runner: loops, hooks and the optimizer wrapper of a search, and the run of both halves."""

from mmnas_ext.engine.derive import DeriveHook
from mmnas_ext.engine.loops import ResumableIterLoop, SearchEpochLoop, SearchIterLoop
from mmnas_ext.engine.monitor import SearchMonitorHook
from mmnas_ext.engine.optim import NonFiniteLossError, SearchOptimWrapper, SearchOptimWrapperConstructor
from mmnas_ext.engine.progress import ProgressHook
from mmnas_ext.engine.seeding import ReseedHook

__all__ = [
    'DeriveHook',
    'NonFiniteLossError',
    'ProgressHook',
    'ReseedHook',
    'ResumableIterLoop',
    'SearchEpochLoop',
    'SearchIterLoop',
    'SearchMonitorHook',
    'SearchOptimWrapper',
    'SearchOptimWrapperConstructor',
]
