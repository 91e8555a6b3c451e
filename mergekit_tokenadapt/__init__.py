"""Give a language model another tokenizer without training, as a mergekit recipe.

Where the package is installed, the stock mergekit commands understand a
``tokenizer.adapt`` block. A program that uses mergekit as a library calls `activate` once, before it
reads a recipe.
"""

from importlib.metadata import version

from mergekit_tokenadapt.plugin import activate

__version__ = version("mergekit-tokenadapt")

__all__ = ["__version__", "activate"]
