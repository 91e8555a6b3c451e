"""The start token: what a tokenizer puts before each text (Gemma's ``<bos>``), and what becomes of it in a swap.

The target's tokenizer stays as it is unless the recipe says ``start_token: base``. What stands after each text
(T5's ``</s>``) is the target tokenizer's in any case. A warning says so if that is nothing.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mergekit_tokenadapt.errors import TokenAdaptError, one_error
from mergekit_tokenadapt.output.configs import write_json
from mergekit_tokenadapt.output.loading import write_beside_config
from mergekit_tokenadapt.output.requirements import as_token_map, suggest_tokens
from mergekit_tokenadapt.tokenizer.auto_tokenizer import auto_tokenizer
from mergekit_tokenadapt.tokenizer.encoded_text import leading_tokens, trailing_tokens
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


def warn_of_start_token(
    base: TokenizerFiles, target: TokenizerFiles, mapping: VocabularyMap, *, is_open: bool = True
) -> None:
    """Warn if the base tokenizer puts a token before each text and the target tokenizer puts none.

    Some models become much worse without this token, Gemma for one.

    Args:
        base: the base tokenizer.
        target: the target tokenizer.
        mapping: the base row of each target row.
        is_open: whether the warning names the option that helps. It does not where the option was chosen.
    """
    lost = lost_start_token(base, target)
    if lost is None:
        return
    message = (
        f"the base model reads {lost.spelling!r} before each text, and the target tokenizer {target.name} puts nothing "
        "there. Some models become much worse without it (Gemma)"
    )
    LOG.warning("%s", f"{message}: {_start_token_advice(lost, target, mapping)}" if is_open else message)


def warn_of_end_token(base: TokenizerFiles, target: TokenizerFiles, mapping: VocabularyMap) -> None:
    """Warn if the base tokenizer puts a token after each text and the target tokenizer puts none.

    Embedding models may take a text's vector from this token, and T5's encoder was trained with it.

    Args:
        base: the base tokenizer.
        target: the target tokenizer.
        mapping: the base row of each target row.
    """
    before = _around(base, trailing_tokens)
    if not before or _around(target, trailing_tokens):
        return
    found = _with_row_of(before[0], target, mapping)
    advice = (
        f"let the post_processor of its tokenizer.json put {found.spelling!r} there, which has its row"
        if found
        else _no_token(before[0], target, mapping)
    )
    LOG.warning(
        "%s",
        f"the base model reads {before[0].spelling!r} after each text, and the target tokenizer {target.name} puts "
        f"nothing there. Embedding models and T5 may become much worse without it: {advice}",
    )


def _start_token_advice(lost: Token, target: TokenizerFiles, mapping: VocabularyMap) -> str:
    found = _with_row_of(lost, target, mapping)
    option = "start_token: base (--start-token base) lets the output's tokenizer put"
    if found:
        return f"{option} {found.spelling!r} there, which has its row"
    return f"{_no_token(lost, target, mapping)}; {option} it there"


@dataclass(frozen=True)
class StartTokens:
    """What the output's tokenizer puts before each text with ``start_token: base``."""

    tokens: tuple[Token, ...]
    """The target's tokens with the rows of those that the base tokenizer puts there."""
    are_there: bool
    """Whether the target's tokenizer puts them there already. Its files then stay as they are."""
    bos: Token | None
    """The token that becomes bos, because programs start texts with bos themselves; None if bos stays.

    The first start token becomes bos where the target has no bos, or one with the row of another token. In SmolLM2's
    tokenizer, for instance, bos is ``<|im_start|>``, to which `token_map` may give the row of Gemma's
    ``<start_of_turn>``.
    """

    @classmethod
    def of_base(
        cls, base: TokenizerFiles, target: TokenizerFiles, mapping: VocabularyMap, token_map: Mapping[str, str]
    ) -> StartTokens:
        """Find the tokens; see `start_tokens_of_base`.

        Raises:
            TokenAdaptError: see there.
        """
        tokens = start_tokens_of_base(base, target, mapping, token_map)
        are_there = tokens == _leading(target)
        own = target.vocabulary.roles.get("bos")
        starts = (*(token.id for token in _leading(base)[:1]), base.vocabulary.roles.get("bos"))
        stays = are_there or not tokens or (own is not None and int(mapping.sources[own]) in starts)
        return cls(tuple(tokens), are_there, None if stays else tokens[0])


def start_tokens_of_base(
    base: TokenizerFiles, target: TokenizerFiles, mapping: VocabularyMap, token_map: Mapping[str, str]
) -> list[Token]:
    """Return the target's tokens that have the rows of those that the base tokenizer puts before each text.

    Args:
        base: the base tokenizer.
        target: the target tokenizer.
        mapping: the base row of each target row.
        token_map: of the recipe. Where several tokens have such a row, the one that it names comes first.

    Raises:
        TokenAdaptError: no token of the target has such a row, or a tokenizer cannot encode a text.
    """
    found = []
    for token in _leading(base):
        own = _with_row_of(token, target, mapping, token_map.get(token.spelling))
        if own is None:
            raise TokenAdaptError(f"start_token: base: {_no_token(token, target, mapping)}")
        found.append(own)
    return found


def check_start_tokens(start: StartTokens, base: TokenizerFiles, target: TokenizerFiles, base_folder: Path) -> None:
    """Check that the output's tokenizer can put these tokens before each text, also as AutoTokenizer loads it.

    Raises:
        TokenAdaptError: it cannot.
    """
    with tempfile.TemporaryDirectory(prefix="tokenadapt-") as temporary:
        folder = Path(temporary)
        write_beside_config(folder, target, base, base_folder)
        write_start_tokens(folder, start)
        readings = dict(_readings(folder))
    for name, found in readings.items():
        if found != [token.id for token in start.tokens]:
            shown = [target.vocabulary.by_id[i].spelling for i in found if i in target.vocabulary.by_id]
            raise TokenAdaptError(
                f"start_token: base: {name} of the output would put {shown} before each text and not "
                f"{[token.spelling for token in start.tokens]}"
            )


def warn_of_chats(
    start: StartTokens, templates: Mapping[str, str], base: TokenizerFiles, target: TokenizerFiles
) -> None:
    """Warn if chats lose the start token: programs put none before a rendered chat, so the template has to write it.

    Args:
        start: the start tokens of the output.
        templates: name -> Jinja source of the output's chat templates.
        base: the base tokenizer.
        target: the target tokenizer.
    """
    old = _leading(base)
    if not start.tokens or not all(_is_written(old[0], template, base) for template in base.chat_templates.values()):
        return  # chats of the base begin without it, too
    first = start.tokens[0]
    if not all((first == start.bos and "bos_token" in t) or _is_written(first, t, target) for t in templates.values()):
        LOG.warning(
            "start_token: base: the output's tokenizer puts %r before each text, but chats begin without it, because "
            "the chat template does not write it. Write {{ bos_token }} at the beginning of a copy of the template, "
            "and give that as chat_template: FILE (--chat-template FILE)",
            first.spelling,
        )


def _is_written(token: Token, template: str, tokenizer: TokenizerFiles) -> bool:
    """Return whether a chat template writes a token, by its spelling or by a role such as ``bos_token``."""
    roles = [f"{role}_token" for role, token_id in tokenizer.vocabulary.roles.items() if token_id == token.id]
    return any(name in template for name in (token.spelling, *roles))


def write_start_tokens(folder: Path, start: StartTokens) -> None:
    """Let the tokenizer in a folder put these tokens before each text, and none of those that it put there.

    Args:
        folder: has the target's files, a tokenizer.json and a tokenizer_config.json among them.
        start: the start tokens of the output.

    Raises:
        TokenAdaptError: the tokenizer's post-processor cannot be changed so.
        OSError: a file cannot be written.
    """
    if start.are_there:
        return
    definition = read_json(folder / "tokenizer.json")
    definition["post_processor"] = with_leading_tokens(definition.get("post_processor"), start.tokens)
    write_json(folder / "tokenizer.json", definition)
    config = read_json(folder / "tokenizer_config.json")
    if start.bos is not None:
        config["bos_token"] = start.bos.spelling
        roles = read_json(folder / "special_tokens_map.json")
        if "bos_token" in roles:
            write_json(folder / "special_tokens_map.json", {**roles, "bos_token": start.bos.spelling})
    # transformers 5 follows the file above. Some classes of transformers 4 follow this key, which is true by default.
    config["add_bos_token"] = bool(start.tokens)
    write_json(folder / "tokenizer_config.json", config)


def _readings(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield who reads a folder, and the ids that are before each text then."""
    yield "tokenizer.json", [token.id for token in _leading(load_tokenizer(str(folder)))]
    try:
        loaded = auto_tokenizer(folder)
    except TokenAdaptError:  # `as_loaded` has warned of this
        return
    text = loaded("a", add_special_tokens=False).input_ids
    with_tokens = loaded("a").input_ids
    yield type(loaded).__name__, with_tokens[: _position(text, with_tokens)]


def _leading(tokenizer: TokenizerFiles) -> list[Token]:
    return _around(tokenizer, leading_tokens)


def _around(tokenizer: TokenizerFiles, ids_of: Callable[[TokenizerFiles], Sequence[int]]) -> list[Token]:
    """Return the tokens before or after each text. An id without a token has no row, so it is left out."""
    with one_error(f"{tokenizer.name} cannot encode a text"):
        ids = ids_of(tokenizer)
    return [tokenizer.vocabulary.by_id[i] for i in ids if i in tokenizer.vocabulary.by_id]


def _with_row_of(
    token: Token, target: TokenizerFiles, mapping: VocabularyMap, chosen: str | None = None
) -> Token | None:
    same_row: list[int] = np.flatnonzero(mapping.sources == token.id).tolist()
    if not same_row:
        return None
    roles = target.vocabulary.roles
    no_start = {roles.get(role) for role in ("unk", "pad", "mask")}

    def order(found: Token) -> tuple[bool, ...]:
        is_bos, is_same = found.id == roles.get("bos"), found.spelling == token.spelling
        return found.spelling != chosen, not is_bos, not is_same, found.id in no_start

    return min((target.vocabulary.by_id[i] for i in same_row), key=order)  # the first of equals has the lowest id


def _no_token(token: Token, target: TokenizerFiles, mapping: VocabularyMap) -> str:
    bos = target.vocabulary.roles.get("bos")
    if bos is not None and mapping.sources[bos] < 0:
        pairs: dict[str, str] | None = {token.spelling: target.vocabulary.by_id[bos].spelling}
    else:
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
