"""Tokens added to a tokenizer: its text is segmented as before, and then joined."""

import json

import pytest
from hypothesis import given
from learning_texts import QUIET, TEXT, new_ids, plain
from sentences import SENTENCES
from tokenizers_zoo import CORPUS, added, make_transfer, write_tokenizer

from examples.samples import models
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.supertokens.extend import extend
from mergekit_tokenadapt.supertokens.merges import merges_of
from mergekit_tokenadapt.supertokens.reach import unreachable
from mergekit_tokenadapt.supertokens.rules import Rules
from mergekit_tokenadapt.supertokens.texts import Corpus
from mergekit_tokenadapt.texts.builtin import BUILTIN, builtin_text
from mergekit_tokenadapt.tokenizer.files import load_tokenizer
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary
from mergekit_tokenadapt.transfer.matching import Reason


@pytest.mark.parametrize("family", ["unigram", "wordpiece"])
def test_what_has_no_merges_is_refused(family, zoo, corpus):
    with pytest.raises(TokenAdaptError, match="only BPE can be extended"):
        extend(zoo[family], corpus, 10, Rules(), QUIET)


def test_an_added_token_that_would_be_read_as_other_bytes_in_the_model_is_refused(zoo, load, corpus):
    definition = json.loads(json.dumps(zoo["byte-level"].definition))
    definition["added_tokens"].append(added("café", zoo["byte-level"].vocabulary.num_ids, special=False))
    with pytest.raises(TokenAdaptError, match=r"cannot be extended: its added token 'café'"):
        extend(load(definition), corpus, 10, Rules(), QUIET)


def expand(extension, base):
    """New id -> the base's ids that it joins, by undoing new merges."""
    vocabulary = Vocabulary.from_definition(extension.definition, base.role_tokens)
    halves = {}
    for x, y in merges_of(extension.definition):
        whole = vocabulary.by_spelling[x + y].id
        if whole in set(extension.added):
            halves.setdefault(whole, (vocabulary.by_spelling[x].id, vocabulary.by_spelling[y].id))

    def undo(token_id):
        return [i for half in halves[token_id] for i in undo(half)] if token_id in halves else [token_id]

    return undo


@given(text=TEXT)
def test_text_is_segmented_as_before_and_then_joined(extended, text):
    """Undoing every new token gives what the base makes of the text; so text without any stays as it was."""
    base, extension = extended
    undo = expand(extension, base)
    ids = new_ids(extension.definition, text)
    pieces = [i for token_id in ids for i in undo(token_id)]
    old = new_ids(base.definition, text)
    if base.definition["model"].get("byte_fallback"):
        # New characters were spelt in bytes before.
        vocabulary = Vocabulary.from_definition(extension.definition, base.role_tokens)
        old, pieces = (_as_bytes(i, vocabulary) for i in (old, pieces))
    assert pieces == old


def _as_bytes(ids, vocabulary):
    """Tokens, those beyond ASCII as single bytes."""
    tokens = [vocabulary.by_id[i] for i in ids]
    return [part for t in tokens for part in ([t.id] if t.bytes.isascii() else t.bytes)]


@given(text=TEXT)
def test_extended_round_trip(extended, text):
    base, extension = extended
    old, new = plain(base.definition), plain(extension.definition)
    decoded = [t.decode(t.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) for t in (old, new)]
    assert decoded[0] == decoded[1]


def test_texts_are_shorter_and_old_ids_stay(extended, corpus):
    base, extension = extended
    text = "".join(corpus.pieces())[:20000]
    assert len(new_ids(extension.definition, text)) < 0.9 * len(new_ids(base.definition, text))
    vocabulary = Vocabulary.from_definition(extension.definition, base.role_tokens)
    assert vocabulary.tokens[: len(base.vocabulary)] == base.vocabulary.tokens
    assert extension.added == tuple(range(base.vocabulary.num_ids, base.vocabulary.num_ids + 150))
    assert unreachable(extension.definition, vocabulary, extension.added) == []
    assert list(merges_of(extension.definition))[: len(list(merges_of(base.definition)))] == list(
        merges_of(base.definition)
    )


def test_added_ids_are_the_new_rows_of_the_plan(extended, tmp_path):
    base, extension = extended
    folder = write_tokenizer(tmp_path / "out", dict(extension.definition), dict(base.config))
    mapping = make_transfer(base, load_tokenizer(str(folder))).mapping
    assert mapping.ids(Reason.NEW).tolist() == list(extension.added)


def test_words_of_a_domain_are_added_too(zoo, tmp_path):
    file = tmp_path / "law.txt"
    file.write_text("The usufructuary shall indemnify. A usufructuary indemnifies the usufructuary.\n" * 50)
    extension = extend(zoo["byte-level"], Corpus([str(file)]), 80, Rules(), QUIET)
    texts = {t.text for t in Vocabulary.from_definition(extension.definition) if t.id in set(extension.added)}
    assert " usufructuary" in texts


def test_characters_that_the_base_lacks_come_first(zoo, tmp_path):
    text = "நதியின் முடிவில் ஒரு பழைய ஆலை. நதியின் கரையில் ஒரு பழைய மரம்."
    file = tmp_path / "tamil.txt"
    file.write_text((text + "\n") * 60, encoding="utf-8")
    for family in ("byte-level", "sentencepiece-bpe"):
        base = zoo[family]
        extension = extend(base, Corpus([str(file)]), 130, Rules(), QUIET)
        vocabulary = Vocabulary.from_definition(extension.definition, base.role_tokens)
        added = [vocabulary.by_id[i].text for i in extension.added]
        assert any(t is not None and len(t.strip()) == 1 for t in added)
        assert any(t is not None and len(t) > 3 for t in added)
        before, after = (new_ids(d, text) for d in (base.definition, extension.definition))
        assert len(after) < 0.5 * len(before)


def test_lookup_before_merging(zoo, load, corpus):
    """ignore_merges: fine where merges make every token, refused where they do not."""
    definition = json.loads(json.dumps(zoo["byte-level"].definition))
    definition["model"]["ignore_merges"] = True
    base = load(definition)
    extension = extend(base, corpus, 50, Rules(), QUIET)
    assert not extension.definition["model"]["ignore_merges"]
    for text in (*SENTENCES, *CORPUS):
        undo = expand(extension, base)
        assert [i for n in new_ids(extension.definition, text) for i in undo(n)] == new_ids(definition, text)
    vocabulary = definition["model"]["vocab"]
    vocabulary["Ġqwxz"] = len(vocabulary)
    for token in definition["added_tokens"]:
        token["id"] += token["content"] not in vocabulary  # the others come after the vocabulary
    with pytest.raises(TokenAdaptError, match=r"ignore_merges.* 1 of its tokens"):
        extend(load(definition), corpus, 50, Rules(), QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "deepseek_tokenizer", "mistral_tokenizer"])
def test_real_tokenizers_segment_as_before_and_then_join(name, corpus):
    """Extended, they give back their own tokens on every built-in text, once new merges are undone."""
    base = load_tokenizer(str(getattr(models, name)()))
    extension = extend(base, corpus, 200, Rules(), QUIET)
    undo = expand(extension, base)
    old, new = plain(base.definition), plain(extension.definition)
    for text in [document for builtin in BUILTIN for document in builtin_text(builtin).documents] + SENTENCES:
        pieces = [i for n in new.encode(text, add_special_tokens=False).ids for i in undo(n)]
        segmented_before = old.encode(text, add_special_tokens=False).ids
        if base.definition["model"].get("byte_fallback"):
            vocabulary = Vocabulary.from_definition(extension.definition, base.role_tokens)
            segmented_before, pieces = (_as_bytes(i, vocabulary) for i in (segmented_before, pieces))
        assert pieces == segmented_before
    assert len(new.encode(SENTENCES[0]).ids) < len(old.encode(SENTENCES[0]).ids)
