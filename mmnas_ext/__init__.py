"""Architecture search for MMDetection and MMSegmentation: an architecture is a value.

Importing the package costs nothing and needs nothing: `mmnas_ext.archs` works with the standard library alone. What the
other rooms need is checked where it is first used (`mmnas_ext.install_check`).
"""

__version__ = '0.1.0'
