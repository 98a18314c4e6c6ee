"""Pictures, tables and the page of a search, from its files alone: no torch, no mm package."""

from mmnas_ext.reports.alphas import draw_alphas
from mmnas_ext.reports.log import Record, SearchLog, read_log
from mmnas_ext.reports.network import draw_network
from mmnas_ext.reports.page import write_page, write_report
from mmnas_ext.reports.predictions import draw_predictions
from mmnas_ext.reports.table import comparison_table, format_count

__all__ = [
    'Record',
    'SearchLog',
    'comparison_table',
    'draw_alphas',
    'draw_network',
    'draw_predictions',
    'format_count',
    'read_log',
    'write_page',
    'write_report',
]
