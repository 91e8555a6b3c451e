"""Report what a tokenizer swap changed: rows, token counts of texts, digits, special tokens, chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.output import PLAN, stray_markers
from mergekit_tokenadapt.texts import BUILTIN, TextSet, builtin_text
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.habits import habits
from mergekit_tokenadapt.tokenizer.vocabulary import TokenKind
from mergekit_tokenadapt.transfer.matching import Reason
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.plan_files import load_plan


def vocabulary_report(target: ModelFolder, made: ModelFolder, before: TokenizerFiles) -> dict[str, Any]:
    """Report on a finished model that got the target's vocabulary.

    Args:
        target: the model whose vocabulary it got.
        made: the finished model, with the plan in its folder.
        before: the tokenizer that the model had before.

    Returns:
        The result of `change_report`, with the target's name and number of rows.
    """
    plan = load_plan(made.folder / PLAN)
    report = change_report(plan, before, target.tokenizer, made.tokenizer.chat_template)
    rows = {"target": target.num_rows, "before": before.model_rows, "after": made.num_rows}
    return {"target": target.name, **report, "rows": rows}


def change_report(
    plan: TransferPlan, before: TokenizerFiles, after: TokenizerFiles, chat_template: str | None
) -> dict[str, Any]:
    """Report on a model that got another tokenizer.

    Args:
        plan: how its rows were made.
        before: the tokenizer that it had before.
        after: the tokenizer that it has now.
        chat_template: the chat template of the output; None if it has none.

    Returns:
        ``rows``: numbers of rows; ``tokens``: numbers of tokens by kind of row (see `token_counts`); ``texts``: bytes
        of the built-in texts, and the number of tokens of each under both tokenizers; ``digits``: the rule by which
        numbers are segmented; ``special_tokens``: the origin of each special token's row; ``chat_template``: its
        origin, and the markers in it that are not one token.
    """
    return {
        "rows": {"before": before.model_rows, "after": plan.num_rows},
        "tokens": token_counts(plan, after),
        "texts": _texts(before, after),
        "digits": _digits(after, before),
        "special_tokens": _special_tokens(plan, after, before),
        "chat_template": _chat_template(chat_template, after, before),
    }


def token_counts(plan: TransferPlan, target: TokenizerFiles) -> dict[str, int]:
    """Count the target's tokens by the origin of their rows.

    Returns:
        ``copied``: the base row of the same bytes; ``special``: the base row of the special counterpart; ``composed``:
        computed by the method; ``drawn``: drawn at random, if there are any; ``mean``: the mean row; ``padding``: rows
        without a token.
    """
    mean_ids = set(plan.mean_ids.tolist())
    drawn_ids = set() if plan.drawn is None else set(plan.drawn.new_ids.tolist()) - mean_ids
    kinds = ("copied", "special", "composed", *(["drawn"] if drawn_ids else []), "mean")
    counts = dict.fromkeys(kinds, 0)
    for token in target.vocabulary:
        reason = plan.mapping.reasons[token.id]
        kind = {Reason.COPIED: "copied", Reason.SPECIAL: "special"}.get(reason, "composed")
        counts["mean" if token.id in mean_ids else "drawn" if token.id in drawn_ids else kind] += 1
    return {**counts, "padding": plan.num_rows - len(target.vocabulary)}


def _digits(target: TokenizerFiles, before: TokenizerFiles) -> dict[str, Any]:
    now, then = habits(target)["digits"], habits(before)["digits"]
    warning = None
    if now != then:
        warning = (
            f"numbers were segmented {_say(then)} and are now segmented {_say(now)}: arithmetic suffers most from a "
            "swap, and needs training"
        )
    return {"before": then, "after": now, "warning": warning}


def _say(rule: str) -> str:
    return "as learned" if rule == "learned" else rule if rule == "one by one" else f"into {rule}"


def _special_tokens(plan: TransferPlan, target: TokenizerFiles, before: TokenizerFiles) -> list[dict[str, Any]]:
    vocabulary, old = target.vocabulary, before.vocabulary
    roles = {i: role for role, i in sorted(vocabulary.roles.items(), reverse=True)}
    listed = []
    for token in vocabulary:
        if token.kind is not TokenKind.SPECIAL:
            continue
        source = int(plan.mapping.sources[token.id])
        text = plan.mapping.texts.get(token.id)
        origin = old.by_id[source].spelling if source >= 0 else text if text is not None else "the mean row"
        listed.append({"id": token.id, "token": token.spelling, "role": roles.get(token.id), "row_of": origin})
    return listed


def _chat_template(template: str | None, after: TokenizerFiles, before: TokenizerFiles) -> dict[str, Any]:
    whose = "none" if template is None else "a file"
    for name, tokenizer in (("before", before), ("target", after)):
        if template is not None and template == tokenizer.chat_template:
            whose = name
    return {"is_that_of": whose, "markers_that_are_not_one_token": stray_markers(template or "", after)}


def _texts(before: TokenizerFiles, after: TokenizerFiles) -> dict[str, dict[str, Any]]:
    texts = {name: builtin_text(name) for name in BUILTIN if name != "hard"}
    counts = {"before": _tokens_of(before, texts), "after": _tokens_of(after, texts)}
    return {
        name: {"bytes": text.num_bytes, **{when: counted[name] for when, counted in counts.items()}}
        for name, text in texts.items()
    }


def _tokens_of(tokenizer: TokenizerFiles, texts: Mapping[str, TextSet]) -> dict[str, dict[str, Any]]:
    """Count the tokens of each text, and check whether decoding restores it.

    A tokenizer that loses text needs fewer tokens, but that is no gain.
    """
    library = tokenizer.fast_tokenizer()
    found = {}
    for name, text in texts.items():
        encoded = [e.ids for e in library.encode_batch(list(text.documents), add_special_tokens=False)]
        decoded = library.decode_batch(encoded, skip_special_tokens=False)
        found[name] = {"tokens": sum(map(len, encoded)), "is_exact": tuple(decoded) == text.documents}
    return found
