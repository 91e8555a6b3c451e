"""Check a written model folder: do its tensors fit the model's class and config?"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.classes import CannotBuild, Loading, ModelClass, Shape, find_class
from mergekit_tokenadapt.models.tensor_files import TensorFiles

LOG = logging.getLogger(__name__)


def check_written(out: Path, base: Path) -> None:
    """Build the written model on the meta device from its own config, and load its tensors by name and shape.

    Faults that the base model already has are ignored, for instance tensors of a layer that the class does not load.

    Args:
        out: the written folder.
        base: the folder of the base model, whose config the output was made from.

    Raises:
        TokenAdaptError: the config does not load, or tensors are missing, superfluous, or of another shape.
    """
    before = _loading_of_base(base)
    if before is None:
        LOG.info("%s is not built to check it: transformers has no class for it, or cannot build the base", out.name)
        return
    try:
        model = find_class(out)
        after = model.load(_shapes(out)) if model is not None else before
    except TokenAdaptError as error:
        raise TokenAdaptError(f"the output would not load: {str(error).replace(str(out), out.name)}") from error
    faults = [
        _fault("are missing", after.missing - before.missing),
        _fault("have no place in the model", after.unexpected - before.unexpected),
        _fault(
            "have another shape than the config says",
            (
                f"{name} {have}, not {wanted}"
                for name, (have, wanted) in after.mismatched.items()
                if name not in before.mismatched
            ),
        ),
    ]
    if any(faults):
        raise TokenAdaptError(f"the output would not work: {'; '.join(fault for fault in faults if fault)}")


def _loading_of_base(base: Path) -> Loading | None:
    """Load the base model's class with the names and shapes of its tensors; return None if that is not possible."""
    try:
        model: ModelClass | None = find_class(base)
        return None if model is None else model.with_any_pad().load(_shapes(base))
    except CannotBuild:
        return None
    except TokenAdaptError as error:
        LOG.info("%s", error)
        return None


def _shapes(folder: Path) -> dict[str, Shape]:
    files = TensorFiles(folder)
    return {name: files.shape(name) for name in files}


def _fault(what: str, names: Iterable[str]) -> str:
    ordered = sorted(names)
    shown = ", ".join(ordered[:4]) + (", ..." if len(ordered) > 4 else "")
    return f"{len(ordered)} tensors {what} ({shown})" if ordered else ""
