"""Measure compression and safety of a learned tokenizer, beside other tokenizers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mergekit_tokenadapt.supertokens.reach import unreachable
from mergekit_tokenadapt.supertokens.rules import crossed
from mergekit_tokenadapt.texts import LANGUAGES, TextSet, parallel_texts
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.text_measures import renyi_efficiency, tokenize
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind, Vocabulary

SAMPLES = 8
"""Number of example tokens for each kind of finding."""


def describe(tokenizers: Sequence[TokenizerFiles], texts: Sequence[TextSet]) -> dict[str, Any]:
    """Return the content of `supertokens report`; docs/supertokens.md describes its keys.

    Args:
        tokenizers: the first one is the subject. Its safety figures count only tokens that none of the others has.
        texts: texts to measure compression on.
    """
    return {
        "command": "supertokens report",
        "texts": [text.describe() for text in texts],
        "tokenizers": [
            {
                "name": tokenizer.name,
                "tokens": len(tokenizer.vocabulary),
                "compression": {text.name: compression(tokenizer, text.documents) for text in texts},
                "parity": parity(tokenizer),
                "safety": safety(tokenizer, tokenizers[1:] if n == 0 else ()),
            }
            for n, tokenizer in enumerate(tokenizers)
        ],
    }


def compression(tokenizer: TokenizerFiles, documents: Sequence[str]) -> dict[str, Any]:
    """Measure how a tokenizer segments documents.

    Returns:
        Sizes of the text, bytes per token, Renyi efficiency, the share of documents that decode to themselves, the
        share of supertokens among the text's tokens, and the number of ordinary tokens that the text never uses.
    """
    tokenized, vocabulary = tokenize(tokenizer, documents), tokenizer.vocabulary
    usage = np.bincount(np.concatenate([d.ids for d in tokenized]), minlength=vocabulary.num_ids)
    supertokens = [t.id for t in vocabulary if t.spans_words]
    num_bytes, num_tokens = sum(len(d.text.encode("utf-8")) for d in tokenized), int(usage.sum())
    return {
        "documents": len(tokenized),
        "bytes": num_bytes,
        "tokens": num_tokens,
        "bytes_per_token": num_bytes / num_tokens,
        "renyi_efficiency": renyi_efficiency(usage, len(vocabulary)),
        "exact_round_trips": sum(d.is_exact for d in tokenized) / len(tokenized),
        "supertoken_share": float(usage[supertokens].sum() / num_tokens),
        "never_used": int((usage[vocabulary.ids(TokenKind.ORDINARY)] == 0).sum()),
    }


def parity(tokenizer: TokenizerFiles) -> dict[str, float]:
    """Return the tokens of one text in each language, relative to English (Petrov et al., arXiv 2305.15425)."""
    lengths = {
        code: sum(len(d.ids) for d in tokenize(tokenizer, text.documents)) for code, text in parallel_texts().items()
    }
    return {code: lengths[code] / lengths["en"] for code in LANGUAGES}


def safety(tokenizer: TokenizerFiles, against: Sequence[TokenizerFiles] = ()) -> dict[str, Any]:
    """Count tokens that may cause trouble: those that break a rule, unreachable ones, and duplicates; list the longest.

    Args:
        tokenizer: the tokenizer to examine.
        against: other tokenizers. Tokens that one of them has are not counted.
    """
    vocabulary = tokenizer.vocabulary
    old = {t.bytes for other in against for t in other.vocabulary}
    tokens = [t for t in vocabulary if t.kind is TokenKind.ORDINARY and t.bytes not in old]
    broken: dict[str, list[Token]] = {}
    for token in tokens:
        for crossing in sorted(crossed(token.text or ""), key=lambda c: c.value):
            broken.setdefault(crossing.value, []).append(token)
    lost = unreachable(tokenizer.definition, vocabulary, [t.id for t in tokens])
    longest = sorted(tokens, key=lambda t: (-len(t.bytes), t.id))[:SAMPLES]
    return {
        "tokens_looked_at": len(tokens),
        "supertokens": sum(t.spans_words for t in tokens),
        "words_in_a_token": dict(sorted(Counter(len((t.text or "").split()) for t in tokens).items())),
        "crossing": {name: _shown(found) for name, found in sorted(broken.items())},
        "unreachable": _shown(lost),
        "duplicates": _duplicates(vocabulary),
        "longest": [t.label for t in longest],
    }


def _shown(tokens: Sequence[Token]) -> dict[str, Any]:
    """Return the number of tokens and the first `SAMPLES` labels."""
    return {"number": len(tokens), "for_instance": [t.label for t in tokens[:SAMPLES]]}


def _duplicates(vocabulary: Vocabulary) -> int:
    """Count the ordinary tokens whose bytes an earlier token already stands for."""
    contents = Counter(t.bytes for t in vocabulary if t.kind is TokenKind.ORDINARY)
    return sum(n - 1 for n in contents.values())
