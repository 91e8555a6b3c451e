"""Append tokens of another tokenizer to a tokenizer.

The base keeps its ids, its normalizer and its pre-tokenizer, as Chinese-LLaMA (arXiv 2304.08177) and Cabrita (arXiv
2308.11878) keep those of LLaMA. A text for which the extended tokenizer uses no new token is segmented as before.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.extend import check_old_tokens, with_all_ids, with_new_tokens
from mergekit_tokenadapt.texts import TextSet
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary
from mergekit_tokenadapt.vocabulary_extension.candidates import NOT_PRODUCED, Candidate, LeftOut, candidates
from mergekit_tokenadapt.vocabulary_extension.merges import new_merges
from mergekit_tokenadapt.vocabulary_extension.scores import with_pieces

LOG = logging.getLogger(__name__)

SHOWN = 5
"""Tokens that the warning about left-out tokens names for each reason."""


@dataclass(frozen=True)
class Extended:
    """A tokenizer with appended tokens."""

    definition: Mapping[str, Any]
    """The content of its ``tokenizer.json``."""
    appended: tuple[int, ...]
    """Ids of the source's tokens in the extended tokenizer, ascending."""
    helpers: tuple[int, ...]
    """Ids of further new tokens, ascending: parts of the appended tokens that merges need."""
    left_out: LeftOut
    """Tokens of the source that could not be appended."""


def extended(base: TokenizerFiles, source: TokenizerFiles, most: int | None, text: TextSet | None) -> Extended:
    """Append the source's tokens to the base.

    Args:
        base: the tokenizer that gets the tokens. All its tokens keep their ids.
        source: the tokenizer that has the tokens.
        most: largest number of new tokens, those that merges need included; None: no limit.
        text: the tokens that occur most often in it are appended; None: in the order of their ids in the source.

    Raises:
        TokenAdaptError: the base is no BPE or Unigram tokenizer, or no token can be appended.
    """
    check_base(base)
    left_out = LeftOut()
    offered = candidates(base, source, text, left_out)
    append = _append_to_bpe if base.definition["model"].get("type") == "BPE" else _append_to_unigram
    while True:
        found = LeftOut({reason: list(labels) for reason, labels in left_out.labels.items()})
        definition, taken = append(base, offered, most, found)
        vocabulary = Vocabulary.from_definition(definition, base.role_tokens)
        ids = [vocabulary.by_spelling[c.spelling].id for c in taken]
        pieces = Segmenter(definition, vocabulary).segment([c.token.bytes for c in taken])
        lost = {c.spelling for n, c in enumerate(taken) if pieces[n].tolist() != [ids[n]]}
        if not lost:
            break
        # An added token inside their text, for instance, is found before the model sees the text.
        for candidate in taken:
            if candidate.spelling in lost:
                left_out.add(NOT_PRODUCED, candidate.token)
        offered = [c for c in offered if c.spelling not in lost]
    _tell(found, source)
    if not taken:
        raise TokenAdaptError(
            f"extend: no token of {source.name} can be appended to {base.name}: "
            + (
                "; ".join(f"{n:,} are left out: {r}" for r, n in found.counts().items())
                or f"it has all {'of them' if text is None else 'that the text uses'}"
            )
        )
    check_old_tokens(base.vocabulary, vocabulary, ())
    helpers = {t.id for t in vocabulary} - {t.id for t in base.vocabulary} - set(ids)
    return Extended(definition, tuple(sorted(ids)), tuple(sorted(helpers)), found)


def check_base(base: TokenizerFiles) -> None:
    """Check that tokens can be appended to a tokenizer.

    Raises:
        TokenAdaptError: it is neither BPE nor Unigram, or it writes the ends of words into its tokens.
    """
    model = base.definition["model"]
    kind = model.get("type")
    if kind not in ("BPE", "Unigram"):
        raise TokenAdaptError(
            f"extend: {base.name} is a {kind} tokenizer; only BPE and Unigram tokenizers can be extended. Leave extend "
            "out to replace the tokenizer"
        )
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise TokenAdaptError(
            f"extend: {base.name} marks where words continue or end in its tokens (continuing_subword_prefix or "
            "end_of_word_suffix), and tokens of others have no such mark. Leave extend out to replace the tokenizer"
        )


def _append_to_bpe(
    base: TokenizerFiles, offered: Sequence[Candidate], most: int | None, left_out: LeftOut
) -> tuple[dict[str, Any], list[Candidate]]:
    """Return the definition with new merges, and the candidates that they make."""
    whole = with_all_ids(dict(base.definition), base.vocabulary)
    found, taken = new_merges(base.definition, base.vocabulary.by_spelling, offered, most, left_out)
    model = with_new_tokens(whole["model"], base.vocabulary, list(found.characters), found.merges)
    return {**whole, "model": model}, taken


def _append_to_unigram(
    base: TokenizerFiles, offered: Sequence[Candidate], most: int | None, _left_out: LeftOut
) -> tuple[dict[str, Any], list[Candidate]]:
    """Return the definition with new pieces, and the candidates that are among them."""
    taken = list(offered[:most])
    return {**base.definition, "model": with_pieces(base, [c.spelling for c in taken])}, taken


def _tell(left_out: LeftOut, source: TokenizerFiles) -> None:
    """Log how many tokens were left out, some of them, and why."""
    for reason, labels in sorted(left_out.labels.items()):
        shown = ", ".join(map(repr, labels[:SHOWN])) + (", ..." if len(labels) > SHOWN else "")
        LOG.warning("%s tokens of %s are not appended, because %s: %s", f"{len(labels):,}", source.name, reason, shown)
