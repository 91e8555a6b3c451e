"""A folder for as long as something is read from it."""

from __future__ import annotations

import shutil
import tempfile
import weakref


class TemporaryFolder:
    """A new folder, removed when nothing holds this object any more, or when the process ends.

    `tempfile.TemporaryDirectory` warns where it is not closed, and it could not be closed here: how long the files
    are needed is up to whoever holds the tokenizer that was read from them.

    Attributes:
        name: the path.
    """

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="tokenadapt-")
        weakref.finalize(self, shutil.rmtree, self.name, ignore_errors=True)
