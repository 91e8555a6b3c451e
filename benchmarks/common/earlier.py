"""What the pages say of results that were measured before a change of the package."""

EARLIER = "earlier_ngrams"
"""Key of a run of `benchmarks.quality` that was measured before the change that `SENTENCE` names."""
COMMIT = "a3bf1b8"
"""The last commit before that change."""
SENTENCE = f"""Rows that use the space `ngram` (those of `calibrated` and others) were made by commit {COMMIT}. There,
this space kept line ends around a token, and marked case and leading spaces. [findings.md](findings.md) says how much
today's rows differ."""
"""For a page all of whose results are earlier ones. It begins on a new line."""
