"""Exceptions and warnings of the package.

Every error that the package raises on purpose derives from `ISNetError` *and* from the builtin that callers expect
(`ValueError`, `TypeError` or `ImportError`), so ``except ValueError`` and ``except ISNetError`` both work.
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
    """An argument has an allowed type but a shape or value that is not allowed."""


class InvalidTypeError(ISNetError, TypeError):
    """An argument has a type (or a tensor a dtype) that is not allowed."""


class UnsupportedModelError(ISNetError, ValueError):
    """The model cannot be explained in its current form; the message names each problem and its remedy."""


class UncoveredOperationError(UnsupportedModelError):
    """The model runs operations that no relevance rule covers.

    All problems in the model are collected before the error is raised.

    Parameters
    ----------
    problems : list of str
        One line per problem: module path, operation, reason and remedy.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(problems)
        count = f"{len(problems)} operation{'s' if len(problems) != 1 else ''}"
        super().__init__("\n  - ".join([f"no relevance rule covers {count} of this model:", *problems]))


class CalibrationError(ISNetError, ValueError):
    """The relevance range (C1, C2) could not be measured."""


class MissingDependencyError(ISNetError, ImportError):
    """A package from one of the extras is needed but not installed."""


class RelevanceRangeWarning(UserWarning):
    """The relevance range (C1, C2) does not fit: it was not measured, or the measured relevance varies too much."""


class GradientRatioWarning(UserWarning):
    """One loss's gradient has been far larger than the other's for tens of steps."""


class VanishedRelevanceWarning(UserWarning):
    """The relevance has almost vanished, and the penalty has become a constant without a training signal."""


def import_optional(module: str, package: str, extra: str = "examples") -> ModuleType:
    """Import a module of an extra, or say how to install it.

    Parameters
    ----------
    module : str
        Dotted name to import, such as ``"skimage.data"``.
    package : str
        The distribution's name on PyPI, such as ``"scikit-image"``.
    extra : str, default="examples"
        The extra of this package that installs it.

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
