"""Finish the output folder: tokenizer files, configs with new token ids, chat templates, manifest, model card."""

from mergekit_tokenadapt.output.configs import write_json
from mergekit_tokenadapt.output.folder import AdaptedTokenizer, OutputFolder
from mergekit_tokenadapt.output.ids import SpecialIds
from mergekit_tokenadapt.output.loading import as_loaded
from mergekit_tokenadapt.output.manifest import MANIFEST, PLAN, UNFINISHED, file_hashes, inputs_in, package_version
from mergekit_tokenadapt.output.templates import markers, stray_markers

__all__ = [
    "MANIFEST",
    "PLAN",
    "UNFINISHED",
    "AdaptedTokenizer",
    "OutputFolder",
    "SpecialIds",
    "as_loaded",
    "file_hashes",
    "inputs_in",
    "markers",
    "package_version",
    "stray_markers",
    "write_json",
]
