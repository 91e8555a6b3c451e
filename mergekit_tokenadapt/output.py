"""Finishing the output folder: tokenizer files, special ids in the configs, chat template, manifest.

mergekit has written tensors, config.json and model card by then, and calls `save_pretrained` on what
it takes for a tokenizer as its last act.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.calibration_text import CorrectionReport
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.matching import Reason
from mergekit_tokenadapt.plan import TransferPlan
from mergekit_tokenadapt.tokenizer_files import ROLES, TokenizerFiles, read_json
from mergekit_tokenadapt.vocabulary import TokenKind, Vocabulary

LOG = logging.getLogger(__name__)

MANIFEST = "tokenadapt.json"
PLAN = "tokenadapt.plan"
VERSIONED = ("mergekit-tokenadapt", "mergekit", "torch", "transformers", "tokenizers", "numpy", "scikit-learn")


@dataclass(frozen=True, eq=False)
class OutputFolder:
    """All that is needed to finish the folder. mergekit takes it for a tokenizer."""

    base: TokenizerFiles
    """Tokenizer of the model whose configs the output gets."""
    base_folder: Path
    """That model's folder."""
    target: TokenizerFiles
    num_rows: int
    vocab_size_key: str
    """Where config.json keeps the number of rows, for instance ``text_config.vocab_size``."""
    adapt: Mapping[str, Any]
    """The recipe's ``adapt`` block, with defaults."""
    inputs: tuple[tuple[str, Path], ...]
    """Name and folder of every input model."""
    plans: tuple[TransferPlan, ...] = ()
    """One for each input model."""
    corrections: tuple[CorrectionReport | None, ...] = ()
    """One for each input model where there is a calibration text."""
    chat_template: str | None = None
    """Set by mergekit where the recipe has a top-level ``chat_template``; it wins over the block's."""

    def check(self) -> None:
        """Read the chosen chat template, before any slow step.

        Raises:
            TokenAdaptError: there is no such file.
        """
        self._chosen_template()

    def with_plans(
        self, plans: Sequence[TransferPlan], corrections: Sequence[CorrectionReport | None] = ()
    ) -> AdaptedTokenizer:
        """The folder, ready to be finished."""
        return AdaptedTokenizer(replace(self, plans=tuple(plans), corrections=tuple(corrections)))

    def finish(self, out: Path) -> None:
        """Write everything into `out`, where mergekit has written its part."""
        ids = SpecialIds(self.base.vocabulary, self.target.vocabulary, self.plans[0])
        self._write_tokenizer(out)
        config = read_json(out / "config.json")
        _set_nested(config, self.vocab_size_key, self.num_rows)
        config = ids.translate(config)
        write_json(out / "config.json", config)
        generation = ids.translate(read_json(self.base_folder / "generation_config.json"))
        eos = generation.get("eos_token_id", config.get("eos_token_id"))
        if (stops := ids.with_twins(eos)) != eos:
            generation["eos_token_id"] = stops
        if generation:
            write_json(out / "generation_config.json", generation)
        if self.adapt["save_plan"]:
            for n, plan in enumerate(self.plans):
                plan.save(out / (PLAN if n == 0 else f"{PLAN}.{n}"))
        write_json(out / MANIFEST, self.manifest())
        self._extend_model_card(out / "README.md")

    def manifest(self) -> dict[str, Any]:
        """What went in and what was done; no dates or paths of outputs: same inputs, same manifest."""
        return {
            "format": "mergekit-tokenadapt manifest 1",
            "versions": {name: _version(name) for name in VERSIONED},
            "target": {"name": self.target.name, "files": file_hashes(self.target.files())},
            "rows": self.num_rows,
            "adapt": dict(self.adapt),
            "inputs": [
                {
                    "name": name,
                    "files": file_hashes(sorted(folder.glob("*.json"))),
                    "weights": {f.name: f.stat().st_size for f in sorted(_weight_files(folder))},
                    "method": plan.method,
                    "options": dict(plan.options),
                    "rows_by_reason": plan.counts(),
                    "fits": {tensor: asdict(report) for tensor, report in sorted(plan.reports.items())},
                    "correction": asdict(correction) if correction is not None else None,
                }
                for (name, folder), plan, correction in zip(
                    self.inputs, self.plans, self.corrections or (None,) * len(self.plans), strict=True
                )
            ],
        }

    # --- tokenizer files and chat template

    def _write_tokenizer(self, out: Path) -> None:
        for file in self.target.files():
            shutil.copyfile(file, out / file.name)
        if not (out / "tokenizer_config.json").is_file():
            write_json(out / "tokenizer_config.json", self._minimal_config())
        template = self._chosen_template()
        if template != self.target.chat_template:
            _replace_template(out, template)
        for marker in stray_markers(template or "", self.target):
            LOG.warning("the chat template uses %r, which is not one token of the target tokenizer", marker)

    def _chosen_template(self) -> str | None:
        if self.chat_template is not None:
            return self.chat_template
        choice = self.adapt["chat_template"]
        if choice == "target":
            return self.target.chat_template
        if choice == "base":
            return self.base.chat_template
        file = Path(choice)
        if not file.is_file():
            raise TokenAdaptError(f"chat_template: {choice!r} is neither 'target' nor 'base' nor a file")
        return file.read_text(encoding="utf-8")

    def _minimal_config(self) -> dict[str, Any]:
        """For a bare tokenizer.json: the base model's roles, as far as the same tokens exist."""
        target, base = self.target.vocabulary, self.base.role_tokens
        roles = {f"{role}_token": token for role, token in base.items() if token in target.by_spelling}
        return {"tokenizer_class": "PreTrainedTokenizerFast", **roles}

    # --- model card

    def _extend_model_card(self, card: Path) -> None:
        if not card.is_file():
            return
        lines = ["", "### Tokenizer", ""]
        lines += [f"The tokenizer is that of `{self.target.name}`, put in place without training by"]
        lines += [f"mergekit-tokenadapt {_version('mergekit-tokenadapt')}, method `{self.plans[0].method}`.", ""]
        reasons = ["copied", "special", "new", "padding"]
        lines += ["| input model | " + " | ".join(reasons) + " |", "|---" * (len(reasons) + 1) + "|"]
        for (name, _), plan in zip(self.inputs, self.plans, strict=True):
            counts = plan.counts()
            lines += [f"| {name} | " + " | ".join(f"{counts[reason]:,}" for reason in reasons) + " |"]
        with card.open("a", encoding="utf-8") as opened:
            opened.write("\n".join(lines) + "\n")


class AdaptedTokenizer:
    """What mergekit's last step sees: something with a size, a chat template and `save_pretrained`."""

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self.chat_template: str | None = None

    def get_vocab(self) -> Mapping[int, None]:
        """One entry per row: mergekit takes its length for the number of rows."""
        return dict.fromkeys(range(self._folder.num_rows))

    def save_pretrained(self, out: str, **_kwargs: Any) -> None:
        """Finish the output folder."""
        replace(self._folder, chat_template=self.chat_template).finish(Path(out))


class SpecialIds:
    """Old special ids to new ones, for everything in a config that holds token ids."""

    def __init__(self, base: Vocabulary, target: Vocabulary, plan: TransferPlan) -> None:
        self._base, self._target = base, target
        self._by_source: dict[int, int] = {}
        self._sources = {row: int(plan.mapping.sources[row]) for row in plan.mapping.ids(Reason.SPECIAL).tolist()}
        for reason in (Reason.SPECIAL, Reason.COPIED):
            for row in plan.mapping.ids(reason).tolist():
                if (source := int(plan.mapping.sources[row])) >= 0:
                    self._by_source.setdefault(source, row)

    def new_id(self, old: int) -> int | None:
        """The target token with the same string, else the one that got the old token's row, else None."""
        token = self._base.by_id.get(old)
        same = self._target.by_spelling.get(token.spelling) if token else None
        if same is not None and token is not None and token.kind in (TokenKind.SPECIAL, TokenKind.ADDED):
            return same.id
        return self._by_source.get(old)

    def with_twins(self, eos: Any) -> Any:
        """The eos ids with all special tokens that got the row of one of them; a list where these are several.

        A base token may have several roles (bos = eos = unk, pad = eos), for which the target has a token each.
        Their logits are equal, so that any of them may come where the base model stopped.
        """
        own = eos if isinstance(eos, list) else [eos]
        sources = {self._sources.get(i, -1) for i in own} - {-1}
        twins = [row for row, source in self._sources.items() if source in sources and row not in own]
        return [*own, *twins] if twins else eos

    def translate(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of a config in which every token id means the same in the new vocabulary.

        bos, eos and pad are what the target tokenizer says; a role that it does not have is None,
        never id 0. The one exception is a missing eos, without which generation would not stop: it is
        kept where the target has the base's token. A list of eos ids stays a list.
        """
        result = dict(config)
        for key, value in config.items():
            if isinstance(value, Mapping):
                result[key] = self.translate(value)
            elif key.endswith("_token_id"):
                result[key] = self._role_ids(key.removesuffix("_token_id"), value)
            elif key in ("suppress_tokens", "begin_suppress_tokens") and value is not None:
                result[key] = [i for i in map(self.new_id, value) if i is not None]
            elif key in ("bad_words_ids", "force_words_ids") and value is not None:
                lists = [[self.new_id(i) for i in ids] for ids in value]
                result[key] = [ids for ids in lists if None not in ids] or None
        return result

    def _role_ids(self, role: str, value: Any) -> Any:
        own = self._target.roles.get(role)
        if isinstance(value, list):
            kept = [i for i in map(self.new_id, value) if i is not None]
            return list(dict.fromkeys(([own] if own is not None else []) + kept)) or None
        if own is not None and (value is not None or role in ("bos", "eos", "pad")):
            return own
        if value is None or (role in ROLES and role != "eos"):
            return None
        new = self.new_id(value)
        if new is None:
            LOG.warning("%s_token_id was %s in the base model; the target tokenizer has no such token", role, value)
        return new


_MARKER = re.compile(r"<\|?[^\s<>{}'\"|]+\|?>|\[/?[A-Z_]{3,}\]|<｜[^<>\s]+｜>")


def markers(template: str) -> list[str]:
    """Markers such as ``<|im_start|>`` in a chat template, sorted."""
    return sorted(set(_MARKER.findall(template)))


def stray_markers(template: str, tokenizer: TokenizerFiles) -> list[str]:
    """Markers in a chat template that the tokenizer does not take for one token, sorted."""
    encoder = tokenizer.fast_tokenizer()
    return [m for m in markers(template) if len(encoder.encode(m, add_special_tokens=False).ids) != 1]


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file the way transformers does: two spaces, a final newline."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _replace_template(out: Path, template: str | None) -> None:
    """Put the template where transformers looks first, and nowhere else."""
    config = read_json(out / "tokenizer_config.json")
    if config.pop("chat_template", None) is not None:
        write_json(out / "tokenizer_config.json", config)
    for name in ("chat_template.jinja", "chat_template.json"):
        (out / name).unlink(missing_ok=True)
    if template is not None:
        (out / "chat_template.jinja").write_text(template, encoding="utf-8")


def _set_nested(config: dict[str, Any], key: str, value: int) -> None:
    *sections, name = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[name] = value


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def file_hashes(files: list[Path]) -> dict[str, str]:
    """Name to SHA-256 of each file."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _weight_files(folder: Path) -> list[Path]:
    return [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
