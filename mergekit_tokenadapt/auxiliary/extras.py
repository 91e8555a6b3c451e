"""Optional packages: refuse early, and say what to install."""

from importlib.util import find_spec

from mergekit_tokenadapt.errors import TokenAdaptError


def require(package: str, *, extra: str, wanted_by: str) -> None:
    """Check that an optional package is installed, without importing it.

    Raises:
        TokenAdaptError: it is not; the message has the command that installs it.
    """
    if find_spec(package) is None:
        raise TokenAdaptError(
            f"{wanted_by} needs the package {package}, which is not installed: "
            f"pip install 'mergekit-tokenadapt[{extra}]'"
        )
