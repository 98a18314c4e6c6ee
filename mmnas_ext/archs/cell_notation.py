"""The text of a space of cells: JSON, read and written."""

import json
from collections.abc import Mapping
from itertools import product
from typing import Any

from mmnas_ext.archs.cells import MAX_CELLS, Cell, CellSpace, CellStage
from mmnas_ext.archs.literal import abbreviate, call_at, check_keys, check_list
from mmnas_ext.archs.notation import NETWORK_KEYS, build, check_token, network_fields, read_layers
from mmnas_ext.archs.spec import MAX_LAYERS

_KEYS = ('stem_channels', 'stages', *NETWORK_KEYS, 'source')
_CELL_KEYS = ('channels', 'layers')
_SHORT_KEYS = ('channels', 'depths', 'candidates')


def read_cells(fields: Mapping[Any, Any]) -> CellSpace:
    """Makes a space of cells of what JSON says.

    Raises:
        ValueError: Says what is wrong and where.
    """
    check_keys(fields, '', ('stem_channels', 'stages'), _KEYS)
    stages = [_stage(stage, f'stages[{i}]') for i, stage in enumerate(check_list(fields['stages'], 'stages', 'stages'))]
    return build(CellSpace, stages, fields, stem_channels=fields['stem_channels'])


def format_cells(space: CellSpace) -> str:
    """Writes a space of cells as JSON text."""
    stages = [
        {'stride': stage.stride, 'cells': [{'channels': c.channels, 'layers': c.layers} for c in stage.cells]}
        for stage in space.stages
    ]
    return json.dumps({'stem_channels': space.stem_channels, 'stages': stages, **network_fields(space)})


def _stage(stage: Any, where: str) -> CellStage:
    if not isinstance(stage, Mapping):
        raise ValueError(f'{where} must be a mapping, got {abbreviate(stage)}')
    if 'cells' in stage:
        check_keys(stage, where, ('stride', 'cells'), ('stride', 'cells'))
        cells = [
            _cell(cell, f'{where}.cells[{i}]')
            for i, cell in enumerate(check_list(stage['cells'], f'{where}.cells', 'cells'))
        ]
    else:
        check_keys(stage, where, ('stride', *_SHORT_KEYS), ('stride', *_SHORT_KEYS))
        widths, depths, candidates = (tuple(check_list(stage[key], f'{where}.{key}', key)) for key in _SHORT_KEYS)
        for depth in depths:
            # before cells are made of them: an absurd depth must not fill the memory
            if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= MAX_LAYERS:
                raise ValueError(f'{where}.depths must be integers in 1..{MAX_LAYERS}, got {abbreviate(depth)}')
        if len(widths) * len(depths) > MAX_CELLS:
            raise ValueError(f'{where}: a stage needs 1..{MAX_CELLS} cells, got {len(widths) * len(depths)}')
        for k, token in enumerate(candidates):
            check_token(token, f'{where}.candidates[{k}]')
        cells = [Cell(width, (candidates,) * depth) for width, depth in product(widths, depths)]
    return call_at(where, CellStage, stage['stride'], tuple(cells))


def _cell(cell: Any, where: str) -> Cell:
    if not isinstance(cell, Mapping):
        raise ValueError(f'{where} must be a mapping, got {abbreviate(cell)}')
    check_keys(cell, where, _CELL_KEYS, _CELL_KEYS)
    return Cell(cell['channels'], read_layers(cell['layers'], f'{where}.layers'))
