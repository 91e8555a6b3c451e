"""A temporary folder that lives as long as the object that stands for it."""

from __future__ import annotations

import shutil
import tempfile
import weakref


class TemporaryFolder:
    """A new folder that is removed when this object is garbage-collected, or when the process ends.

    `tempfile.TemporaryDirectory` does not fit: it emits a ResourceWarning if nobody closes it, and here nobody can. A
    tokenizer that was read from the folder keeps this object, and its files, for as long as the tokenizer is used.

    Attributes:
        name: path of the folder.
    """

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="tokenadapt-")
        weakref.finalize(self, shutil.rmtree, self.name, ignore_errors=True)
