"""A thousand tokenizers nobody thought of: trained on random text, in all four families, matched, planned, saved."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers_zoo import BYTE_TOKENS, Definition, added, make_transfer, write_tokenizer

from mergekit_tokenadapt.output import OutputFolder
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, load_tokenizer
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind, byte_alphabet
from mergekit_tokenadapt.transfer.matching import Reason
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.plan_files import load_plan

NUM_TOKENIZERS = 1000
BATCH = 50
"""Tokenizers made in one test."""

SCRIPTS = (
    "abcdefgh",
    "etaoinshrdlu  ",
    "ABCxyz0123456789",
    "äöüßéèçñ",
    "абвгдежз",
    "αβγδεζ",
    "小河流过古老",
    "かなカナ",
    "नदीपुर\u093e\u094d",
    "🍞💧🙂👨\u200d👩",
    "ĠĊ▁#<>0xA/w|",
    "   \t\n\r",
    ".,;:!?()[]{}'\"-_\\",
    "e\u0301\u00a0\u3000\u200b\ufeff",
)


def random_text(rng: random.Random) -> list[str]:
    """Lines of made-up words from a few scripts; some words come again and again."""
    letters = "".join(rng.sample(SCRIPTS, rng.randint(1, 4)))
    words = ["".join(rng.choices(letters, k=rng.randint(1, 7))) for _ in range(rng.randint(5, 40))]
    gaps = rng.choice([" ", " ", "  ", "\n", ""])
    return [gaps.join(rng.choices(words, k=rng.randint(3, 30))) for _ in range(rng.randint(2, 8))]


def byte_level(rng: random.Random, lines: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=rng.random() < 0.3)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = byte_alphabet() if rng.random() < 0.7 else []
    trainer = trainers.BpeTrainer(vocab_size=rng.randint(270, 420), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def sentencepiece(rng: random.Random, lines: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if rng.random() < 0.5 else replace
    members = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(members)
    specials = ["<unk>", *BYTE_TOKENS]
    trainer = trainers.BpeTrainer(vocab_size=rng.randint(270, 420), special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    definition = json.loads(tokenizer.to_str())
    definition["added_tokens"] = definition["added_tokens"][:1]
    return Tokenizer.from_str(json.dumps(definition))


def frequent_pieces(words: Counter[str], size: int) -> list[tuple[str, int]]:
    """Parts of words of up to 4 characters and how often they occur, the most useful first, and all characters.

    In place of the trainers of Unigram and WordPiece, which are not repeatable.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for length in range(1, 5):
            for start in range(len(word) - length + 1):
                counts[word[start : start + length]] += count
    useful = sorted(counts, key=lambda piece: (len(piece) > 1, -counts[piece] * len(piece), piece))
    return [(piece, counts[piece]) for piece in useful[:size]]


def unigram(rng: random.Random, lines: list[str]) -> Tokenizer:
    words = Counter("▁" + word for line in lines for word in line.split())
    pieces = frequent_pieces(words, rng.randint(20, 200))
    total = sum(count for _, count in pieces)
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((p, math.log(n / total)) for p, n in pieces)], 0, False))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer


def wordpiece(rng: random.Random, lines: list[str]) -> Tokenizer:
    words = Counter(word for line in lines for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(line))
    size = rng.randint(20, 100)
    starts = [word for word, _ in frequent_pieces(Counter({w[:4]: n for w, n in words.items()}), size)]
    ends = [f"##{piece}" for piece, _ in frequent_pieces(Counter({w[1:]: n for w, n in words.items()}), size)]
    vocab = {spelling: i for i, spelling in enumerate(dict.fromkeys(["[UNK]", *starts, *ends]))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(["[UNK]"])
    return tokenizer


FAMILIES = (byte_level, sentencepiece, unigram, wordpiece)


def random_tokenizer(seed: int) -> tuple[Definition, dict[str, Any]]:
    """A trained tokenizer with random added tokens, special ones among them, and perhaps gaps between the ids."""
    rng = random.Random(seed)
    tokenizer = FAMILIES[seed % 4](rng, random_text(rng))
    definition = json.loads(tokenizer.to_str())
    known = set(tokenizer.get_vocab())
    next_id = max(tokenizer.get_vocab().values()) + 1
    extra = ["<s>", "</s>", "<pad>", "<|end|>", "▁▁", "Ġx", "\n\n", "<0x0A>", "a b", "ä"]
    roles = {}
    is_list = isinstance(definition["model"]["vocab"], list)
    for content in rng.sample(extra, rng.randint(0, 5)):
        if content in known:
            continue
        special = content.startswith("<") and rng.random() < 0.8
        if not is_list:  # an entry of the model as well, so that its id may be any
            next_id += rng.choice([0, 0, 0, 3])
            definition["model"]["vocab"][content] = next_id
        definition["added_tokens"].append(added(content, next_id, special=special))
        next_id += 1
        if special:
            roles[f"{rng.choice(['bos', 'eos', 'pad'])}_token"] = content
    return definition, roles


def load(folder: Path, seed: int) -> TokenizerFiles:
    definition, roles = random_tokenizer(seed)
    return load_tokenizer(str(write_tokenizer(folder / str(seed), definition, roles)))


def check_tokens(files: TokenizerFiles) -> None:
    """The library agrees about every token that is text: it decodes to it, or, outside the model, is found in it."""
    fast, vocabulary = files.fast_tokenizer(), files.vocabulary
    model = files.definition["model"]
    assert {t.spelling: t.id for t in vocabulary} == fast.get_vocab()
    entries = {piece for piece, _ in model["vocab"]} if isinstance(model["vocab"], list) else set(model["vocab"])
    letters = (t for t in vocabulary if t.kind is TokenKind.ORDINARY and t.spelling.isalpha() and t.spelling.isascii())
    anchor = next(letters, None)
    for token in vocabulary:
        if token.text is None or token.kind is TokenKind.SPECIAL:
            continue
        if token.spelling not in entries:
            assert token.id in fast.encode(token.text, add_special_tokens=False).ids
        elif anchor is not None and model["type"] != "WordPiece":
            decoded = fast.decode([anchor.id, token.id], skip_special_tokens=False)
            assert decoded == fast.decode([anchor.id], skip_special_tokens=False) + token.text, token


def check_plan(plan: TransferPlan, base: TokenizerFiles, target: TokenizerFiles, base_rows: int) -> None:
    """False pairs, missed pairs, rows with two origins, weights that do not add up, rows that are not there."""
    mapping, new = plan.mapping, target.vocabulary
    usable = [t for t in base.vocabulary if t.id < base_rows and t.kind is not TokenKind.SPECIAL]
    contents = {t.bytes for t in usable}
    for token in new:
        source, reason = int(mapping.sources[token.id]), mapping.reasons[token.id]
        if token.kind is TokenKind.SPECIAL:
            assert reason == (Reason.SPECIAL if source >= 0 else Reason.NEW)
            continue
        assert (reason == Reason.COPIED) == (token.bytes in contents), token
        if reason == Reason.COPIED:
            assert base.vocabulary.by_id[source].bytes == token.bytes
            assert source < base_rows
    assert set(mapping.ids(Reason.PADDING)) == set(range(plan.num_rows)) - {t.id for t in new}
    origins = torch.cat([plan.copied_ids, plan.composed_ids, plan.mean_ids])
    assert sorted(origins.tolist()) == list(range(plan.num_rows))
    assert sum(mapping.counts().values()) == plan.num_rows
    if len(plan.composition):
        sums = torch.zeros(len(plan.composition)).index_add_(0, plan.composition.rows, plan.composition.weights)
        torch.testing.assert_close(sums, torch.ones(len(sums)))
        assert plan.composition.ids.max() < base_rows
        assert (plan.composition.weights > 0).all()


def check_rows(plan: TransferPlan, base_rows: int) -> None:
    old = torch.randn(base_rows, 4, generator=torch.Generator().manual_seed(0))
    rows = plan.apply(old).rows
    assert rows.shape == (plan.num_rows, 4)
    assert rows.isfinite().all()
    assert torch.equal(rows[plan.copied_ids], old[torch.from_numpy(plan.mapping.sources)[plan.copied_ids]])
    made = torch.cat([plan.copied_ids, plan.composed_ids])
    if len(plan.mean_ids) and len(made) > 1 and not plan.mapping.is_identity:
        logits = rows @ torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
        assert (logits[plan.mean_ids].amax(0) <= logits[made].amax(0) + 1e-5).all()


def check_saving(plan: TransferPlan, base: TokenizerFiles, target: TokenizerFiles, out: Path) -> None:
    """The plan comes back, the tokenizer files are copies, and every id in the configs is a token of the target."""
    model = out / "base"
    model.mkdir(parents=True)
    ids = {f"{role}_token_id": i for role, i in base.vocabulary.roles.items()}
    eos = [t.id for t in base.vocabulary][-3:]
    (model / "generation_config.json").write_text(json.dumps({**ids, "eos_token_id": eos}), encoding="utf-8")
    (out / "config.json").write_text(json.dumps({**ids, "vocab_size": base.vocabulary.num_ids}), encoding="utf-8")
    adapt = {"method": "mean", "chat_template": "target", "start_token": "target", "save_plan": True}
    folder = OutputFolder(base, model, target, plan.num_rows, "vocab_size", adapt, (("base", model),), (plan,))
    folder.with_plans([plan]).save_pretrained(str(out))
    again = load_plan(out / "tokenadapt.plan")
    np.testing.assert_array_equal(again.mapping.sources, plan.mapping.sources)
    assert torch.equal(again.composition.weights, plan.composition.weights)
    assert (
        again.counts()
        == plan.counts()
        == json.loads((out / "tokenadapt.json").read_text())["inputs"][0]["rows_by_reason"]
    )
    for file in target.files():
        assert (out / file.name).read_bytes() == file.read_bytes()
    assert load_tokenizer(str(out)).vocabulary == target.vocabulary
    for name in ("config.json", "generation_config.json"):
        written = json.loads((out / name).read_text())
        for key, value in written.items():
            if key.endswith("_token_id") and value is not None:
                assert set(value if isinstance(value, list) else [value]) <= set(target.vocabulary.by_id), key


@pytest.mark.parametrize("first", range(0, NUM_TOKENIZERS, BATCH))
def test_random_tokenizers_keep_every_promise(tmp_path: Path, first: int) -> None:
    """Each of the batch onto the next one, which is of another family, and onto itself."""
    made = [load(tmp_path, seed) for seed in range(first, first + BATCH)]
    for n, base in enumerate(made):
        target = made[(n + 1) % BATCH]
        check_tokens(base)
        rng = random.Random(first + n)
        base_rows = base.vocabulary.num_ids + rng.choice([0, 0, 5, -7])
        num_rows = target.vocabulary.num_ids + rng.choice([0, 0, 13])
        plan = make_transfer(base, target, num_rows=num_rows, base_rows=base_rows).make_plan()
        check_plan(plan, base, target, base_rows)
        check_rows(plan, base_rows)
        check_saving(plan, base, target, tmp_path / f"out-{n}")
        itself = make_transfer(base, base).make_plan()
        assert itself.mapping.is_identity
        old = torch.randn(base.vocabulary.num_ids, 2)
        assert torch.equal(itself.apply(old).rows, old)


def test_random_tokenizers_are_the_same_in_every_run(tmp_path: Path) -> None:
    """So that a failure above can be looked at."""
    for seed in range(8):
        assert random_tokenizer(seed) == random_tokenizer(seed)
    assert len({json.dumps(random_tokenizer(seed)[0]) for seed in range(8)}) == 8
