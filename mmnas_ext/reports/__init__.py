"""Figures, tables and the page of a run, from its files alone: no torch, no mm package."""

from mmnas_ext.reports.alphas import draw_alphas
from mmnas_ext.reports.distillation import draw_ratings
from mmnas_ext.reports.evolution import draw_generations
from mmnas_ext.reports.imitation import draw_features
from mmnas_ext.reports.log import read_log
from mmnas_ext.reports.measured import draw_measured, front_table
from mmnas_ext.reports.network import draw_network
from mmnas_ext.reports.page import write_report
from mmnas_ext.reports.predictions import draw_boxes, draw_predictions
from mmnas_ext.reports.ranking import draw_front, draw_rank
from mmnas_ext.reports.table import comparison_table, format_cells, format_count

__all__ = [
    'comparison_table',
    'draw_alphas',
    'draw_boxes',
    'draw_features',
    'draw_front',
    'draw_generations',
    'draw_measured',
    'draw_network',
    'draw_predictions',
    'draw_rank',
    'draw_ratings',
    'format_cells',
    'format_count',
    'front_table',
    'read_log',
    'write_report',
]
