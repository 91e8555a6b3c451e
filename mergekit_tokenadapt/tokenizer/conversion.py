"""Convert tokenizers that have no `tokenizer.json`: SentencePiece, tekken, tiktoken, lists of words and merges."""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.errors import TokenAdaptError, first_line, one_error
from mergekit_tokenadapt.storage.temporary_folder import TemporaryFolder
from mergekit_tokenadapt.storage.whole_files import check_fetched, what_is_there
from mergekit_tokenadapt.tokenizer.auto_tokenizer import quiet_transformers

SUFFIXES = frozenset((".model", ".spm", ".txt", ".tiktoken", ".bpe", ".codes", ".vocab"))
"""Suffixes of vocabulary files that are not JSON."""


def convert(name: str, folder: Path, *, trust_remote_code: bool = False) -> TemporaryFolder:
    """Convert a tokenizer without `tokenizer.json`, and save the result into a temporary folder.

    Args:
        name: what the user wrote, for messages.
        folder: the folder of the tokenizer's files.
        trust_remote_code: whether code from the folder may run.

    Raises:
        TokenAdaptError: the folder holds no vocabulary file, a file is incomplete, or transformers cannot convert it.
    """
    vocabularies = [f for f in sorted(folder.iterdir()) if f.suffix in SUFFIXES or f.name in ("vocab.json", TEKKEN)]
    for file in vocabularies:
        check_fetched(file)
    if not vocabularies and not trust_remote_code:
        raise TokenAdaptError(
            f"{name!r} holds no tokenizer.json or other file of a tokenizer{what_is_there(folder, wanted='tokenizer')}"
        )
    tokenizer = _reader(vocabularies)(folder, trust_remote_code)
    if not getattr(tokenizer, "is_fast", False):
        raise TokenAdaptError(
            f"{name!r} has only a slow tokenizer ({type(tokenizer).__name__}), whose vocabulary cannot be read; "
            "convert it to a tokenizer.json first"
        )
    # Otherwise `save_pretrained` copies the source file under a name that stands for another format.
    tokenizer.vocab_file = None
    temporary = TemporaryFolder()
    tokenizer.save_pretrained(temporary.name)
    return temporary


Reader = Callable[[Path, bool], Any]
"""(folder, whether code from the folder may run) -> a transformers tokenizer."""


def _reader(vocabularies: list[Path]) -> Reader:
    names = [file.name for file in vocabularies]
    if TEKKEN in names:
        return _read_tekken
    has_other = any(name.endswith((".model", ".spm")) or name.startswith(("vocab.", "merges.")) for name in names)
    has_tiktoken = any(name.endswith(".tiktoken") for name in names)
    return _read_tiktoken if has_tiktoken and not has_other else _read_by_class


def _read_by_class(folder: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:
        raise TokenAdaptError(
            f"{str(folder)!r} holds no tokenizer.json, and transformers cannot make one from its other files: "
            f"{first_line(error)}"
        ) from error


# --- tekken (Mistral) ----------------------------------------------------------------------------

TEKKEN = "tekken.json"
TEKKEN_SPECIALS = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
]
"""Special tokens, by id, of tekken files that list none (`Tekkenizer.DEPRECATED_SPECIAL_TOKENS` in mistral-common)."""


def _read_tekken(folder: Path, _trust_remote_code: bool) -> Any:
    """Read Mistral's tekken.json with transformers' converter."""
    with one_error(f"{folder / TEKKEN} cannot be read as Mistral's tekken.json"):
        from transformers.integrations.mistral import convert_tekken_tokenizer

        content = json.loads((folder / TEKKEN).read_text(encoding="utf-8"))
        if content.get("special_tokens") is None:
            content["special_tokens"] = [{"rank": n, "token_str": s} for n, s in enumerate(TEKKEN_SPECIALS)]
        with tempfile.TemporaryDirectory(prefix="tokenadapt-") as temporary, quiet_transformers():
            # The converter takes a file, so the completed content is written to a copy.
            file = Path(temporary) / TEKKEN
            file.write_text(json.dumps(content), encoding="utf-8")
            for template in ("chat_template.jinja", "chat_template.json"):
                if (folder / template).is_file():
                    (Path(temporary) / template).write_bytes((folder / template).read_bytes())
            return convert_tekken_tokenizer(str(file))


# --- tiktoken (OpenAI, Qwen) ---------------------------------------------------------------------

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Tiktoken:
    """The parts of a tokenizer that a `.tiktoken` file does not hold. The file holds only tokens and their ranks."""

    pattern: str
    """The regular expression of the pre-tokenizer."""
    num_ranks: int
    """Number of entries in the file. A file with another number belongs to another tokenizer."""
    specials: dict[str, int] = field(default_factory=dict)
    """Special token -> id."""
    roles: dict[str, str] = field(default_factory=dict)
    """Role -> special token."""
    normalizer: str | None = None
    """Unicode normalization form that is applied first (``NFC``); None for none."""


_END = {"eos": "<|endoftext|>", "bos": "<|endoftext|>", "unk": "<|endoftext|>"}
_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205)))
TIKTOKENS = {
    "r50k_base": Tiktoken(_GPT2, 50256, {"<|endoftext|>": 50256}, _END),
    "p50k_base": Tiktoken(_GPT2, 50280, {"<|endoftext|>": 50256}, _END),
    "cl100k_base": Tiktoken(
        _WORDS % "{1,3}",
        100256,
        {
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
        _END,
    ),
    "o200k_base": Tiktoken(_O200K, 199998, {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}, _END),
    "qwen": Tiktoken(
        _WORDS % "", 151643, {s: 151643 + n for n, s in enumerate(_QWEN)}, {"eos": "<|endoftext|>"}, normalizer="NFC"
    ),
}
"""File name without suffix -> the rest of the tokenizer (from tiktoken's openai_public.py and Qwen's repository)."""


def _read_tiktoken(folder: Path, _trust_remote_code: bool) -> Any:
    """Read a `.tiktoken` file of a known tokenizer.

    Raises:
        TokenAdaptError: the tokenizer is not one of `TIKTOKENS`.
    """
    file = sorted(folder.glob("*.tiktoken"))[0]
    known = TIKTOKENS.get(file.stem)
    ranks = _ranks(file)
    if known is None or known.num_ranks != len(ranks):
        raise TokenAdaptError(
            f"{file} holds {len(ranks):,} tokens, but neither the pre-tokenizer's pattern nor the special tokens, "
            f"which are known for {', '.join(sorted(TIKTOKENS))} only: use the model's tokenizer.json"
        )
    return _completed(ranks, known)


def _ranks(file: Path) -> dict[bytes, int]:
    """Read token -> rank from a `.tiktoken` file. Each line holds a token in base64 and its rank.

    Raises:
        TokenAdaptError: the file has another format.
    """
    try:
        lines = [line.split() for line in file.read_bytes().splitlines() if line]
        return {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (ValueError, binascii.Error) as error:
        raise TokenAdaptError(f"{file} is no list of tokens and ranks: {first_line(error)}") from error


def _completed(ranks: dict[bytes, int], known: Tiktoken) -> Any:
    from tokenizers import AddedToken, normalizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):  # type: ignore[misc]
        """transformers' converter with the ranks given, because its own reader needs the package tiktoken."""

        @staticmethod
        def load_tiktoken_bpe(_file: str) -> dict[bytes, int]:
            return ranks

    tokenizer = Converter("", pattern=known.pattern).converted()
    if known.normalizer is not None:
        tokenizer.normalizer = getattr(normalizers, known.normalizer)()
    definition = json.loads(tokenizer.to_str())
    # `tokenizers` gives an added token that is no entry of the model the next free id, not its own.
    definition["model"]["vocab"] |= known.specials
    whole = type(tokenizer).from_str(json.dumps(definition))
    whole.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in known.specials])
    return PreTrainedTokenizerFast(tokenizer_object=whole, **{f"{role}_token": s for role, s in known.roles.items()})
