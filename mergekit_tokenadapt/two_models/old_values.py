"""Put back into a config what depends on the vocabulary: token ids, spellings of tokens, and numbers of rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mergekit_tokenadapt.output.configs import Path
from mergekit_tokenadapt.output.id_keys import shape_of
from mergekit_tokenadapt.tokenizer.vocabulary import Vocabulary


@dataclass(frozen=True)
class OldValues:
    """The values that the configs of a base model had before a transplant."""

    adapted: Vocabulary
    """The vocabulary of the adapted model."""
    base: Vocabulary
    """The vocabulary of the base model."""
    sizes: Collection[Path] = ()
    """Paths of the keys that state the number of rows."""

    def put_into(self, now: Mapping[str, Any], then: Mapping[str, Any], path: Path = ()) -> dict[str, Any]:
        """Return a config of the adapted model with the base model's values where they depend on the vocabulary.

        Args:
            now: the adapted model's config, or a part of it; not changed.
            then: the same part of the base model's config. Keys that depend on the vocabulary and are missing here are
                removed.
            path: the path of the part.
        """
        result: dict[str, Any] = {}
        for key in (*now, *(key for key in then if key not in now)):
            where, value, old = (*path, key), now.get(key), then.get(key)
            if self._depends(where, value, self.adapted) or self._depends(where, old, self.base):
                result |= {key: old} if key in then else {}
            elif key in now:
                result[key] = self._value(value, old, where)
        return result

    def _value(self, value: Any, old: Any, path: Path) -> Any:
        if isinstance(value, Mapping):
            return self.put_into(value, old if isinstance(old, Mapping) else {}, path)
        if isinstance(value, list) and isinstance(old, list) and len(value) == len(old):
            return [self._value(one, before, path) for one, before in zip(value, old, strict=True)]
        return value

    def _depends(self, path: Path, value: Any, vocabulary: Vocabulary) -> bool:
        key = path[-1]
        is_spelling = key.endswith("_token") and isinstance(value, str) and value in vocabulary.by_spelling
        return (
            path in self.sizes
            or key == "tokenizer_class"
            or is_spelling
            or shape_of(key, value, vocabulary) is not None
        )
