"""Correct the output rows with a calibration text, so that the new model predicts what the base model predicts.

A swap changes which token comes next, even for copied rows. If a new token holds the indentation of a line, for
instance, the next token is ``def``, where the base model predicted `` def`` with a space.

The base model reads a text in its own tokens, and its predictions are converted into distributions over new tokens
(`targets`). The transplanted model reads the same text in the new tokens (`states`). The output rows are then fitted so
that the predictions of the second match those of the first (`correction`). Only the last, linear step of the model is
fitted, so no gradient goes through its layers.
"""

from mergekit_tokenadapt.correction.correction import Correction, CorrectionReport
from mergekit_tokenadapt.correction.run import correct_output_rows
from mergekit_tokenadapt.correction.text import CalibrationText

__all__ = ["CalibrationText", "Correction", "CorrectionReport", "correct_output_rows"]
