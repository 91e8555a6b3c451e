"""Finish the output folder after mergekit has written tensors, config.json and model card.

mergekit's last step is to call `save_pretrained` on the tokenizer of the merge. `AdaptedTokenizer` stands in for that
tokenizer. Its `save_pretrained` writes tokenizer files, token ids in configs, chat templates and the manifest.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mergekit_tokenadapt.correction import CorrectionReport
from mergekit_tokenadapt.models.pad_positions import PadMove
from mergekit_tokenadapt.output.card import CardInput, extend_model_card
from mergekit_tokenadapt.output.configs import write_json
from mergekit_tokenadapt.output.ids import SpecialIds
from mergekit_tokenadapt.output.limits import model_max_length
from mergekit_tokenadapt.output.loading import minimal_config
from mergekit_tokenadapt.output.manifest import MANIFEST, PLAN, UNFINISHED, contents_hash, input_record, manifest_of
from mergekit_tokenadapt.output.own_code import check_same_names, code_files
from mergekit_tokenadapt.output.requirements import check_needed, check_offsets, config_content
from mergekit_tokenadapt.output.side_files import PROCESSOR_FILES, write_processors
from mergekit_tokenadapt.output.start_tokens import (
    StartTokens,
    check_start_tokens,
    lost_start_token,
    warn_of_chats,
    warn_of_end_token,
    warn_of_start_token,
    write_start_tokens,
)
from mergekit_tokenadapt.output.templates import (
    Templates,
    choose_templates,
    replace_templates,
    warn_of_templates,
    with_mapped_markers,
)
from mergekit_tokenadapt.output.translation import Translation, translate, translate_model, warn_of
from mergekit_tokenadapt.storage.input_files import check_own
from mergekit_tokenadapt.storage.permissions import like_new_files
from mergekit_tokenadapt.tokenizer.chat_templates import DEFAULT
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles, read_json
from mergekit_tokenadapt.transfer.matching import VocabularyMap
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.plan_files import save_plan
from mergekit_tokenadapt.transfer.row_regression import FitReport

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class OutputFolder:
    """Everything that is needed to finish the output folder."""

    base: TokenizerFiles
    """Tokenizer of the model whose configs the output gets."""
    base_folder: Path
    """Folder of that model's files."""
    target: TokenizerFiles
    """The tokenizer that the output gets."""
    num_rows: int
    """Rows of the new vocabulary matrices."""
    vocab_size_keys: tuple[str, ...]
    """Keys of config.json that state the number of rows, joined with dots: ``text_config.vocab_size``."""
    adapt: Mapping[str, Any]
    """The recipe's ``adapt`` block, with defaults filled in."""
    inputs: tuple[tuple[str, Path], ...]
    """Name and folder of every input model."""
    plans: tuple[TransferPlan, ...] = ()
    """The plan of each input model."""
    cards: tuple[Path, ...] = ()
    """The folder of every input model's card; empty if these are the folders in `inputs`."""
    corrections: tuple[CorrectionReport | None, ...] = ()
    """The correction by the calibration text for each input model; empty if the recipe has no such text."""
    fits: tuple[Mapping[str, FitReport], ...] = ()
    """Tensor name -> quality of the plan's regression, for each input model."""
    chat_template: str | None = None
    """The chat template of mergekit's own key ``chat_template``. It takes precedence over the ``adapt`` block's."""
    stated: frozenset[str] = frozenset()
    """The keys of the ``adapt`` block that the recipe states."""
    glossary: Mapping[str, Any] | None = None
    """What the manifest states about the user's glossary; None if it makes no row."""
    method_files: Mapping[str, str] = field(default_factory=dict)
    """The files that the method's options name, by option."""
    extension: Mapping[str, Any] | None = None
    """How the target was made from the base's tokenizer (``adapt.extend``); None if it replaces that tokenizer."""
    pad_move: PadMove | None = None
    """How position tables follow a new pad id; None if nothing moves (see `models.pad_positions`)."""
    config: Any = None
    """The transformers config that mergekit will write; None if it is not known."""
    trust_remote_code: bool = False
    """Whether the inputs' own code may run. The output gets the code that its configs name only if it may."""
    last_look: Callable[[Path, Path], None] | None = None
    """A check of the written folder. It gets that folder and the base model's, and raises if something does not fit."""
    when_finished: Callable[[OutputFolder, Path], None] | None = None
    """Called at the very end with this object and the finished folder."""

    def check(self, mapping: VocabularyMap | None = None) -> None:
        """Find errors that would otherwise appear only at the end. Call this before the first slow step.

        Args:
            mapping: how the vocabularies match; None skips the checks that need it.

        Raises:
            TokenAdaptError: the chosen chat template does not exist, a file to be copied is a link that points out of
                its folder, two files of code to be copied have one name, or the model does not load without a token
                that the target lacks.
        """
        check_own(self.target.folder, self.target.files())
        check_own(self.base_folder, [self.base_folder / n for n in ("generation_config.json", *PROCESSOR_FILES)])
        if self.adapt["chat_template"] == "base":
            check_own(self.base.folder, self.base.files())
        code = self._code()
        for file in code:
            check_own(file.parent, [file])
        check_same_names(code)
        self.templates()
        if mapping is not None:
            self._warn_of_templates(mapping)
            self._check_start_token(mapping)
        if mapping is not None and self.config is not None:
            ids = self._special_ids(mapping)
            translation = self._translated(config_content(self.config), ids)
            check_offsets(config_content(self.config), mapping)
            check_needed(self.config, translation, self.target, mapping)

    def with_plans(
        self,
        plans: Sequence[TransferPlan],
        corrections: Sequence[CorrectionReport | None] = (),
        fits: Sequence[Mapping[str, FitReport]] = (),
    ) -> AdaptedTokenizer:
        """Add the results for each input model, and return the object that mergekit gets as its tokenizer.

        Args:
            plans: how the rows of each input model were made.
            corrections: the corrections by the calibration text; empty if the recipe has no such text.
            fits: tensor name -> quality of the plan's regression.
        """
        finished = replace(self, plans=tuple(plans), corrections=tuple(corrections), fits=tuple(fits))
        return AdaptedTokenizer(finished)

    def finish(self, out: Path) -> None:
        """Write all files of ours into `out`, where mergekit has written its files.

        Raises:
            TokenAdaptError: the written model would not load.
            OSError: a file cannot be written.
        """
        self._write_tokenizer(out)
        self._write_configs(out)
        for file in self._code():
            shutil.copyfile(file, out / file.name)
        if self.adapt["save_plan"]:
            for n, plan in enumerate(self.plans):
                save_plan(plan, out / (PLAN if n == 0 else f"{PLAN}.{n}"))
        cards = self.cards or [folder for _, folder in self.inputs]
        named = zip(self.inputs, cards, self.plans, strict=True)
        inputs = [CardInput(name, card, plan) for (name, _), card, plan in named]
        extend_model_card(out / "README.md", self.target.name, inputs)
        like_new_files([*out.glob("*.safetensors"), *out.glob(f"{PLAN}*")])
        if self.last_look is not None:
            self.last_look(out, self.base_folder)
        (out / UNFINISHED).unlink(missing_ok=True)
        write_json(out / MANIFEST, self.manifest())  # comes last, because it marks a folder as complete

    def manifest(self) -> dict[str, Any]:
        """Return the content of the manifest: the inputs, the options and the results."""
        corrections = self.corrections or (None,) * len(self.plans)
        fits = self.fits or ({},) * len(self.plans)
        inputs = zip(self.inputs, self.plans, corrections, fits, strict=True)
        records = [input_record(*model, plan, correction, reports) for model, plan, correction, reports in inputs]
        manifest = manifest_of(self.target, self.num_rows, self.adapt, records)
        if self.glossary is not None:
            manifest["glossary"] = dict(self.glossary)
        if self.method_files:
            manifest["method_files"] = {option: contents_hash(path) for option, path in self.method_files.items()}
        if self.extension is not None:
            manifest["extension"] = dict(self.extension)
        if self.base.chat_templates and not self.templates():
            manifest["lost_chat_template"] = True
        if self.adapt["start_token"] == "target" and (lost := lost_start_token(self.base, self.target)) is not None:
            manifest["lost_start_token"] = lost.spelling
        return manifest

    def _code(self) -> list[Path]:
        """Return the files of own code that the output's configs and tokenizer name."""
        if not self.trust_remote_code:
            return []
        configs = [read_json(self.base_folder / name) for name in ("config.json", *PROCESSOR_FILES)]
        return [*code_files(self.base_folder, configs), *code_files(self.target.folder, [self.target.config])]

    # --- configs

    def _special_ids(self, mapping: VocabularyMap) -> SpecialIds:
        return SpecialIds(
            self.base.vocabulary,
            self.target.vocabulary,
            mapping,
            new_bos=self._new_bos(mapping),
            definition=self.target.definition,
        )

    def _new_bos(self, mapping: VocabularyMap) -> int | None:
        """Return the id of the token that only the output's tokenizer_config.json names as bos; None if none is."""
        spelling = None
        if not (self.target.folder / "tokenizer_config.json").is_file():
            spelling = minimal_config(self.target, self.base).get("bos_token")
        if self.adapt["start_token"] == "base":
            bos = self._start_tokens(mapping).bos
            spelling = spelling if bos is None else bos.spelling
        found = self.target.vocabulary.by_spelling.get(spelling or "")
        return None if found is None else found.id

    def _translated(self, config: dict[str, Any], ids: SpecialIds) -> Translation:
        """Translate the model's config to the target's token ids, number of rows, and pad position."""
        sizes = [tuple(key.split(".")) for key in self.vocab_size_keys]
        translation = translate_model(config, ids, sizes, self.num_rows)
        if self.pad_move is not None:
            self.pad_move.change(translation.config)
        return translation

    def _write_configs(self, out: Path) -> None:
        ids = self._special_ids(self.plans[0].mapping)
        model = self._translated(read_json(out / "config.json"), ids)
        generation = translate(read_json(self.base_folder / "generation_config.json"), ids)
        warn_of(model, generation, *write_processors(self.base_folder, out, ids))
        if self.pad_move is not None:
            pad = ids.target.roles.get("pad", self.pad_move.new)
            if pad != generation.config.get("pad_token_id", model.config.get("pad_token_id")):
                # The model's config may name no pad id (see `PadMove.new`), but generation needs one.
                generation.config["pad_token_id"] = pad
        if model.config.pop("tokenizer_class", None) is not None and (own := self.target.config.get("tokenizer_class")):
            model.config["tokenizer_class"] = own  # transformers looks here if tokenizer_config.json names no class
        write_json(out / "config.json", model.config)
        eos = generation.config.get("eos_token_id", model.config.get("eos_token_id"))
        if (stops := ids.with_twins(eos)) != eos:
            generation.config["eos_token_id"] = stops
        if generation.config:
            write_json(out / "generation_config.json", generation.config)

    # --- tokenizer files and chat template

    def _write_tokenizer(self, out: Path) -> None:
        self.target.copy_to(out)
        config = read_json(out / "tokenizer_config.json") or minimal_config(self.target, self.base)
        # Models that count positions from the pad id use position pad + 1 first, as RoBERTa does.
        first = self.pad_move.old + 1 if self.pad_move is not None and self.pad_move.tables else 0
        limit = model_max_length(read_json(out / "config.json"), self.base.config, config, first=first)
        if limit is not None:
            config["model_max_length"] = limit
        if limit is not None or not (out / "tokenizer_config.json").is_file():
            write_json(out / "tokenizer_config.json", config)
        templates = self.templates()
        if templates != self.target.chat_templates:
            replace_templates(out, templates)
        if self.adapt["start_token"] == "base":
            write_start_tokens(out, self._start_tokens(self.plans[0].mapping))
        if self.chat_template is not None:  # `check` has already warned about the template of the ``adapt`` block
            self._warn_of_templates(self.plans[0].mapping)

    def _check_start_token(self, mapping: VocabularyMap) -> None:
        warn_of_end_token(self.base, self.target, mapping)
        if self.adapt["start_token"] == "target":
            warn_of_start_token(self.base, self.target, mapping, is_open="start_token" not in self.stated)
            return
        start = self._start_tokens(mapping)
        check_start_tokens(start, self.base, self.target, self.base_folder)
        warn_of_chats(start, self.templates(), self.base, self.target)

    def _start_tokens(self, mapping: VocabularyMap) -> StartTokens:
        return StartTokens.of_base(self.base, self.target, mapping, self.adapt.get("token_map") or {})

    def templates(self) -> Templates:
        """Return name -> Jinja source of the output's chat templates."""
        if self.chat_template is not None:
            chosen: Templates = {DEFAULT: self.chat_template}
        else:
            chosen = choose_templates(self.adapt["chat_template"], self.base, self.target)
        return with_mapped_markers(chosen, self.adapt.get("token_map") or {}, self.target)

    def _warn_of_templates(self, mapping: VocabularyMap) -> None:
        choice = "recipe" if self.chat_template is not None else self.adapt["chat_template"]
        warn_of_templates(self.templates(), choice, self.base, self.target, mapping)


class AdaptedTokenizer:
    """Stands in for a tokenizer in mergekit's last step, which reads its size and calls `save_pretrained`."""

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self.chat_template: str | None = None

    def get_vocab(self) -> Mapping[int, None]:
        """Return a mapping with one entry per row, because mergekit takes its length for the number of rows."""
        return dict.fromkeys(range(self._folder.num_rows))

    def save_pretrained(self, out: str, **_kwargs: Any) -> None:
        """Finish the output folder."""
        folder = replace(self._folder, chat_template=self.chat_template)
        folder.finish(Path(out))
        if folder.when_finished is not None:
            folder.when_finished(folder, Path(out))
