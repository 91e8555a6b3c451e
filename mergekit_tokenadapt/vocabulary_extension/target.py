"""The tokenizer that a model gets: the named one, or the base's own with tokens of the named one appended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.output import as_loaded
from mergekit_tokenadapt.storage.temporary_folder import TemporaryFolder
from mergekit_tokenadapt.supertokens.folder import write_tokenizer
from mergekit_tokenadapt.texts.sources import read_text
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
from mergekit_tokenadapt.transfer.extend_options import ExtendOptions
from mergekit_tokenadapt.vocabulary_extension.extend import check_base, extended


@dataclass(frozen=True)
class Target:
    """The tokenizer that a model gets."""

    tokenizer: TokenizerFiles
    extension: dict[str, Any] | None = None
    """For the manifest: the source, the numbers of new tokens, and what was left out. None if the target replaces the
    base's tokenizer.
    """


def target_of(adapt: AdaptConfig, named: TokenizerFiles, base: TokenizerFiles, base_folder: Path) -> Target:
    """Return the tokenizer that ``tokenizer.source`` and ``adapt.extend`` stand for, as AutoTokenizer will load it.

    Args:
        adapt: the options of the recipe.
        named: the tokenizer that the user named.
        base: the base model's tokenizer.
        base_folder: the base model's folder.

    Raises:
        TokenAdaptError: the base cannot be extended by the named tokenizer, or another option does not go with it.
    """
    if adapt.extend is None:
        return Target(as_loaded(named, base, base_folder))
    _check(adapt, named, base)
    tokenizer, record = _extended(adapt.extend, named, base)
    return Target(as_loaded(tokenizer, base, base_folder), record)


def _check(adapt: AdaptConfig, named: TokenizerFiles, base: TokenizerFiles) -> None:
    """Check what can be checked before the text is read.

    Raises:
        TokenAdaptError: see `target_of`.
    """
    if named is base:
        raise TokenAdaptError(
            "extend: the tokenizer is the base's own, so it has no tokens to append: name the tokenizer that has them"
        )
    if adapt.make_method().needs_donor:
        raise TokenAdaptError(
            f"extend: the method {adapt.method} needs a model that has a row for each token, and {named.name} has none "
            "for the base's tokens; use another method, such as mean or calibrated"
        )
    check_base(base)


def _extended(
    options: ExtendOptions, source: TokenizerFiles, base: TokenizerFiles
) -> tuple[TokenizerFiles, dict[str, Any]]:
    """Return the extended tokenizer in a temporary folder, and its record for the manifest."""
    text = None if options.text is None else read_text(options.text, option="extend.text")
    made = extended(base, source, None if options.tokens == "all" else options.tokens, text)
    record: dict[str, Any] = {
        "tokens_of": source.name,
        "appended": len(made.appended),
        "needed_by_merges": len(made.helpers),
        "left_out": made.left_out.counts(),
        "text": None if text is None else text.describe(),
    }
    temporary = TemporaryFolder()
    folder = Path(temporary.name) / "tokenizer"
    write_tokenizer(folder, made.definition, {"made": "adapt.extend", **record}, like=base)
    name = f"{base.name} with tokens of {source.name}"
    return replace(load_tokenizer(str(folder)), name=name, _temporary=temporary), record
