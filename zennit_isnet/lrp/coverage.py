"""`check`: which relevance rule each operation of a model has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zennit_isnet.checks import check_images, check_model
from zennit_isnet.errors import InvalidTypeError, ISNetError, UncoveredOperationError
from zennit_isnet.lrp.flex import LRPFlex
from zennit_isnet.lrp.propagation import LRPAttribution
from zennit_isnet.lrp.signal.mode import Inspection, Problem
from zennit_isnet.model import buffers_restored, unwrapped

BEHIND_A_GATE = "none needed: ends at a gate"


@dataclass(frozen=True)
class Row:
    """An operation in a module.

    Attributes
    ----------
    operation : str
        Name of the function, or ``module`` and the module type for a declared rule.
    module : str
        Path and type of the module that runs the operation.
    rule : str or None
        Name of its relevance rule; None if no rule covers it.
    remedy : str or None
        Reason and remedy if no rule covers it.
    """

    operation: str
    module: str
    rule: str | None
    remedy: str | None = None


@dataclass(frozen=True)
class Report:
    """Result of `check`.

    Attributes
    ----------
    rows : tuple of Row
        One row per operation on the signal, in forward order.
    """

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every operation on the signal's path has a rule."""
        return not self.problems

    @property
    def problems(self) -> tuple[Row, ...]:
        """The rows without a rule."""
        return tuple(row for row in self.rows if row.rule is None)

    def __str__(self) -> str:
        cells = [(row.module, row.operation, row.rule or f"NO RULE: {row.remedy}") for row in self.rows]
        widths = [max((len(cell[i]) for cell in cells), default=0) for i in (0, 1)]
        lines = [f"{module:{widths[0]}}  {operation:{widths[1]}}  {rule}" for module, operation, rule in cells]
        count = len(self.problems)
        verdict = "every operation has a rule" if self.ok else f"no rule covers {count} of {len(self.rows)} operations"
        return "\n".join([*lines, verdict])


def check(model: nn.Module, example: Tensor, composite: LRPFlex | None = None) -> Report:
    """List every operation that relevance passes through in a model, with its rule.

    Runs the same forward and backward passes as training, in the model's current mode, and reports problems instead of
    raising. The model's modes, parameters, buffers and hooks stay unchanged, and so does the random state.

    Parameters
    ----------
    model : Module
        A classifier; it may contain unsupported operations.
    example : Tensor
        A preprocessed batch of images, ``(N, C, H, W)`` or ``(N, C, T, H, W)``. One image is enough: in train mode,
        where BatchNorm needs several, it is duplicated.
    composite : LRPFlex, optional
        The rules, including your own. If None, ``LRPFlex()``.

    Returns
    -------
    Report
        ``report.ok``, ``report.problems``, ``report.rows``; ``print(report)`` shows a table.

    Raises
    ------
    InvalidTypeError, InvalidValueError
        If `model` is not a module, `example` is not a batch of images or leaves the z^B box, or `composite` is not an
        `LRPFlex`.
    UnsupportedModelError
        If the model is compiled or scripted, so that its operations cannot be observed.

    Examples
    --------
    >>> import torch
    >>> from zennit_isnet import LRPFlex, check
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Softplus(), torch.nn.Flatten())
    >>> report = check(model, torch.rand(1, 3, 8, 8))
    >>> report.ok
    False
    >>> [(row.module, row.operation) for row in report.problems]
    [('1 (Softplus)', 'torch.nn.functional.softplus')]
    >>> check(model, torch.rand(1, 3, 8, 8), LRPFlex(modules={torch.nn.Softplus: "linear"})).ok
    True
    """
    check_model(model)
    model, example = unwrapped(model), check_images(example, values=True)
    composite = LRPFlex() if composite is None else composite
    if not isinstance(composite, LRPFlex):
        raise InvalidTypeError(f"composite must be an LRPFlex; got {type(composite).__name__}")
    attribution = LRPAttribution(composite)
    attribution.check_box(example)
    if model.training and len(example) == 1:
        example = torch.cat([example, example])
    found: list[Inspection] = []
    rows: list[Row] = []

    def seeds(logits: Tensor) -> Tensor:
        if found and found[-1].problems:
            raise UncoveredOperationError([str(problem) for problem in found[-1].problems])
        return torch.ones_like(logits).unsqueeze(1)

    devices = sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
    with torch.random.fork_rng(devices), buffers_restored(model):
        composite.inspect = found.append  # so nothing is raised
        try:
            attribution(model, example, seeds)
        except UncoveredOperationError:
            pass  # found
        except ISNetError as error:
            rows = [Row("the signal pass", f"(the model) ({type(model).__name__})", None, str(error))]
        finally:
            composite.inspect = None
    return Report((*(_rows(found[-1]) if found else ()), *rows))


def _rows(inspection: Inspection) -> list[Row]:
    found, live = inspection.found, inspection.problems
    rows: list[Row] = []
    shown: set[Problem] = set()
    for path, operation, rule, positions in inspection.seen:
        problems = [found[i] for i in sorted(positions)]
        wrong = [problem for problem in problems if problem in live]
        shown |= set(wrong)
        covered = Row(operation, path, BEHIND_A_GATE if problems else rule)
        rows.append(_uncovered(path, operation, wrong) if wrong else covered)
    rows += [_uncovered(problem.path, problem.operation, [problem]) for problem in live if problem not in shown]
    return list(dict.fromkeys(rows))


def _uncovered(path: str, operation: str, problems: list[Problem]) -> Row:
    return Row(operation, path, None, "; ".join(f"{problem.reason}; {problem.remedy}" for problem in problems))
