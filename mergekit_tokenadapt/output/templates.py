"""Choose the output's chat templates, warn about markers that are not one token, and write the templates."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError, one_error
from mergekit_tokenadapt.output.configs import write_json
from mergekit_tokenadapt.output.requirements import as_token_map, suggest_tokens
from mergekit_tokenadapt.tokenizer.chat_templates import DEFAULT, NAMED_FOLDER, write_templates
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, read_json
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind
from mergekit_tokenadapt.transfer.matching import VocabularyMap

LOG = logging.getLogger(__name__)

Templates = Mapping[str, str]
"""Name -> Jinja source."""

_MARKER = re.compile(r"<\|?[^\s<>{}'\"|]+\|?>|\[/?[A-Z_]{3,}\]|<｜[^<>\s]+｜>")
"""Matches markers of chat formats: ``<|im_start|>``, ``<start_of_turn>``, ``[INST]``, ``<｜User｜>``."""


def markers(template: str) -> list[str]:
    """Return the markers (such as ``<|im_start|>``) in a chat template, sorted."""
    return sorted(set(_MARKER.findall(template)))


def stray_markers(template: str, tokenizer: TokenizerFiles) -> list[str]:
    """Return the markers in a chat template that are not one token of the tokenizer, sorted.

    Raises:
        TokenAdaptError: the tokenizer cannot encode a marker.
    """
    encoder = tokenizer.fast_tokenizer()
    with one_error(f"{tokenizer.name} cannot encode the chat template's markers"):
        return [m for m in markers(template) if len(encoder.encode(m, add_special_tokens=False).ids) != 1]


def choose_templates(choice: str, base: TokenizerFiles, target: TokenizerFiles) -> Templates:
    """Return the chat templates that a recipe chooses.

    Args:
        choice: ``target``, ``base`` or the path of a file with one template.
        base: the base tokenizer.
        target: the target tokenizer.

    Raises:
        TokenAdaptError: the file does not exist, or ``base`` would remove the target's templates because the base has
            none.
    """
    if choice == "target":
        return target.chat_templates
    if choice == "base":
        if target.chat_templates and not base.chat_templates:
            raise TokenAdaptError(
                f"chat_template: base: {base.name} has no chat template, and the target tokenizer {target.name} has "
                "one: leave chat_template (--chat-template) out to keep the target's, or name a file with a template"
            )
        return base.chat_templates
    file = Path(choice)
    if not file.is_file():
        raise TokenAdaptError(f"chat_template: {choice!r} is neither 'target' nor 'base' nor a file")
    return {DEFAULT: file.read_text(encoding="utf-8")}


def with_mapped_markers(templates: Templates, token_map: Mapping[str, str], target: TokenizerFiles) -> Templates:
    """Replace markers in templates as the recipe's `token_map` says.

    ``token_map: {"<|im_start|>": "<start_of_turn>"}`` gives the second token the row of the first. A template must then
    write the second token, too. Markers that are one token of the target stay.

    Args:
        templates: the chosen templates.
        token_map: base spelling -> target spelling. Entries of other forms are ignored.
        target: the target tokenizer.
    """
    known = target.vocabulary.by_spelling
    stray = {m for template in templates.values() for m in stray_markers(template, target)}
    pairs = {old: new for old, new in token_map.items() if old in stray and new in known}
    if not pairs:
        return templates
    return {name: _MARKER.sub(lambda m: pairs.get(m[0], m[0]), text) for name, text in templates.items()}


def warn_of_templates(
    chosen: Templates, choice: str, base: TokenizerFiles, target: TokenizerFiles, mapping: VocabularyMap
) -> None:
    """Warn about a lost chat template and about markers that are not one token, and name the option that helps.

    Args:
        chosen: the templates of the output.
        choice: where they come from: ``target``, ``base``, ``recipe`` or a file.
        base: the base tokenizer.
        target: the target tokenizer.
        mapping: the base row of each target row.
    """
    if base.chat_templates and not chosen and choice == "target":
        LOG.warning("%s", _lost_template(base, target, mapping))
    stray = sorted({m for template in chosen.values() for m in stray_markers(template, target)})
    if choice == "base":  # a marker that was several tokens in the base, too, is no loss ([INST] in Llama 2)
        stray = [m for m in stray if m not in stray_markers(m, base)]
    if stray:
        LOG.warning(
            "markers of the chat template that are not one token of the target tokenizer: %s%s",
            ", ".join(map(repr, stray)),
            _advice(stray, base, target, mapping),
        )


def _lost_template(base: TokenizerFiles, target: TokenizerFiles, mapping: VocabularyMap) -> str:
    stray = sorted({m for template in base.chat_templates.values() for m in stray_markers(template, target)})
    stray = [m for m in stray if m not in stray_markers(m, base)]
    return (
        f"the base model has a chat template, and the target tokenizer {target.name} has none: the output gets none. "
        f"To keep the base's, set chat_template: base (--chat-template base){_advice(stray, base, target, mapping)}"
    )


def _advice(stray: Iterable[str], base: TokenizerFiles, target: TokenizerFiles, mapping: VocabularyMap) -> str:
    """Return the end of a warning that suggests a `token_map` for the markers that are tokens of the base."""
    known = [marker for marker in stray if marker in base.vocabulary.by_spelling]
    if not known:
        return ""
    counterparts = _counterparts(known, base, target, mapping)
    pairs = suggest_tokens([marker for marker in known if marker not in counterparts], target, mapping)
    if pairs is None:
        return (
            f". The target has too few unused special tokens to replace {', '.join(map(repr, known))}: "
            "add tokens of these spellings to its tokenizer.json"
        )
    advice = as_token_map(counterparts | pairs)
    return f". To replace the markers by tokens of the target, in the template as well, set {advice}"


def _counterparts(
    spellings: Iterable[str], base: TokenizerFiles, target: TokenizerFiles, mapping: VocabularyMap
) -> dict[str, str]:
    """Return base spelling -> target spelling for base tokens whose row a special target token already gets.

    Several target tokens may get one base row (eos and pad). Then eos is chosen, because models predict it.
    """
    vocabulary = target.vocabulary
    special = [t for t in vocabulary if t.kind is TokenKind.SPECIAL and mapping.sources[t.id] >= 0]
    by_source: dict[int, str] = {}
    for token in sorted(special, key=lambda t: (t.id != vocabulary.roles.get("eos"), t.id)):
        by_source.setdefault(int(mapping.sources[token.id]), token.spelling)
    ids = {spelling: base.vocabulary.by_spelling[spelling].id for spelling in spellings}
    return {spelling: by_source[i] for spelling, i in ids.items() if i in by_source}


def replace_templates(out: Path, templates: Templates) -> None:
    """Write the templates as Jinja files into `out`, and remove those that other files of the folder hold."""
    config = read_json(out / "tokenizer_config.json")
    if config.pop("chat_template", None) is not None:
        write_json(out / "tokenizer_config.json", config)
    for name in ("chat_template.jinja", "chat_template.json"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / NAMED_FOLDER, ignore_errors=True)
    write_templates(out, templates)
