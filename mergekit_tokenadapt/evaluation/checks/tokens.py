"""Check the tokenizer: round trips, unreachable tokens, markers of chat templates, and its class in transformers."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

from tokenizers import Tokenizer

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.evaluation.checks.finding import Finding, Status, passed_unless
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.output import MANIFEST, markers, stray_markers
from mergekit_tokenadapt.output.start_tokens import lost_start_token
from mergekit_tokenadapt.texts import builtin_text
from mergekit_tokenadapt.tokenizer.auto_tokenizer import auto_tokenizer
from mergekit_tokenadapt.tokenizer.encoded_text import leading_tokens
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, read_json
from mergekit_tokenadapt.tokenizer.segmentation import Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import Definition, Token, TokenKind, components

MAX_EXAMPLES = 20
"""Most unreachable tokens that the details list."""


def check_chat_template(model: ModelFolder, base: ModelFolder | None = None) -> Finding:
    """Check that markers such as ``<|im_start|>`` in chat templates are single tokens, and that the base's template is
    kept.
    """
    templates = model.tokenizer.chat_templates
    if not templates:
        return _no_template(model, base)
    found = sorted({m for template in templates.values() for m in markers(template)})
    stray = sorted({m for template in templates.values() for m in stray_markers(template, model.tokenizer)})
    problems = [f"{marker!r} is not one token" for marker in stray]
    return passed_unless(problems, "chat template", f"every marker is one token ({len(found)})", markers=found)


def _no_template(model: ModelFolder, base: ModelFolder | None) -> Finding:
    """Describe a model without a chat template. The base model or the manifest tells whether the base had one."""
    manifest = read_json(model.folder / MANIFEST)
    if manifest.get("lost_chat_template") is True or (base is not None and base.tokenizer.chat_templates):
        message = "none, and the base model has one: --chat-template base (chat_template: base) keeps it"
        # This may be intended: the model is sound, only without a chat template.
        return Finding("chat template", Status.NOTED, message)
    return Finding("chat template", Status.PASSED, "none")


def check_start_token(model: ModelFolder, base: ModelFolder | None = None) -> Finding:
    """Check that the tokenizer puts a token before each text where that of the base model does."""
    leading, by_id = leading_tokens(model.tokenizer), model.tokenizer.vocabulary.by_id
    if unknown := [i for i in leading if i not in by_id]:
        return Finding(
            "start token", Status.FAILED, f"tokenizer.json puts ids before each text that no token has: {unknown}"
        )
    found = [by_id[i].spelling for i in leading]
    if found:
        return Finding("start token", Status.PASSED, f"{' '.join(found)} before each text")
    lost = read_json(model.folder / MANIFEST).get("lost_start_token")
    if base is not None and (token := lost_start_token(base.tokenizer, model.tokenizer)) is not None:
        lost = token.spelling
    if lost is None:
        return Finding("start token", Status.PASSED, "none")
    message = f"none, and the base model reads {lost!r} before each text: transplant --start-token base "
    return Finding("start token", Status.NOTED, message + "(start_token: base) puts a token with its row there")


# --- round trips ---------------------------------------------------------------------------------


def check_round_trip(tokenizer: TokenizerFiles) -> Finding:
    """Check that difficult texts decode to themselves: many scripts, emoji, control characters, white space, repaired
    bytes.

    A tokenizer with a normalizer may change the spelling (compatibility forms, case, white space at the ends), and one
    that writes spaces as U+2581 cannot tell the two apart. Such texts are counted and do not fail. Lost or replaced
    characters fail.
    """
    may_respell = respells(tokenizer.definition)
    library = tokenizer.fast_tokenizer()
    hard = builtin_text("hard").documents
    outcomes = {text: round_trip(library, text, may_respell=may_respell) for text in hard}
    lossy = [text for text, outcome in outcomes.items() if outcome == "lossy"]
    problems = [f"{_shorten(text)} comes back as {_shorten(_there_and_back(library, text))}" for text in lossy]
    counts = Counter(outcomes.values())
    good = f"{counts['exact']} of {len(hard)} hard texts exact"
    if counts["normalised"]:
        good += f", {counts['normalised']} as the tokenizer's normalizer spells them"
    return passed_unless(problems, "round trip", good, **{k: counts[k] for k in ("exact", "normalised", "lossy")})


def respells(definition: Definition) -> bool:
    """Return whether decoding may give another spelling, because the tokenizer has a normalizer or a Metaspace."""
    front = components(definition.get("pre_tokenizer"))
    return definition.get("normalizer") is not None or any(part["type"] == "Metaspace" for part in front)


def round_trip(library: Tokenizer, text: str, *, may_respell: bool) -> str:
    """Return ``exact``, ``normalised`` (another spelling, if `may_respell`) or ``lossy``."""
    back = _there_and_back(library, text)
    if back == text:
        return "exact"
    return "normalised" if may_respell and _skeleton(back) == _skeleton(text) else "lossy"


def _there_and_back(library: Tokenizer, text: str) -> str:
    ids = library.encode(text, add_special_tokens=False).ids
    back: str = library.decode(ids, skip_special_tokens=False)
    return back


def _skeleton(text: str) -> str:
    """Return what normalizers keep: letters without case, compatibility forms, marks and white space."""
    decomposed = unicodedata.normalize("NFKD", text.replace("▁", " ")).casefold()
    return "".join(c for c in decomposed if not c.isspace() and unicodedata.category(c)[0] not in "MC")


def _shorten(text: str, length: int = 40) -> str:
    return repr(text if len(text) <= length else text[: length - 3] + "...")


# --- unreachable tokens --------------------------------------------------------------------------


def check_unreachable(tokenizer: TokenizerFiles) -> Finding:
    """Count the tokens that the tokenizer never produces from their own text, by kind.

    This is the test of Land and Bartolo, "Fishing for Magikarp" (arXiv 2405.05417, section 3.1): decode and encode
    again. A token that is a part of a character has no text of its own, and is counted separately.
    """
    unreachable, partial = unreachable_tokens(tokenizer)
    counts = Counter(token.kind.value for token in unreachable)
    words = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())) or "none"
    details: dict[str, Any] = {
        "by_kind": dict(sorted(counts.items())),
        "parts_of_characters": partial,
        "examples": [{"id": t.id, "text": t.label, "kind": t.kind.value} for t in unreachable[:MAX_EXAMPLES]],
    }
    message = f"{words}; {partial:,} tokens are part of a character and cannot be tested"
    return Finding("unreachable tokens", Status.NOTED if unreachable else Status.PASSED, message, details)


def unreachable_tokens(tokenizer: TokenizerFiles) -> tuple[list[Token], int]:
    """Return the tokens that do not encode to themselves, by id, and the number of tokens that have no text."""
    vocabulary = tokenizer.vocabulary
    plain = [t for t in vocabulary if t.kind in (TokenKind.ORDINARY, TokenKind.BYTE) and t.text is not None]
    control = [t for t in vocabulary if t.kind in (TokenKind.SPECIAL, TokenKind.ADDED)]
    pieces = Segmenter(tokenizer.definition, vocabulary).segment([t.bytes for t in plain])
    unreachable = [t for n, t in enumerate(plain) if pieces[n].tolist() != [t.id]]
    library = tokenizer.fast_tokenizer()
    # Special tokens are encoded from their spelling, because chat templates contain the spelling.
    encoded = library.encode_batch([t.spelling for t in control], add_special_tokens=False)
    unreachable += [t for t, encoding in zip(control, encoded, strict=True) if t.id not in encoding.ids]
    return sorted(unreachable), len(vocabulary) - len(plain) - len(control)


# --- transformers --------------------------------------------------------------------------------


def check_transformers_agrees(model: ModelFolder) -> Finding:
    """Check that AutoTokenizer gives the ids of tokenizer.json. Its class may change parts of the tokenizer when
    loading.
    """
    try:
        loaded = auto_tokenizer(model.tokenizer.folder, trust_remote_code=model.trust_remote_code)
    except TokenAdaptError as error:  # loading runs code of the tokenizer's class, which may fail
        return Finding("transformers", Status.FAILED, error.message)
    library = model.tokenizer.fast_tokenizer()
    problems = []
    for name in ("hard", "code", "prose"):
        for text in builtin_text(name).documents:
            if loaded(text, add_special_tokens=False).input_ids != library.encode(text, add_special_tokens=False).ids:
                problems.append(f"AutoTokenizer encodes {_shorten(text)} differently from tokenizer.json")
    return passed_unless(problems, "transformers", f"AutoTokenizer ({type(loaded).__name__}) gives the same ids")
