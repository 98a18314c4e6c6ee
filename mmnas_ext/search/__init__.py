"""How one network of a space is chosen."""

from mmnas_ext.search.front import Choice, Front, front
from mmnas_ext.search.sampling import sample_within

__all__ = ['Choice', 'Front', 'front', 'sample_within']
