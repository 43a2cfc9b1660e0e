"""Import of packages that only an extra brings."""

from importlib import import_module
from types import ModuleType

from zennit_isnet.errors import MissingDependencyError


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
        raise MissingDependencyError(
            f"{package} is needed here but cannot be imported: "
            f'run `pip install {package}` or `pip install "zennit-isnet[{extra}]"`'
        ) from error
