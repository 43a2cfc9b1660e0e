"""Exceptions and warnings of the package.

Every error that the package raises on purpose derives from `ISNetError` *and* from the builtin that callers expect
(`ValueError` or `TypeError`), so that ``except ValueError`` and ``except ISNetError`` both work.
"""

from importlib import import_module
from types import ModuleType

__all__ = [
    "CalibrationError",
    "GradientRatioWarning",
    "ISNetError",
    "InvalidTypeError",
    "InvalidValueError",
    "MissingDependencyError",
    "RelevanceRangeWarning",
    "UncoveredOperationError",
    "UnsupportedModelError",
    "VanishedRelevanceWarning",
]


class ISNetError(Exception):
    """Base class of all errors raised by this package."""


class InvalidValueError(ISNetError, ValueError):
    """An argument has the right type but a shape or value that is not allowed."""


class InvalidTypeError(ISNetError, TypeError):
    """An argument has a type (or a tensor a dtype) that is not allowed."""


class UnsupportedModelError(ISNetError, ValueError):
    """The model cannot be explained as it is; the message names each problem with its remedy."""


class UncoveredOperationError(UnsupportedModelError):
    """The model runs operations that no relevance rule covers.

    All problems of the model are collected before the error is raised.

    Parameters
    ----------
    problems : list of str
        One line for each problem: module path, operation, reason and remedy.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        count = f"{len(problems)} operation{'s' if len(problems) != 1 else ''}"
        super().__init__("\n  - ".join([f"no relevance rule covers {count} of this model:", *problems]))


class CalibrationError(ISNetError, ValueError):
    """The relevance range (C1, C2) could not be measured."""


class MissingDependencyError(ISNetError, ImportError):
    """A package of one of the extras is needed but not installed."""


class RelevanceRangeWarning(UserWarning):
    """The relevance range (C1, C2) does not fit: it was not measured, or the measured relevance scatters too much."""


class GradientRatioWarning(UserWarning):
    """The gradient of one loss has been drowned by that of the other for some tens of steps."""


class VanishedRelevanceWarning(UserWarning):
    """The relevance has all but vanished, and the penalty is a constant that teaches nothing."""


def import_optional(module: str, package: str, extra: str = "examples") -> ModuleType:
    """Import a module of an extra, or say how to install it.

    Parameters
    ----------
    module : str
        Dotted name to import, such as ``"skimage.data"``.
    package : str
        The distribution's name on the package index, such as ``"scikit-image"``.
    extra : str, default="examples"
        The extra of this package that brings it.

    Returns
    -------
    types.ModuleType
        The imported module.

    Raises
    ------
    MissingDependencyError
        If the package is not installed.

    Examples
    --------
    >>> import_optional("skimage.data", package="scikit-image").__name__
    'skimage.data'
    """
    try:
        return import_module(module)
    except ImportError as error:
        remedy = f'run `pip install {package}` or `pip install "zennit-isnet[{extra}]"`'
        raise MissingDependencyError(f"{package} is needed here but cannot be imported: {remedy}") from error
