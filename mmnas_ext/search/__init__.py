"""How one network of a space is chosen."""

from mmnas_ext.search.front import Choice, Front, front

__all__ = ['Choice', 'Front', 'front']
