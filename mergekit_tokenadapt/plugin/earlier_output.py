"""Files of an earlier run in the folder that `mergekit-yaml` writes into.

mergekit writes over files of the same names and leaves the others. transformers would then load the old weights
(``model.safetensors`` before shards), or use an old chat template with the new tokenizer.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.tensor_files import WEIGHT_FILE
from mergekit_tokenadapt.output import MANIFEST, PLAN, UNFINISHED
from mergekit_tokenadapt.output.side_files import PROCESSOR_FILES
from mergekit_tokenadapt.storage.ownership import is_ours
from mergekit_tokenadapt.storage.staging import paths_of
from mergekit_tokenadapt.tokenizer.chat_templates import NAMED_FOLDER
from mergekit_tokenadapt.tokenizer.files import TOKENIZER_FILES

OTHERS = (*TOKENIZER_FILES, *PROCESSOR_FILES, "*.jinja", "generation_config.json", MANIFEST, f"{PLAN}*")
RECIPE = "mergekit_config.yml"
"""The copy of a recipe that mergekit puts beside what it made of it."""


def take_folder(out: Path, inputs: Iterable[str]) -> None:
    """Delete what an earlier run left in the output folder, and mark the folder as that of a run that is not finished.

    Args:
        out: the output folder; it need not exist.
        inputs: names of all that the recipe reads. Names that are no local paths (hub ids) are ignored.

    Raises:
        TokenAdaptError: the folder or a file that would be deleted is an input, or the folder holds files of a model
            that neither this tool nor mergekit wrote. Nothing is deleted then.
    """
    if out.is_dir():
        _remove_earlier_output(out, inputs)
    out.mkdir(parents=True, exist_ok=True)
    (out / UNFINISHED).touch()


def _remove_earlier_output(out: Path, inputs: Iterable[str]) -> None:
    read = {path.resolve() for name in inputs for path in paths_of(name)}
    if out.resolve() in read:
        raise TokenAdaptError(
            f"{out} is the folder of an input model or tokenizer, and would be overwritten: name another folder"
        )
    weights = [file for file in out.iterdir() if WEIGHT_FILE.fullmatch(file.name)]
    found = sorted({*weights, *(file for pattern in OTHERS for file in out.glob(pattern))})
    if kept := next((file for file in found if file.resolve() in read), None):
        raise TokenAdaptError(f"{kept} is read by the recipe, and would be overwritten: name another folder")
    if found and not (is_ours(out) or any((out / name).is_file() for name in (UNFINISHED, RECIPE))):
        name = min(weights, default=found[0]).name
        raise TokenAdaptError(
            f"{out} holds a model that mergekit did not write ({name}): name another folder, or empty it"
        )
    for file in found:
        file.unlink(missing_ok=True)
    shutil.rmtree(out / NAMED_FOLDER, ignore_errors=True)
