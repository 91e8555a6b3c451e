"""Check that two models use the same ids for the same tokens, as speculative decoding requires."""

from __future__ import annotations

from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.folder import ModelFolder
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


def check_same_vocabulary(target: ModelFolder, draft: ModelFolder) -> None:
    """Check that every id stands for the same token in both models.

    Two tokens are the same if their bytes and their spellings are equal.

    Raises:
        TokenAdaptError: an id stands for different tokens. The message names the first such id.
    """
    ours, theirs = (folder.tokenizer.vocabulary.with_rows(folder.num_rows) for folder in (target, draft))
    different = [i for i in sorted(ours.by_id.keys() | theirs.by_id.keys()) if _meaning(ours, i) != _meaning(theirs, i)]
    if different:
        i = different[0]
        raise TokenAdaptError(
            f"{draft.name} cannot draft for {target.name}: {len(different):,} ids are different tokens; "
            f"id {i} is {_say(theirs, i)} in the draft and {_say(ours, i)} in the target. "
            "`mergekit-tokenadapt draft` gives a model the target's ids"
        )


def _meaning(vocabulary: Vocabulary, token_id: int) -> tuple[bytes, str] | None:
    token = vocabulary.by_id.get(token_id)
    return None if token is None else (token.bytes, token.spelling)


def _say(vocabulary: Vocabulary, token_id: int) -> str:
    token = vocabulary.by_id.get(token_id)
    return "no token" if token is None else repr(token.label)
