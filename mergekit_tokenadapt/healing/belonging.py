"""The base of a transplanted model: found by the manifest, and refused where the two do not belong together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import ModelFolder, open_model
from mergekit_tokenadapt.models.identity import is_described_by
from mergekit_tokenadapt.output import MANIFEST, inputs_in
from mergekit_tokenadapt.tokenizer.files import read_json
from mergekit_tokenadapt.transfer.matching import VocabularyMap, match


def open_base(model: ModelFolder, base: str | None) -> ModelFolder:
    """The model that `model` was made from, with the tokens that have rows.

    Args:
        model: a transplanted model.
        base: its folder or hub id; None: where the manifest says.

    Raises:
        TokenAdaptError: the manifest names none, there is none at that place, it is not the one of the manifest, or
            its body is another one; or an ordinary token of it has no row.
    """
    inputs = inputs_in(model.folder)
    if base is None and len(inputs) > 1:
        raise TokenAdaptError(
            f"{model.name} was merged from {len(inputs)} models, and one of them has to teach it: heal the models "
            "first, and merge them afterwards, or name one with --base"
        )
    record = _record(inputs, base)
    name = base if base is not None else record.get("name")
    if not isinstance(name, str):
        raise TokenAdaptError(
            f"{model.name} has no {MANIFEST} that says which model it was made from: name that one with --base"
        )
    try:
        opened = open_model(name, trust_remote_code=model.trust_remote_code)
    except TokenAdaptError as error:
        hint = "" if base is not None else " (it was there when the model was made: name its folder now with --base)"
        raise TokenAdaptError(f"the base of {model.name}: {error}{hint}") from error
    if is_described_by(record, opened.folder) is False:
        raise TokenAdaptError(
            f"{name} is not the model that {model.name} was made from: its vocabulary tensors have other hashes than "
            f"{MANIFEST} says"
        )
    _check_body(model, opened)
    return opened.with_own_rows()


def matched(model: ModelFolder, base: ModelFolder) -> VocabularyMap:
    """How the two vocabularies match, with the token map of the transplant."""
    adapt = read_json(model.folder / MANIFEST).get("adapt")
    token_map: Any = adapt.get("token_map") if isinstance(adapt, Mapping) else None
    return match(
        base.tokenizer.vocabulary,
        model.tokenizer.vocabulary,
        num_rows=max(model.num_rows, model.tokenizer.vocabulary.num_ids),
        base_rows=base.num_rows,
        token_map=token_map if isinstance(token_map, Mapping) else None,
    )


def _record(inputs: list[Mapping[str, Any]], base: str | None) -> Mapping[str, Any]:
    """The record of the input model that is the base: the one of that name, or else the first."""
    return next((one for one in inputs if one.get("name") == base), inputs[0] if inputs else {})


def _check_body(model: ModelFolder, base: ModelFolder) -> None:
    """Refuse a base whose layers have other shapes.

    Raises:
        TokenAdaptError: says which tensor.
    """
    own, other = set(model.vocabulary_tensors), set(base.vocabulary_tensors)
    names = sorted((set(model.tensors) - own) | (set(base.tensors) - other))
    for name in names:
        shapes = [folder.tensors.shape(name) if name in folder.tensors else None for folder in (model, base)]
        if shapes[0] != shapes[1]:
            here, there = ("is missing" if shape is None else f"has the shape {shape}" for shape in shapes)
            raise TokenAdaptError(
                f"{base.name} is not the model that {model.name} was made from: the tensor {name} {there} there, and "
                f"{here} here"
            )
    if Path(base.folder).resolve() == Path(model.folder).resolve():
        raise TokenAdaptError(f"{base.name} is the model itself: name the model that it was made from with --base")
