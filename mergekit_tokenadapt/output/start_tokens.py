"""The start token: what a tokenizer puts before each text (Gemma's ``<bos>``), and what becomes of it in a swap.

The target's tokenizer stays as it is unless the recipe says ``start_token: base``.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError, one_error
from mergekit_tokenadapt.output.configs import write_json
from mergekit_tokenadapt.output.loading import write_beside_config
from mergekit_tokenadapt.output.requirements import as_token_map, suggest_tokens
from mergekit_tokenadapt.tokenizer.auto_tokenizer import auto_tokenizer
from mergekit_tokenadapt.tokenizer.encoded_text import leading_tokens
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer, read_json
from mergekit_tokenadapt.tokenizer.post_processors import with_leading_tokens
from mergekit_tokenadapt.tokenizer.vocabulary import Token
from mergekit_tokenadapt.transfer.matching import VocabularyMap

LOG = logging.getLogger(__name__)


def lost_start_token(base: TokenizerFiles, target: TokenizerFiles) -> Token | None:
    """Return the token that the base tokenizer puts before each text where the target tokenizer puts none; else None.

    Raises:
        TokenAdaptError: a tokenizer cannot encode a text.
    """
    before, after = _leading(base), _leading(target)
    return before[0] if before and not after else None


def warn_of_start_token(base: TokenizerFiles, target: TokenizerFiles, mapping: VocabularyMap) -> None:
    """Warn if the base tokenizer puts a token before each text and the target tokenizer puts none.

    Some models become much worse without this token, Gemma for one.

    Args:
        base: the base tokenizer.
        target: the target tokenizer.
        mapping: the base row of each target row.
    """
    lost = lost_start_token(base, target)
    if lost is None:
        return
    found = _with_row_of(lost, target, mapping)
    option = "start_token: base (--start-token base) lets the output's tokenizer put"
    advice = (
        f"{option} {found.spelling!r} there, which has its row"
        if found
        else f"{_no_token(lost, target, mapping)}; {option} it there"
    )
    LOG.warning(
        "the base model reads %r before each text, and the target tokenizer %s puts nothing there. Some models become "
        "much worse without it (Gemma): %s",
        lost.spelling,
        target.name,
        advice,
    )


def start_tokens_of_base(base: TokenizerFiles, target: TokenizerFiles, mapping: VocabularyMap) -> list[Token]:
    """Return the target's tokens that have the rows of those that the base tokenizer puts before each text.

    Raises:
        TokenAdaptError: no token of the target has such a row, or a tokenizer cannot encode a text.
    """
    found = []
    for token in _leading(base):
        own = _with_row_of(token, target, mapping)
        if own is None:
            raise TokenAdaptError(f"start_token: base: {_no_token(token, target, mapping)}")
        found.append(own)
    return found


def check_start_tokens(
    tokens: Sequence[Token], base: TokenizerFiles, target: TokenizerFiles, base_folder: Path
) -> None:
    """Check that the output's tokenizer can put these tokens before each text, also as AutoTokenizer loads it.

    Raises:
        TokenAdaptError: it cannot.
    """
    with tempfile.TemporaryDirectory(prefix="tokenadapt-") as temporary:
        folder = Path(temporary)
        write_beside_config(folder, target, base, base_folder)
        write_start_tokens(folder, tokens, has_bos="bos" in target.vocabulary.roles)
        ids = [token.id for token in tokens]
        written = load_tokenizer(temporary)
        readings = {"tokenizer.json": [token.id for token in _leading(written)]}
        loaded = auto_tokenizer(folder)
        text = loaded("a", add_special_tokens=False).input_ids
        with_tokens = loaded("a").input_ids
        readings[type(loaded).__name__] = with_tokens[: _position(text, with_tokens)]
    for name, found in readings.items():
        if found != ids:
            shown = [target.vocabulary.by_id[i].spelling for i in found if i in target.vocabulary.by_id]
            raise TokenAdaptError(
                f"start_token: base: {name} of the output would put {shown} before each text and not "
                f"{[token.spelling for token in tokens]}"
            )


def write_start_tokens(folder: Path, tokens: Sequence[Token], *, has_bos: bool) -> None:
    """Let the tokenizer in a folder put these tokens before each text, and none of those that it put there.

    Args:
        folder: has a tokenizer.json and a tokenizer_config.json.
        tokens: the tokens.
        has_bos: whether the tokenizer has a bos token. Otherwise the first token becomes that, because programs take
            it where they start a text themselves.

    Raises:
        TokenAdaptError: the tokenizer's post-processor cannot be changed so.
        OSError: a file cannot be written.
    """
    definition = read_json(folder / "tokenizer.json")
    definition["post_processor"] = with_leading_tokens(definition.get("post_processor"), tokens)
    write_json(folder / "tokenizer.json", definition)
    config = read_json(folder / "tokenizer_config.json")
    if tokens and not has_bos:
        config["bos_token"] = tokens[0].spelling
    if "add_bos_token" in config:  # transformers 4 follows this key, and transformers 5 the file above
        config["add_bos_token"] = bool(tokens)
    write_json(folder / "tokenizer_config.json", config)


def _leading(tokenizer: TokenizerFiles) -> list[Token]:
    """Return the tokens before each text. An id without a token has no row, so it is left out."""
    with one_error(f"{tokenizer.name} cannot encode a text"):
        ids = leading_tokens(tokenizer)
    return [tokenizer.vocabulary.by_id[i] for i in ids if i in tokenizer.vocabulary.by_id]


def _with_row_of(token: Token, target: TokenizerFiles, mapping: VocabularyMap) -> Token | None:
    same_row: list[int] = np.flatnonzero(mapping.sources == token.id).tolist()
    if not same_row:
        return None
    bos = target.vocabulary.roles.get("bos")
    return target.vocabulary.by_id[bos if bos is not None and bos in same_row else same_row[0]]


def _no_token(token: Token, target: TokenizerFiles, mapping: VocabularyMap) -> str:
    pairs = suggest_tokens([token.spelling], target, mapping)
    remedy = (
        "its tokenizer.json has no unused special token; add one"
        if pairs is None
        else f"{as_token_map(pairs)} gives it to one"
    )
    return f"no token of the target has the row of {token.spelling!r}: {remedy}"


def _position(text: Sequence[int], whole: Sequence[int]) -> int:
    """Return where a text begins within the same text with special tokens."""
    return next(n for n in range(len(whole) + 1) if list(whole[n : n + len(text)]) == list(text))
