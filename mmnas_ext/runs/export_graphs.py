"""Graphs of a network for other runtimes, ONNX and `torch.export`: written, run, and compared with the network."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmnas_ext.runs.export_timm import ExportError
from mmnas_ext.runs.exporting import Subject, check_target, compare, name_outputs, verified

# which axes of the image are left open, the most first; and what is said of it
_OPEN = {(0, 2, 3): 'any batch and size', (0,): 'any batch of this size', (): 'this batch and size alone'}
_MORE = (64, 32)  # pixels by which another size differs: outputs of all strides of ours stay whole
Run = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Graph:
    """A graph that was written and checked.

    Args:
        path: The file.
        outputs: Names of its outputs.
        accepts: What images it takes, in words.
        error: The largest that was seen of an output, over 1 or its largest figure.
    """

    path: Path
    outputs: tuple[str, ...]
    accepts: str
    error: float

    def __str__(self) -> str:
        return (
            f'{self.path}: takes {self.accepts}, gives {", ".join(self.outputs)}; of a random and a real image these '
            f"differ from PyTorch's by {self.error:.1g} at most"
        )


def write_onnx(
    subject: Subject, target: str | Path, size: tuple[int, int], image: np.ndarray, overwrite: bool = False
) -> Graph:
    """Writes a network as ONNX, its input normalised images ``(N, 3, H, W)``, called ``image``.

    How an image is normalised, and what the outputs are, stands in the file's metadata.

    Args:
        subject: The network.
        target: The file.
        size: Height and width in pixels of the example, the only one where sizes cannot be left open.
        image: A real image in blue, green, red of 0..255, ``(h, w, 3)``, that is run beside a random one.
        overwrite: Replace a file that is there.

    Raises:
        ExportError: onnx, onnxruntime or onnxscript are missing, PyTorch cannot write such a graph, or onnxruntime
            computes something else than PyTorch.
        FileExistsError: The file is there.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx writes with it
    except ImportError as error:
        raise ExportError(f"ONNX needs packages that are missing ({error}): pip install 'mmnas_ext[export]'") from None

    def write(program: Any, names: tuple[str, ...], part: Path) -> Run:
        with _quiet():
            torch.onnx.export(
                program,
                (),
                str(part),
                input_names=['image'],
                output_names=list(names),
                dynamo=True,
                external_data=False,
            )
        model = onnx.load(str(part))
        notes = dict(
            mean=list(subject.mean), std=list(subject.std), order=subject.order, kind=subject.kind,
            arch=subject.arch.format('fna') if subject.arch else '',
        )  # fmt: skip
        onnx.helper.set_model_props(model, {f'mmnas_ext.{key}': json.dumps(value) for key, value in notes.items()})
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, str(part))
        session = onnxruntime.InferenceSession(str(part), providers=['CPUExecutionProvider'])
        return lambda x: [torch.from_numpy(each) for each in session.run(None, {'image': x.numpy()})]

    return _write(subject, Path(target), size, image, overwrite, write)


def write_torch(
    subject: Subject, target: str | Path, size: tuple[int, int], image: np.ndarray, overwrite: bool = False
) -> Graph:
    """Writes a network by `torch.export.save`; arguments and errors are those of `write_onnx`."""

    def write(program: Any, names: tuple[str, ...], part: Path) -> Run:
        torch.export.save(program, part)
        return torch.export.load(part).module()

    return _write(subject, Path(target), size, image, overwrite, write)


def _write(
    subject: Subject,
    target: Path,
    size: tuple[int, int],
    image: np.ndarray,
    overwrite: bool,
    write: Callable[[Any, tuple[str, ...], Path], Run],
) -> Graph:
    """Writes the graph that takes most, of those that compute what the network does."""
    check_target(target, overwrite)
    photo, reason = subject.normalise(image, size), ''
    for axes, accepts in _OPEN.items():
        try:
            with verified(target, overwrite) as part, torch.no_grad():
                example, *others = _images(photo, axes)
                names = name_outputs(subject, example)
                run, error = write(_program(subject, example, axes), names, part), 0.0
                for x in (example, *others):
                    error = max(error, compare(f'images {tuple(x.shape)}', subject.module(x), run(x)))
        except Exception as failure:  # whatever a graph cannot be made or run of
            reason = f'{type(failure).__name__}: {" ".join(str(failure).split())[:120]}'
            continue
        words = accepts if len(axes) > 1 else f'{accepts}, {tuple(example.shape)}'
        return Graph(target, names, words, error)
    raise ExportError(f'this {subject.kind} cannot be exported so; {reason}')


def _images(photo: Tensor, axes: tuple[int, ...]) -> list[Tensor]:
    """What a graph is made and checked with: a random image, the real one, and others where axes are open."""
    draw = torch.Generator().manual_seed(0)
    batch = 2 if axes else 1
    found = [torch.randn(batch, *photo.shape[1:], generator=draw), photo.expand(batch, -1, -1, -1).contiguous()]
    if axes:
        more = _MORE if len(axes) > 1 else (0, 0)
        height, width = (side + extra for side, extra in zip(photo.shape[2:], more, strict=True))
        found.append(torch.randn(3, 3, height, width, generator=draw))
    return found


def _program(subject: Subject, example: Tensor, axes: tuple[int, ...]) -> Any:
    with _quiet():
        shapes = ({axis: torch.export.Dim.DYNAMIC for axis in axes},)
        return torch.export.export(subject.module, (example,), dynamic_shapes=shapes, strict=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters tell of their own doings, some of it in characters that not every terminal can print."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
