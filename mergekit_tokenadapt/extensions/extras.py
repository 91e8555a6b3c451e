"""Optional packages: fail before the first slow step, with the command that installs or upgrades the package."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from mergekit_tokenadapt.errors import TokenAdaptError, first_line


def require(package: str, *, extra: str, wanted_by: str) -> None:
    """Check that an optional package is installed, without importing it.

    Args:
        package: name of the module.
        extra: the extra of this package that installs it, for the message.
        wanted_by: the feature that needs it, for the message.

    Raises:
        TokenAdaptError: the package is not installed; the message has the command that installs it.
    """
    if find_spec(package) is None:
        raise _not_installed(package, extra, wanted_by)


@contextmanager
def importing(package: str, *, extra: str, wanted_by: str) -> Iterator[None]:
    """Turn a failing import of an optional package into one line. Put only the import into the ``with`` block.

    The message tells a missing package from an installed one that cannot be imported. The latter happens where another
    package is too old or too new for it: pyarrow 26 with numpy 1.26, lm-eval 0.4.9 with transformers 5. The arguments
    are the same as those of `require`.

    Raises:
        TokenAdaptError: the package is not installed, or its import fails.
    """
    try:
        yield
    except Exception as error:  # an import runs the package's own code, which may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise _not_installed(package, extra, wanted_by) from error
        raise TokenAdaptError(
            f"{wanted_by} needs the package {package}, which is installed but cannot be imported "
            f"({type(error).__name__}: {first_line(error)}): try {_install(extra, '--upgrade ')}"
        ) from error


def _not_installed(package: str, extra: str, wanted_by: str) -> TokenAdaptError:
    return TokenAdaptError(f"{wanted_by} needs the package {package}, which is not installed: {_install(extra)}")


def _install(extra: str, flags: str = "") -> str:
    return f"pip install {flags}'mergekit-tokenadapt[{extra}]'"
