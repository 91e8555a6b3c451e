"""Tiny tokenizers of every family, made from a few lines of own text, and tiny models for them.

Each builder returns the content of ``tokenizer.json`` and of ``tokenizer_config.json``, the same in every
process. (The BPE trainer of `tokenizers` is repeatable as long as its alphabet is not limited; those for
WordPiece and Unigram are not, so these two vocabularies are counted here.) It takes milliseconds, and
nothing is downloaded.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from mergekit_tokenadapt.auxiliary.base import AuxiliarySpace
from mergekit_tokenadapt.methods import find_method
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
from mergekit_tokenadapt.transfer.transfer import Transfer

Definition = dict[str, Any]
Built = tuple[Definition, dict[str, Any]]

CORPUS = [
    "The miller's daughter walked to the river, and the river walked with her to the sea.",
    "She counted the stones: one, two, three, thirteen, thirty, three hundred and thirty-three.",
    "Nothing is heavier than a sack of wet flour; nothing is lighter than the thought of bread.",
    "Walking, talking, baking, making, taking: the words ending in -ing were singing in the ring.",
    "On Monday the cat sat on the mat. On Tuesday the mat sat on the cat! Who would believe that?",
    "Der Müller mahlt das Mehl, die Mühle mahlt am Wasser, und über der Brücke weht ein kühler Wind.",
    "La rivière était très haute cet été; l'eau montait déjà jusqu'à la fenêtre du vieux château.",
    "Река течёт мимо старой мельницы, и мельник считает камни: один, два, три.",
    "Το ποτάμι κυλάει δίπλα στον παλιό μύλο και ο μυλωνάς μετράει τις πέτρες.",
    "小河流过古老的磨坊。磨坊主数着石头:一、二、三。面包很香。",
    "川は古い水車小屋のそばを流れる。パンはとてもおいしいです。",
    "النهر يجري قرب الطاحونة القديمة، والطحان يعد الحجارة.",
    "नदी पुरानी चक्की के पास बहती है और चक्की वाला पत्थर गिनता है।",
    "Bread 🍞 and water 💧 and a happy family 👨‍👩‍👧 by the river 🏞️ 🙂🙂",
    "def count_stones(stones):\n    total = 0\n    for stone in stones:\n        total += stone\n    return total\n",
    "class Mill:\n    def __init__(self, name):\n        self.name = name\n\n    def grind(self):\n        return 1\n",
    'for (int i = 0; i < 10; i++) {\n\tif (a[i] >= b[i] && c != 0) { x = a[i] * 2; }\n}\n\n\n{"key": [1, 2.5, null]}',
    "0 1 2 3 4 5 6 7 8 9 10 11 12 100 1000 1999 2024 2025 3.14159 1,000,000 0xFF 50%",
    "words   with    runs     of      spaces\tand\ttabs\n\nand lines\r\n",
    "the river the river the mill the mill the bread the bread the stone the stone of the of the in the in the",
]
"""Own words: several scripts, code, digits, emoji, runs of white space."""

CHAT_TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def added(content: str, token_id: int, *, special: bool = True, **flags: bool) -> dict[str, Any]:
    """An entry of ``added_tokens``."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": token_id, "content": content, **plain, **flags}


def _define(tokenizer: Tokenizer) -> Definition:
    return json.loads(tokenizer.to_str())


# --- the five families ---------------------------------------------------------------------------


def byte_level() -> Built:
    """GPT-2 style; spells bytes in the printable alphabet. One added token is not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    definition = _define(tokenizer)
    definition["added_tokens"].append(added("<tool>", len(definition["model"]["vocab"]), special=False))
    config = _config(bos="<|im_start|>", eos="<|im_end|>", unk="<|endoftext|>", pad="<|endoftext|>")
    return definition, config | {"chat_template": CHAT_TEMPLATE}


def sentencepiece_bpe() -> Built:
    """Llama style: dummy space, ``▁`` for the space, byte fallback."""
    definition = _sentencepiece(
        ["<unk>", "<s>", "</s>"],
        runs=["▁" * n for n in (2, 4, 8)],
        extra=[],
        vocab_size=450,
    )
    definition["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    definition["decoder"]["decoders"].append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return definition, _config(bos="<s>", eos="</s>", unk="<unk>", pad="</s>")


def gemma_style() -> Built:
    """No dummy space; runs of spaces and newlines are added tokens and entries of the model, with one id.

    Like Gemma's, its vocabulary contains a literal U+0120, which is not a space here.
    """
    runs = ["▁" * n for n in range(2, 9)]
    newlines = ["\n" * n for n in range(2, 5)]
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    definition = _sentencepiece(specials, runs=runs + newlines, extra=["Ġ", "\n"], vocab_size=500)
    definition["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    definition["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    vocabulary = definition["model"]["vocab"]
    definition["added_tokens"] += [added(run, vocabulary[run], special=False) for run in runs + newlines]
    config = _config(bos="<bos>", eos="<eos>", unk="<unk>", pad="<pad>")
    return definition, config


def _sentencepiece(specials: list[str], *, runs: list[str], extra: list[str], vocab_size: int) -> Definition:
    """Specials, 256 byte tokens, runs, then what is learned word by word."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=2, show_progress=False)
    # Some scripts and the emoji are left to the byte tokens.
    tokenizer.train_from_iterator(filter(_is_european, CORPUS), trainer)
    definition = _define(tokenizer)
    learned = sorted(definition["model"]["vocab"], key=definition["model"]["vocab"].__getitem__)
    spellings = list(dict.fromkeys([*specials, *BYTE_TOKENS, *runs, *extra, *learned]))
    merges = definition["model"]["merges"] + [_halves(run) for run in runs]
    definition["model"] |= {
        "vocab": {spelling: i for i, spelling in enumerate(spellings)},
        "merges": merges,
        "byte_fallback": True,
        "fuse_unk": True,
        "unk_token": "<unk>",
    }
    definition["pre_tokenizer"] = None
    definition["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ],
    }
    definition["added_tokens"] = [added(s, i) for i, s in enumerate(specials)]
    return definition


def _halves(run: str) -> list[str]:
    half = len(run) // 2 if len(run) in (2, 4, 8) else len(run) - 1
    return [run[:half], run[half:]]


def unigram() -> Built:
    """T5 or XLM-R style vocabulary (without their normalizer): a Metaspace, no byte fallback."""
    words = Counter("▁" + word for line in CORPUS for word in line.split())
    characters = sorted({character for word in words for character in word})
    pieces = characters + _substrings(words, 260)
    total = sum(words.values())
    scores = [math.log(sum(n for w, n in words.items() if piece in w) / total) - 1 / len(piece) for piece in pieces]
    specials = ["<pad>", "</s>", "<unk>", "<s>"]
    vocab = [(piece, 0.0) for piece in specials] + list(zip(pieces, scores, strict=True))
    tokenizer = Tokenizer(models.Unigram(vocab, specials.index("<unk>"), False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(specials)
    return _define(tokenizer), _config(bos="<s>", eos="</s>", unk="<unk>", pad="<pad>")


def wordpiece() -> Built:
    """BERT style, lower case."""
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    normal = [normalizer.normalize_str(line) for line in CORPUS]
    words = Counter(word for line in normal for word, _ in pre_tokenizer.pre_tokenize_str(line))
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    first = sorted({word[0] for word in words})
    others = sorted({"##" + character for word in words for character in word[1:]})
    frequent = sorted(word for word, count in words.items() if count > 1 and len(word) > 1)
    endings = Counter({word[1:]: count for word, count in sorted(words.items())})
    continued = ["##" + piece for piece in _substrings(endings, 120)]
    spellings = dict.fromkeys([*specials, *first, *others, *frequent, *continued])
    vocab = {spelling: i for i, spelling in enumerate(spellings)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.add_special_tokens(specials)
    return _define(tokenizer), _config(unk="[UNK]", pad="[PAD]", cls="[CLS]", sep="[SEP]", mask="[MASK]")


def _is_european(line: str) -> bool:
    return max(line) < "\u0500"


def _substrings(words: Mapping[str, int], number: int) -> list[str]:
    """The most useful parts of words, of 2 to 6 characters, most useful first."""
    useful: Counter[str] = Counter()
    for word, count in words.items():
        for length in range(2, 7):
            for start in range(len(word) - length + 1):
                useful[word[start : start + length]] += count * (length - 1)
    return sorted(useful, key=lambda piece: (-useful[piece], piece))[:number]


def _config(**roles: str) -> dict[str, Any]:
    tokens = {f"{role}_token": token for role, token in roles.items()}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **tokens}


FAMILIES: Mapping[str, Callable[[], Built]] = {
    "byte-level": byte_level,
    "sentencepiece-bpe": sentencepiece_bpe,
    "gemma-style": gemma_style,
    "unigram": unigram,
    "wordpiece": wordpiece,
}
"""Readable id -> builder."""

# --- other spellings -----------------------------------------------------------------------------


def _bpe(
    pre_tokenizer: Any,
    decoder: Any = None,
    normalizer: Any = None,
    *,
    byte_level: bool = False,
    **signs: str,
) -> Built:
    """A BPE of 450 entries; `signs` are `end_of_word_suffix` and `continuing_subword_prefix`."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **signs))
    tokenizer.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        tokenizer.decoder = decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=["<unk>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()) if byte_level else [],
        show_progress=False,
        **signs,
    )
    tokenizer.train_from_iterator(filter(_is_european, CORPUS), trainer)
    return _define(tokenizer), _config(eos="</s>", unk="<unk>")


def clip() -> Built:
    """Byte-level, lower case, without the space; a sign ends each word."""
    words = Regex(r"'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    cutter = [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    normal = [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    return _bpe(
        pre_tokenizers.Sequence(cutter),
        decoders.ByteLevel(),
        normalizers.Sequence(normal),
        byte_level=True,
        end_of_word_suffix="</w>",
    )


def gpt1() -> Built:
    """A sign ends each word, and the decoder makes a space of it."""
    normalizer, cutter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    return _bpe(cutter, decoders.BPEDecoder("</w>"), normalizer, end_of_word_suffix="</w>")


def continued_bpe() -> Built:
    """BPE whose entries say, as WordPiece's do, that they continue a word."""
    return _bpe(pre_tokenizers.Whitespace(), decoders.WordPiece(cleanup=False), continuing_subword_prefix="##")


def bare_bpe() -> Built:
    """BPE without a decoder, on words without their spaces."""
    return _bpe(pre_tokenizers.Whitespace())


def underscore() -> Built:
    """A Metaspace with another sign."""
    cutter = pre_tokenizers.Metaspace(replacement="_", prepend_scheme="always")
    return _bpe(cutter, decoders.Metaspace(replacement="_"))


def regex_marker() -> Built:
    """The space's sign is written as a regular expression, on both ways."""
    cutter = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
    decoder = decoders.Sequence([decoders.Replace(Regex("▁"), " "), decoders.Fuse()])
    return _bpe(cutter, decoder, normalizers.Sequence([normalizers.Replace(Regex(" "), "▁")]))


def byte_normalizer() -> Built:
    """Bytes are spelt by the normalizer, and split afterwards."""
    cutter = pre_tokenizers.Split(Regex("Ġ"), "merged_with_next")
    return _bpe(cutter, decoders.ByteLevel(), normalizers.ByteLevel(), byte_level=True)


def wordlevel() -> Built:
    """Whole words only."""
    cutter = pre_tokenizers.Whitespace()
    words = sorted({word for line in CORPUS for word, _ in cutter.pre_tokenize_str(line)})
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", "</s>", *words])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = cutter
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return _define(tokenizer), _config(eos="</s>", unk="<unk>")


def byte_unigram() -> Built:
    """Unigram over the byte alphabet."""
    definition, _ = byte_level()
    pieces = [s for s in definition["model"]["vocab"] if not s.startswith("<|")]
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), *((p, -9.0 + len(p)) for p in pieces)], 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return _define(tokenizer), _config(eos="</s>", unk="<unk>")


OTHER_SPELLINGS: Mapping[str, Callable[[], Built]] = {
    "clip": clip,
    "gpt1": gpt1,
    "continued-bpe": continued_bpe,
    "bare-bpe": bare_bpe,
    "underscore": underscore,
    "regex-marker": regex_marker,
    "byte-normalizer": byte_normalizer,
    "wordlevel": wordlevel,
    "byte-unigram": byte_unigram,
}
"""Readable id -> builder, of forms that are rarer. They are not paired with each other."""

LOSSLESS = ("byte-level", "sentencepiece-bpe", "gemma-style")
"""Families that can express any byte."""

PAIRS = [(base, target) for base in FAMILIES for target in FAMILIES if base != target]
"""Every ordered pair of families."""

PAIR_IDS = [f"{base}->{target}" for base, target in PAIRS]


# --- folders and models --------------------------------------------------------------------------


def write_tokenizer(folder: Path, definition: Definition, config: Mapping[str, Any] | None = None) -> Path:
    """Write tokenizer.json and, where given, tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(definition, ensure_ascii=False), encoding="utf-8")
    if config is not None:
        text = json.dumps(config, ensure_ascii=False, indent=2)
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return folder


def tiny_model_folder(
    tokenizer_folder: Path,
    path: Path,
    tied: bool = True,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    rows: int | None = None,
) -> Path:
    """A real LlamaForCausalLM with seeded random weights, saved with the tokenizer's files.

    Args:
        tokenizer_folder: a folder of the zoo.
        path: where to save; made if missing.
        tied: whether one matrix serves as input and output embedding.
        dtype: of the saved weights.
        seed: of the weights.
        rows: ``vocab_size``; the highest id + 1 by default.
    """
    import transformers

    files = _files_of(tokenizer_folder)
    roles = files.vocabulary.roles
    ids = {
        "bos_token_id": roles.get("bos", roles.get("cls")),
        "eos_token_id": roles.get("eos", roles.get("sep")),
        "pad_token_id": roles.get("pad"),
    }
    config = transformers.LlamaConfig(
        vocab_size=rows or files.vocabulary.num_ids,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():  # larger than the usual 0.02, so that logits differ
                if parameter.dim() > 1:
                    parameter.normal_(std=0.2)
    model = model.to(dtype)
    model.config.dtype = dtype
    model.generation_config = transformers.GenerationConfig(**ids)
    model.save_pretrained(path)
    for file in files.files():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def _files_of(folder: Path) -> TokenizerFiles:
    from mergekit_tokenadapt.tokenizer.files import load_tokenizer

    return load_tokenizer(str(folder))


# --- variations ----------------------------------------------------------------------------------


def renumbered(definition: Definition, new_id: Callable[[int], int]) -> Definition:
    """The same tokenizer with other ids, for models whose vocabulary is a mapping; it may leave gaps.

    Added tokens become entries of the model too: `tokenizers` gives any other the next free id.
    """
    result = copy.deepcopy(definition)
    known = {entry["content"]: entry["id"] for entry in definition["added_tokens"]} | definition["model"]["vocab"]
    result["model"]["vocab"] = {s: new_id(i) for s, i in known.items()}
    result["added_tokens"] = [{**entry, "id": new_id(entry["id"])} for entry in definition["added_tokens"]]
    return result


def permutation(size: int, seed: int = 0) -> list[int]:
    """A seeded permutation of ``range(size)``."""
    ids = list(range(size))
    random.Random(seed).shuffle(ids)
    return ids


def shuffled_entries(definition: Definition, seed: int = 0) -> Definition:
    """The same tokenizer, its entries written in another order."""
    result = copy.deepcopy(definition)
    rng = random.Random(seed)
    if isinstance(result["model"]["vocab"], dict):  # the places in Unigram's list are its ids
        entries = list(result["model"]["vocab"].items())
        rng.shuffle(entries)
        result["model"]["vocab"] = dict(entries)
    rng.shuffle(result["added_tokens"])
    return result


def plain_definition(
    vocabulary: Mapping[str, int] | Sequence[str],
    added_tokens: Iterable[Mapping[str, Any]] = (),
    *,
    decoder: Mapping[str, Any] | None = None,
    pre_tokenizer: Mapping[str, Any] | None = None,
    normalizer: Mapping[str, Any] | None = None,
    **model: Any,
) -> Definition:
    """A definition by hand: BPE without merges unless `model` says otherwise."""
    if not isinstance(vocabulary, Mapping):
        vocabulary = {spelling: i for i, spelling in enumerate(vocabulary)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [dict(entry) for entry in added_tokens],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {"type": "BPE", "merges": [], "vocab": dict(vocabulary), **model},
    }


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
"""A ByteLevel pre-tokenizer or decoder."""

METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
"""A Metaspace pre-tokenizer or decoder."""


# --- problems ------------------------------------------------------------------------------------


class RandomSpace(AuxiliarySpace):
    """A seeded random vector for every text; the zero vector for the texts in `unknown`."""

    def __init__(self, dimensions: int = 16, seed: int = 0, unknown: Iterable[str] = ()) -> None:
        self.dimensions = dimensions
        self.seed = seed
        self.unknown = frozenset(unknown)

    @classmethod
    def from_argument(cls, argument: str | None) -> RandomSpace:
        return cls()

    def vector(self, text: str) -> list[float]:
        if text in self.unknown:
            return [0.0] * self.dimensions
        rng = random.Random(f"{self.seed}:{text}")
        return [rng.gauss(0, 1) for _ in range(self.dimensions)]

    def embed(self, texts: Sequence[str], *, device: torch.device, quiet: bool = False) -> Tensor:
        assert len(set(texts)) == len(texts), "texts have to be distinct"
        assert list(texts) == sorted(texts), "texts have to be sorted"
        return torch.tensor([self.vector(text) for text in texts], dtype=torch.float32)


def make_transfer(
    base: TokenizerFiles | tuple[Definition, Vocabulary],
    target: TokenizerFiles | Vocabulary,
    auxiliary: AuxiliarySpace | None = None,
    *,
    base_rows: int | None = None,
    num_rows: int | None = None,
    token_map: Mapping[str, str] | None = None,
) -> Transfer:
    """A transfer between two tokenizers with the method `mean`; see `with_method` for others."""
    old = base if isinstance(base, TokenizerFiles) else files_of(*base)
    return Transfer.of(
        AdaptConfig(method="mean", rows="exact", token_map=token_map or {}),
        base=old,
        target=target if isinstance(target, TokenizerFiles) else files_of({}, target),
        base_rows=old.vocabulary.num_ids if base_rows is None else base_rows,
        num_rows=num_rows,
        auxiliary=auxiliary,
        quiet=True,
    )


def files_of(definition: Definition, vocabulary: Vocabulary) -> TokenizerFiles:
    """A tokenizer that is in memory only."""
    files = TokenizerFiles("in memory", Path("in memory"), definition, {}, {})
    files.__dict__["vocabulary"] = vocabulary  # what would be read from the definition
    return files


def with_method(transfer: Transfer, name: str, **options: Any) -> Transfer:
    """The same transfer with another method."""
    return dataclasses.replace(transfer, method_name=name, method=find_method(name, options))
