"""Moves the weights of a trained network to another architecture or to a super-network."""

from mmnas_ext.remap.checkpoints import Seed, load_seed
from mmnas_ext.remap.mapping import remap
from mmnas_ext.remap.report import Entry, RemapReport

__all__ = ['Entry', 'RemapReport', 'Seed', 'load_seed', 'remap']
