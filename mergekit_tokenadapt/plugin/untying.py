"""Find the output matrix that a tied model gets with `untie`."""

from __future__ import annotations

from typing import Any

from mergekit.architecture import ModelArchitecture, WeightInfo

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.plugin.inputs import InputModel, check_tied
from mergekit_tokenadapt.plugin.stored import fits_configs


def untied_output(models: list[InputModel], architecture: ModelArchitecture, config: Any) -> WeightInfo:
    """Return mergekit's description of the output matrix that tied models are to get.

    Args:
        models: the input models, all of one architecture; the first is tied.
        architecture: mergekit's definition of the architecture.
        config: the config of the output model, an object of transformers.

    Raises:
        TokenAdaptError: encoder and decoder share the matrix, too; or the name of the architecture's output matrix is
            not known; or a checkpoint stores an output matrix that differs from the input matrix.
    """
    checkpoint = models[0].checkpoint
    if getattr(config, "is_encoder_decoder", False) and checkpoint is not None and checkpoint.tables.other_names:
        raise TokenAdaptError(
            "untie: encoder, decoder and output of this model share one matrix, and config.json has one setting for "
            "all of them: the output alone cannot get a matrix of its own"
        )
    output = _tied_output(models[0], architecture, config)
    if output is None:
        raise TokenAdaptError("untie: mergekit does not know where this architecture keeps its output matrix")
    for model in models:
        check_tied(model, output)
    return output


def _tied_output(model: InputModel, architecture: ModelArchitecture, config: Any) -> WeightInfo | None:
    """Return the output matrix of a tied model; None if neither the definition nor the model's class names it."""
    known = architecture.all_weights(config) if fits_configs(architecture, [config]) else []
    tied = [w for w in known if w.vocabulary_axis is not None and w.tied_names]
    if len(tied) == 1:
        return tied[0]
    if tied or model.checkpoint is None or model.checkpoint.tables.output is None or model.input_name is None:
        return None
    return WeightInfo(
        name=model.checkpoint.tables.output, vocabulary_axis=0, tied_names=(model.input_name,), optional=True
    )
