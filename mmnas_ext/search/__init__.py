"""How one network of a space is chosen."""

from mmnas_ext.search.front import Choice, Front, front
from mmnas_ext.search.linked_front import ChainChoice, Link, Links, best_within, chain_front, cost_ranges
from mmnas_ext.search.sampling import sample_within

__all__ = [
    'ChainChoice',
    'Choice',
    'Front',
    'Link',
    'Links',
    'best_within',
    'chain_front',
    'cost_ranges',
    'front',
    'sample_within',
]
