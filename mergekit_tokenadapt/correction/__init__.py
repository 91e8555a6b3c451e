"""Output rows corrected with text: what the base model would have said, asked in the new tokens.

Old rows know what follows an old token, new rows what follows a new one, and a byte-equal copy is no
exception: after a token that holds the indentation, ``def`` stands where the base model used to say
`` def``. So the base model reads a text in its own tokens (`targets`), the transplanted one reads the
same text in the new ones (`states`), and the output rows are moved until the second says what the
first did (`correction`). No gradient goes through a model: all that is fitted is the last, linear step.
"""

from mergekit_tokenadapt.correction.correction import Correction, CorrectionReport
from mergekit_tokenadapt.correction.run import correct_output_rows
from mergekit_tokenadapt.correction.text import CalibrationText

__all__ = ["CalibrationText", "Correction", "CorrectionReport", "correct_output_rows"]
