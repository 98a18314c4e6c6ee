"""DNA: a teacher, the blocks that imitate it, and the rating of all paths."""

from mmnas_ext.distill.align import BlockPlan, Tap, align
from mmnas_ext.distill.cell import Block, BlockCell
from mmnas_ext.distill.distiller import BlockDistiller
from mmnas_ext.distill.stitch import recalibrate, stitch
from mmnas_ext.distill.teacher import Teacher

__all__ = ['Block', 'BlockCell', 'BlockDistiller', 'BlockPlan', 'Tap', 'Teacher', 'align', 'recalibrate', 'stitch']
