"""What a model that was put onto another's vocabulary has to be known for: rows, digits, special tokens."""

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


def vocabulary_report(target: ModelFolder, made: ModelFolder, before: TokenizerFiles) -> dict[str, Any]:
    """The decisions that were taken for a model that now speaks the target's tokenizer.

    Args:
        target: whose vocabulary it is.
        made: the model, with its plan in the folder.
        before: the tokenizer that the model had.

    Returns:
        What `change_report` says, with the name of the target and its number of rows.
    """
    plan = TransferPlan.load(made.folder / PLAN)
    report = change_report(plan, before, target.tokenizer, made.tokenizer.chat_template)
    rows = {"target": target.num_rows, "before": before.model_rows, "after": made.num_rows}
    return {"target": target.name, **report, "rows": rows}


def change_report(
    plan: TransferPlan, before: TokenizerFiles, after: TokenizerFiles, chat_template: str | None
) -> dict[str, Any]:
    """What became of a model that got another tokenizer.

    Args:
        plan: how its rows were made.
        before: the tokenizer that it had.
        after: the one that it has now.
        chat_template: what the output has.

    Returns:
        ``tokens`` holds numbers of tokens: `copied` (bit for bit an old row), `special` (a special token
        with a counterpart), `composed` (made of several old rows), `mean` (the mean row); ``texts`` holds
        the built-in texts with their bytes, and how many tokens each tokenizer makes of them.
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
    """Tokens by where their rows come from; `padding` are rows without a token."""
    mean_ids = set(plan.mean_ids.tolist())
    counts = dict.fromkeys(("copied", "special", "composed", "mean"), 0)
    for token in target.vocabulary:
        reason = plan.mapping.reasons[token.id]
        kind = {Reason.COPIED: "copied", Reason.SPECIAL: "special"}.get(reason, "composed")
        counts["mean" if token.id in mean_ids else kind] += 1
    return {**counts, "padding": plan.num_rows - len(target.vocabulary)}


def _digits(target: TokenizerFiles, before: TokenizerFiles) -> dict[str, Any]:
    now, then = habits(target)["digits"], habits(before)["digits"]
    warning = None
    if now != then:
        warning = (
            f"numbers were cut {_say(then)} and are now cut {_say(now)}: arithmetic suffers most from a swap, "
            "and needs training"
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
    """Tokens that each text is cut into, and whether they hold all of it: few tokens are no gain where they do not."""
    library = tokenizer.fast_tokenizer()
    found = {}
    for name, text in texts.items():
        cut = [e.ids for e in library.encode_batch(list(text.documents), add_special_tokens=False)]
        decoded = library.decode_batch(cut, skip_special_tokens=False)
        found[name] = {"tokens": sum(map(len, cut)), "is_exact": tuple(decoded) == text.documents}
    return found
