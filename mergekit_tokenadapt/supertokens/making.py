"""Learn a tokenizer and write its folder: the work of the commands `train` and `extend`."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.supertokens.chunks import train_chunks
from mergekit_tokenadapt.supertokens.coarsening import can_be_coarser
from mergekit_tokenadapt.supertokens.extend import Extension, extend
from mergekit_tokenadapt.supertokens.folder import check_same_command, write_tokenizer
from mergekit_tokenadapt.supertokens.options import Limits, TrainOptions
from mergekit_tokenadapt.supertokens.reach import merged_spellings, pruned, tell_dropped
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.superwords import train_superwords
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.supertokens.word_patterns import byte_level_split, word_pattern
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary

LOG = logging.getLogger(__name__)


def train_folder(
    out: str | Path,
    corpus: Corpus,
    options: TrainOptions,
    like: TokenizerFiles | None,
    *,
    force: bool = False,
    may_be_there: bool = False,
) -> int:
    """Learn a tokenizer and write its folder. Returns the number of its tokens.

    Args:
        out: the folder to write.
        corpus: the text to learn from.
        options: how to learn.
        like: a tokenizer whose special tokens, added tokens, roles and chat template the result gets. The result also
            gets its word pre-tokenizer if that can be made coarser.
        force: replace `out` if this package wrote it.
        may_be_there: accept an `out` that the same command made before it was stopped.

    Raises:
        TokenAdaptError: an option is out of range, there is no text, or `out` exists.
    """
    if may_be_there:
        check_same_command(Path(out), {"made": "train", **_described(options, corpus, like)})
    special = dict.fromkeys([*_kept_tokens(like), *options.special_tokens])
    cutter = byte_level_split(word_pattern(options.digits))
    if like is not None and can_be_coarser(like.definition):
        cutter = like.definition["pre_tokenizer"]
    common: dict[str, Any] = {
        "rules": options.rules,
        "limits": options.limits,
        "special_tokens": list(special),
        "pre_tokenizer": cutter,
    }
    if options.algorithm == "superwords":
        definition = train_superwords(corpus, options.vocab_size, word_share=options.word_share, **common)
    else:
        definition = train_chunks(corpus, options.vocab_size, lengths=options.lengths, seed=options.seed, **common)
    if like is not None:
        definition = _with_flags(definition, like, options.special_tokens)
    definition, dropped = pruned(definition, {}, merged_spellings(definition))
    tell_dropped(dropped)
    vocabulary = Vocabulary.from_definition(definition)
    if len(vocabulary) + len(dropped) < options.vocab_size:
        LOG.warning(
            "%s tokens could be learned from the text, not %s: no other token occurs at least %d times and keeps the "
            "rules; give more text or a smaller vocabulary",
            f"{len(vocabulary) + len(dropped):,}",
            f"{options.vocab_size:,}",
            options.limits.min_frequency,
        )
    corpus.tell_unread()
    manifest = {"made": "train", **_described(options, corpus, like)}
    write_tokenizer(out, definition, manifest, like=like, force=force, may_be_there=may_be_there)
    return len(vocabulary)


def extend_folder(
    out: str | Path,
    base: TokenizerFiles,
    corpus: Corpus,
    num_tokens: int,
    rules: Rules,
    limits: Limits,
    *,
    drop: bool,
    force: bool = False,
    may_be_there: bool = False,
) -> Extension:
    """Extend a tokenizer and write its folder.

    Args:
        out: the folder to write.
        base: the tokenizer to extend.
        corpus: the text to learn from.
        num_tokens: number of tokens to add. Fewer are added where the text has no more frequent pairs.
        rules: which texts a new token may have.
        limits: memory, minimum frequency and amount of text.
        drop: remove as many of the least used tokens as are added, so that the vocabulary keeps its size.
        force: replace `out` if this package wrote it.
        may_be_there: accept an `out` that the same command made before it was stopped.

    Raises:
        TokenAdaptError: the base cannot be extended, an option is out of range, there is no text, or `out` exists.
    """
    request = {
        "made": "extend",
        "base": base.name,
        "add": num_tokens,
        "drop": drop,
        "rules": _rules(rules),
        "limits": {"min_frequency": limits.min_frequency, "max_memory": limits.memory_bytes},
    }
    if may_be_there:
        check_same_command(Path(out), {**request, "text": _text(corpus)})
    extension = extend(base, corpus, num_tokens, rules, limits, drop=drop)
    if len(extension.added) < num_tokens:
        LOG.warning(
            "%s new tokens could be learned from the text, not %s: no other token occurs at least %d times and keeps "
            "the rules; give more text or add fewer tokens",
            f"{len(extension.added):,}",
            f"{num_tokens:,}",
            limits.min_frequency,
        )
    corpus.tell_unread()
    manifest = {
        **request,
        "added": len(extension.added),
        "dropped": len(extension.dropped),
        "notes": list(extension.notes),
        "text": _text(corpus),
    }
    write_tokenizer(out, extension.definition, manifest, like=base, force=force, may_be_there=may_be_there)
    return extension


def _kept_tokens(like: TokenizerFiles | None) -> list[str]:
    """Return the special and added tokens that a new tokenizer takes from another one, in the order of their ids.

    Added tokens of white space are left out, because the new tokenizer learns its own. So are those that are spelled in
    the other model's alphabet, because the new one has another.
    """
    if like is None:
        return []
    kept, lost = list[str](), list[Token]()
    for token in like.vocabulary:
        if token.kind is TokenKind.ADDED and (token.is_blank or token.text != token.spelling):
            lost.append(token)
        elif token.kind in (TokenKind.SPECIAL, TokenKind.ADDED):
            kept.append(token.spelling)
    if lost:
        LOG.warning(
            "the new tokenizer goes without %d of the added tokens of %s, %r for one: they stand for white space or "
            "are spelled in that model's alphabet, and it learns its own tokens for such text",
            len(lost),
            like.name,
            lost[0].label,
        )
    return kept


def _with_flags(definition: Mapping[str, Any], like: TokenizerFiles, special: Collection[str]) -> dict[str, Any]:
    """Return a copy in which the tokens of another tokenizer have the flags that they have there (``special``, ...).

    Args:
        definition: the new tokenizer, in which all added tokens are special.
        like: the other tokenizer.
        special: spellings of tokens that stay as they are.
    """
    flags = {
        entry["content"]: {key: value for key, value in entry.items() if key != "id"}
        for entry in like.definition.get("added_tokens") or ()
        if entry["content"] not in special
    }
    return {**definition, "added_tokens": [e | flags.get(e["content"], {}) for e in definition["added_tokens"]]}


def _described(options: TrainOptions, corpus: Corpus, like: TokenizerFiles | None) -> dict[str, Any]:
    """Return the options and the text as the manifest records them."""
    described: dict[str, Any] = {
        "algorithm": options.algorithm,
        "vocab_size": options.vocab_size,
        "like": None if like is None else like.name,
        "special_tokens": list(options.special_tokens),
        "digits": options.digits,
        "rules": _rules(options.rules),
        "limits": {
            "min_frequency": options.limits.min_frequency,
            "max_memory": options.limits.memory_bytes,
            "words_from": options.limits.words_bytes,
        },
        "text": _text(corpus),
    }
    if options.algorithm == "superwords":
        return described | {"word_share": options.word_share}
    return described | {"seed": options.seed, "lengths": dict(options.lengths.distribution)}


def _rules(rules: Rules) -> dict[str, Any]:
    """Return the rules as the manifest records them."""
    crossing = sorted(c.value for c in rules.crossing)
    most = {"max_words": rules.max_words, "max_characters": rules.max_characters}
    return {**most, "punctuation": rules.punctuation, "crossing": crossing}


def _text(corpus: Corpus) -> dict[str, Any]:
    """Return the figures of the text as the manifest records them."""
    return {
        "sources": list(corpus.sources),
        "bytes": corpus.num_bytes,
        "documents": corpus.num_documents,
        "skipped": corpus.num_skipped,
        "not_utf8": dict(sorted(corpus.replaced.items())),
    }
