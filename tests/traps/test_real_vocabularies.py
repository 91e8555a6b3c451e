"""Eight vocabularies that real models have: no false pair and no missed pair, in any direction.

What a token stands for is found out here in a slow way that shares nothing with the package: by decoding it after
another token; and where that gives no text, from SentencePiece's own file, from tekken.json or from the table of
transformers.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers_zoo import BYTE_LEVEL, added, plain_definition

from examples.samples.models import (
    deepseek_tokenizer,
    gemma3,
    minilm,
    mistral_tokenizer,
    smollm2,
    tekken,
    unigram_tokenizer,
)
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason, match

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Real:
    """A vocabulary as the package reads it, and the truth about its tokens."""

    vocabulary: Vocabulary
    truth: Mapping[int, bytes]
    """Id to bytes, of all tokens that stand for text or bytes and whose truth is known."""


def decoded(files: TokenizerFiles, byte_of: Callable[[str], bytes | None]) -> Real:
    """Decode every token after an anchor; `byte_of` is asked about spellings that decode to no text."""
    fast = files.fast_tokenizer()
    spellings = {i: spelling for spelling, i in fast.get_vocab().items()}
    special = {t.id for t in files.vocabulary if t.kind is TokenKind.SPECIAL}
    model = files.definition["model"]["vocab"]
    entries = {piece for piece, _ in model} if isinstance(model, list) else set(model)
    anchor = fast.token_to_id("a")
    before = fast.decode([anchor], skip_special_tokens=False)
    ids = [i for i in sorted(spellings) if i not in special]
    truth: dict[int, bytes] = {}
    texts = fast.decode_batch([[anchor, i] for i in ids], skip_special_tokens=False)
    for i, text in zip(ids, texts, strict=True):
        if spellings[i] not in entries:  # matched against the text as it stands
            truth[i] = spellings[i].encode()
        elif "\ufffd" not in text and text.startswith(before):
            truth[i] = text[len(before) :].encode()
        elif (content := byte_of(spellings[i])) is not None:
            truth[i] = content
    return Real(files.vocabulary, truth)


def by_table(spelling: str) -> bytes | None:
    """GPT-2's spelling, by the table that transformers has."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table = {character: byte for byte, character in bytes_to_unicode().items()}
    return bytes(table[c] for c in spelling) if all(c in table for c in spelling) else None


def by_hexadecimal(spelling: str) -> bytes | None:
    """SentencePiece's byte tokens."""
    return bytes.fromhex(spelling[3:5]) if spelling.startswith("<0x") and len(spelling) == 6 else None


def byte_level(folder: Path) -> Real:
    return decoded(load_tokenizer(str(folder)), by_table)


def wordpiece(folder: Path) -> Real:
    """Its decoder takes the space out of `` n't``, by rules about English: these are switched off."""
    files = load_tokenizer(str(folder))
    decoder = {**files.definition["decoder"], "cleanup": False}
    return words(dataclasses.replace(files, definition={**files.definition, "decoder": decoder}))


def words(files: TokenizerFiles) -> Real:
    """Splits at white space without a marker. Decoding puts a space before each entry that does not continue a word.

    It does so before lone punctuation and ideographs, too, which in the text have none: left out.
    """
    real = decoded(files, lambda spelling: None)
    lone = {t.id for t in real.vocabulary if len(t.spelling) == 1}
    return Real(real.vocabulary, {i: content for i, content in real.truth.items() if i not in lone})


def sentencepiece(folder: Path) -> Real:
    """The truth is that of the SentencePiece library."""
    import sentencepiece as library

    files = load_tokenizer(str(folder))
    model = library.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    truth = {}
    for i in range(model.vocab_size()):
        if model.is_byte(i):
            truth[i] = bytes([int(model.id_to_piece(i)[3:5], 16)])
        elif not model.is_control(i) and not model.is_unknown(i):
            first = model.piece_to_id("a")
            truth[i] = model.decode([first, i])[1:].encode() if not model.is_unused(i) else b""
    special = {t.id for t in files.vocabulary if t.kind is TokenKind.SPECIAL}
    return Real(files.vocabulary, {i: content for i, content in truth.items() if i not in special})


def base_64(folder: Path) -> Real:
    """Tekken: special tokens first, then the ranks."""
    content = json.loads((folder / "tekken.json").read_text(encoding="utf-8"))
    first = content["config"]["default_num_special_tokens"]
    size = content["config"]["default_vocab_size"] - first
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table = bytes_to_unicode()
    truth = {first + n: base64.b64decode(e["token_bytes"]) for n, e in enumerate(content["vocab"][:size])}
    entries = {"".join(table[byte] for byte in content): i for i, content in truth.items()}
    definition = plain_definition(entries, [added(f"<SPECIAL_{i}>", i) for i in range(first)], decoder=BYTE_LEVEL)
    return Real(Vocabulary.from_definition(definition), truth)


@pytest.fixture(scope="module")
def real() -> Mapping[str, Real]:
    return {
        "SmolLM2": byte_level(smollm2()),
        "DeepSeek": byte_level(deepseek_tokenizer()),
        "Mistral v1": sentencepiece(mistral_tokenizer()),
        "Mistral v3": sentencepiece(mistral_tokenizer("v3")),
        "tekken": base_64(tekken()),
        "Gemma 3": decoded(load_tokenizer(str(gemma3())), by_hexadecimal),
        "Unigram": words(load_tokenizer(str(unigram_tokenizer()))),
        "WordPiece": wordpiece(minilm()),
    }


def test_the_bytes_of_every_token_are_true(real: Mapping[str, Real]) -> None:
    for name, one in real.items():
        ordinary = [t for t in one.vocabulary if t.kind is not TokenKind.SPECIAL]
        assert len(one.truth) > 0.9 * len(ordinary), name
        wrong = [t for t in ordinary if t.id in one.truth and t.bytes != one.truth[t.id]]
        assert wrong == [], (name, len(wrong), wrong[:5])


def test_no_pair_is_false_and_none_is_missed(real: Mapping[str, Real]) -> None:
    for (old_name, old), (new_name, new) in itertools.permutations(real.items(), 2):
        found = match(old.vocabulary, new.vocabulary)
        there = set(old.truth.values())
        false = [
            i
            for i in found.ids(Reason.COPIED).tolist()
            if i in new.truth and old.truth.get(int(found.sources[i]), new.truth[i]) != new.truth[i]
        ]
        missed = [i for i in found.ids(Reason.NEW).tolist() if new.truth.get(i) in there]
        assert (false, missed) == ([], []), (old_name, new_name, len(false), len(missed))
        assert len(found.ids(Reason.COPIED)) > 25, (old_name, new_name)


def test_matching_each_with_itself_is_the_identity(real: Mapping[str, Real]) -> None:
    for name, one in real.items():
        found = match(one.vocabulary, one.vocabulary)
        assert found.counts()["new"] == 0, name
        assert found.sources.max() < one.vocabulary.num_ids
        for i in found.ids(Reason.COPIED).tolist():
            assert one.vocabulary.by_id[int(found.sources[i])].bytes == one.vocabulary.by_id[i].bytes, name
