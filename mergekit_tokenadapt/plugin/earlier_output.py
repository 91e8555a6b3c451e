"""Files of an earlier run in the folder that `mergekit-yaml` writes into.

mergekit writes over files of the same names and leaves the others. transformers would then load the old weights
(``model.safetensors`` before shards), or use an old chat template with the new tokenizer.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.output import MANIFEST, PLAN, UNFINISHED
from mergekit_tokenadapt.output.side_files import PROCESSOR_FILES
from mergekit_tokenadapt.storage.ownership import is_ours
from mergekit_tokenadapt.tokenizer.chat_templates import NAMED_FOLDER
from mergekit_tokenadapt.tokenizer.files import TOKENIZER_FILES

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin", "*.index.json")
OTHERS = (*TOKENIZER_FILES, *PROCESSOR_FILES, "*.jinja", "generation_config.json", MANIFEST, f"{PLAN}*")
RECIPE = "mergekit_config.yml"
"""The copy of a recipe that mergekit puts beside what it made of it."""


def take_folder(out: Path, inputs: Iterable[Path]) -> None:
    """Delete what an earlier run left in the output folder, and mark the folder as that of a run that is not finished.

    Args:
        out: the output folder; it need not exist.
        inputs: folders of the input models.

    Raises:
        TokenAdaptError: the folder is that of an input model, or it holds a model that neither this tool nor mergekit
            wrote. Nothing is deleted then.
    """
    if out.is_dir():
        _remove_earlier_output(out, inputs)
    out.mkdir(parents=True, exist_ok=True)
    (out / UNFINISHED).touch()


def _remove_earlier_output(out: Path, inputs: Iterable[Path]) -> None:
    if any(out.resolve() == folder.resolve() for folder in inputs):
        raise TokenAdaptError(f"{out} is the folder of an input model, and would be overwritten: name another folder")
    weights = [file for pattern in WEIGHTS for file in out.glob(pattern)]
    is_known = is_ours(out) or any((out / name).is_file() for name in (UNFINISHED, RECIPE))
    # Without config.json the weights are those of a run that did not finish.
    if weights and (out / "config.json").is_file() and not is_known:
        raise TokenAdaptError(
            f"{out} holds a model that mergekit did not write ({min(weights).name}): name another folder, or empty it"
        )
    for file in [*weights, *(file for pattern in OTHERS for file in out.glob(pattern))]:
        file.unlink(missing_ok=True)
    shutil.rmtree(out / NAMED_FOLDER, ignore_errors=True)
