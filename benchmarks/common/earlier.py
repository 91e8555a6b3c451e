"""What the pages say of results that were measured before a change of the package."""

EARLIER = "earlier_ngrams"
"""Key of a run of `benchmarks.quality` that was measured before the change that `CHANGE` names."""
COMMIT = "a3bf1b8"
"""The last commit before that change."""
CHANGE = f"""were made by commit {COMMIT}. There, the space `ngram`
kept line ends around a token, and marked case and leading spaces. [findings.md](findings.md) says how much today's rows
differ."""
"""The end of a sentence that begins with what is earlier."""
