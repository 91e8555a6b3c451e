"""Give a model that transformers has loaded another tokenizer, in memory."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.front_door.loading import load_tokenizer, read_options, saved
from mergekit_tokenadapt.front_door.plan import Plan, planned
from mergekit_tokenadapt.models.in_memory import Change, LoadedModel, set_values, untying
from mergekit_tokenadapt.models.pad_positions import find_pad_positions, pad_of
from mergekit_tokenadapt.models.vocabulary_axes import with_first_row
from mergekit_tokenadapt.output import SpecialIds, as_loaded
from mergekit_tokenadapt.output.configs import value_at
from mergekit_tokenadapt.output.requirements import check_needed, check_offsets, config_content
from mergekit_tokenadapt.output.translation import Translation, translate, translate_model, warn_of
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
from mergekit_tokenadapt.transfer.matrix_use import MatrixUse
from mergekit_tokenadapt.transfer.transfer import CPU, Transfer

OF_FOLDERS = (
    "calibration_text", "calibration_bytes", "chat_template", "extend", "missing_rows", "save_plan", "start_token",
)  # fmt: skip
"""Keys of the ``adapt`` block that need a model on disk, or that say what to write there."""


def adapt(
    model: Any,
    tokenizer: Any,
    target: Any,
    *,
    pad_to_multiple_of: int | None = None,
    device: str | torch.device = CPU,
    trust_remote_code: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Plan:
    """Give a loaded model another tokenizer, in place.

    Vocabulary matrices and biases get new rows. Tied matrices stay tied unless `untie` is set. The config and the
    generation config get the new sizes and ids. The rows are bit for bit those that `transplant` writes on the same
    device. If an error is raised, the model is unchanged. Create the optimizer afterwards, because an existing one
    refers to the old matrices.

    Args:
        model: a model that transformers has loaded; changed in place.
        tokenizer: the model's present tokenizer: loaded by transformers, or a folder or hub id.
        target: the tokenizer that the model gets, in the same forms. Use it with the model from then on.
        pad_to_multiple_of: round the number of new rows up to a multiple of this.
        device: device for the neighbour search. Rows are computed on the model's device.
        trust_remote_code: whether code of hub repositories may run.
        quiet: show no progress bars.
        options: keys of the recipe's ``adapt`` block (see `AdaptConfig`), and options of the method. Keys that need a
            folder are refused: `calibration_text`, `calibration_bytes`, `chat_template`, `extend`, `missing_rows`,
            `save_plan`, `start_token`.

    Returns:
        The plan, which explains each row.

    Raises:
        TokenAdaptError: an option is wrong or needs `transplant`; or the model is quantised, is not completely in
            memory, or numbers positions from its pad token's id, which would change.

    Examples:
        >>> import mergekit_tokenadapt as ta
        >>> plan = ta.adapt(model, tokenizer, target_tokenizer)  # doctest: +SKIP
    """
    block = read_options(options)
    _check_no_folder_keys(block)
    loaded = LoadedModel.of(model)
    base = _read_base(tokenizer, model.config, trust_remote_code=trust_remote_code)
    plan = planned(
        Transfer.of(
            block,
            base=base,
            target=_beside(model.config, load_tokenizer(target, trust_remote_code=trust_remote_code), base),
            base_rows=loaded.rows,
            loaded_model=model,
            pad_to_multiple_of=pad_to_multiple_of,
            device=torch.device(device),
            quiet=quiet,
            trust_remote_code=trust_remote_code,
        )
    )
    is_untied = block.untie and loaded.tables.is_tied
    # Everything that can fail comes before `change`, so that an error leaves the model as it was.
    configs = _new_configs(loaded, plan, is_untied=is_untied)
    groups, made = _new_tensors(loaded, plan, is_untied=is_untied)
    loaded.change(configs.model, made, groups)
    if model.can_generate():
        set_values(model.generation_config, configs.generation)
    warn_of(*configs.translations)
    return plan


def _check_no_folder_keys(block: AdaptConfig) -> None:
    """Check that no key is set that needs a model folder.

    Raises:
        TokenAdaptError: a key of `OF_FOLDERS` is set.
    """
    for key in OF_FOLDERS:
        if key in block.model_fields_set:
            raise TokenAdaptError(f"{key}: adapt() has no folder to read or write; use transplant()")


def _read_base(tokenizer: Any, config: Any, *, trust_remote_code: bool) -> TokenizerFiles:
    """Read the model's present tokenizer: an object of transformers, or a folder or hub id."""
    if hasattr(tokenizer, "save_pretrained"):
        # An object is saved beside the model's config and read from there, because AutoTokenizer chooses the class by
        # the config. The result is then the same as from the model's own folder.
        return saved(tokenizer, config)
    return load_tokenizer(tokenizer, trust_remote_code=trust_remote_code)


def _beside(config: Any, target: Any, base: Any) -> Any:
    """Read the target as it would be read from a folder with the model's config.json."""
    with tempfile.TemporaryDirectory(prefix="tokenadapt-") as folder:
        config.save_pretrained(folder)
        return as_loaded(target, base, Path(folder))


def _new_tensors(loaded: LoadedModel, plan: Plan, *, is_untied: bool) -> tuple[list[list[str]], dict[str, Tensor]]:
    """Return the groups of names that share a tensor, and for the first name of each group its new tensor."""
    output, groups, made = loaded.tables.output, [], {}
    for shared in loaded.groups():
        parts = [shared]
        if is_untied and output in shared:
            parts = [[name for name in shared if name != output], [output]]
        fit = None
        for names in parts:
            name, axis = names[0], loaded.tables.axes[names[0]]
            use = MatrixUse.INPUT
            if output in names:
                use = MatrixUse.TIED if loaded.tables.is_tied and not is_untied else MatrixUse.OUTPUT
            old = loaded.tensors[name].detach().movedim(axis, 0)
            if name in loaded.tables.per_layer:
                old = with_first_row(old, plan.transfer.base_rows)
            with torch.no_grad():
                applied = plan.apply_as(old, name, use, fit)
            fit = applied.fit  # an untied output matrix starts with the input matrix's values, so the fit is the same
            groups.append(names)
            made[name] = applied.rows.movedim(0, axis).contiguous()
    return groups, made


@dataclass(frozen=True)
class _Configs:
    """Changes of the model's config and of its generation config."""

    model: list[Change]
    """Changes of the model's config."""
    generation: list[Change]
    """Changes of its generation config; empty for a model that cannot generate."""
    translations: tuple[Translation, Translation]
    """What became of the ids in both configs, for warnings."""


def _new_configs(loaded: LoadedModel, plan: Plan, *, is_untied: bool) -> _Configs:
    """Return the new ids and sizes.

    Raises:
        TokenAdaptError: the model needs a token that the target lacks, or it cannot run with another pad token id.
    """
    transfer, config = plan.transfer, loaded.config
    target = transfer.target
    ids = SpecialIds(transfer.base.vocabulary, target.vocabulary, transfer.mapping, definition=target.definition)
    _check_positions(loaded, ids)
    content = config_content(config)
    translation = translate_model(content, ids, loaded.size_keys, plan.num_rows)
    check_offsets(content, transfer.mapping)
    check_needed(config, translation, transfer.target, transfer.mapping)
    changes = _changes(content, translation) + [(key, plan.num_rows) for key in loaded.size_keys]
    if is_untied:
        changes += untying(config)
    # AutoTokenizer takes the class from config.json if tokenizer_config.json names none.
    if content.get("tokenizer_class") is not None:
        changes.append((("tokenizer_class",), transfer.target.config.get("tokenizer_class")))
    if not loaded.model.can_generate():
        return _Configs(changes, [], (translation, Translation({})))
    before = json.loads(loaded.model.generation_config.to_json_string())
    generation = translate(before, ids)
    generating = _changes(before, generation)
    eos = generation.config.get("eos_token_id", translation.config.get("eos_token_id"))
    # One old eos row may have become the row of several special tokens, and the model may then stop with any of them.
    if (stops := ids.with_twins(eos)) != eos:
        generating.append((("eos_token_id",), stops))
    return _Configs(changes, generating, (translation, generation))


def _changes(before: dict[str, Any], translation: Translation) -> list[Change]:
    """Return the places of a config whose value changes, with the new value."""
    return [(path, value) for path, value in translation.places.items() if value_at(before, path) != value]


def _check_positions(loaded: LoadedModel, ids: SpecialIds) -> None:
    """Check that the model does not number positions from its pad token's id, if that id changes.

    Raises:
        TokenAdaptError: it does.
    """
    old = pad_of(loaded.config)
    if old is None or ids.target.roles.get("pad") == old:
        return
    if find_pad_positions(loaded.config, loaded.model.state_dict().keys()) is not None:
        raise TokenAdaptError(
            "the model counts positions from its pad token's id, which changes: use transplant(), which moves its table"
        )
