"""One model's way from its own tokenizer to another: everything that a plan is made of, and that a method is given.

Letters: N new tokens, C candidate old tokens, A dimensions of the auxiliary space.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.auxiliary import AuxiliarySpace
from mergekit_tokenadapt.auxiliary.base import OwnedToken
from mergekit_tokenadapt.errors import TokenAdaptError
from mergekit_tokenadapt.models.donor import Donor
from mergekit_tokenadapt.models.folder import ModelFolder, open_model
from mergekit_tokenadapt.models.last_states import LastStates, vocabulary_matrices
from mergekit_tokenadapt.texts.sources import split_settings
from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.tokenizer.segmentation import Pieces, Segmenter
from mergekit_tokenadapt.tokenizer.vocabulary import Token, TokenKind
from mergekit_tokenadapt.transfer.adapt_config import AdaptConfig
from mergekit_tokenadapt.transfer.glossary import Glossary, GlossaryRows
from mergekit_tokenadapt.transfer.matching import Reason, VocabularyMap, match
from mergekit_tokenadapt.transfer.method import Method
from mergekit_tokenadapt.transfer.neighbours import BLOCK, nearest
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.planning import plan_rows
from mergekit_tokenadapt.transfer.rows import choose_rows

CPU = torch.device("cpu")
SHARED = (
    "mapping",
    "_base_model",
    "defined",
    "segmenter",
    "candidates",
    "candidate_ids",
    "_all_new_tokens",
    "_vectors",
)
"""What is cached and does not depend on `Transfer.only`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Transfer:
    """A base tokenizer, a target tokenizer and a method. Old rows are known, new rows are wanted.

    `Transfer.of` makes it from the options of a recipe, and nothing else does. The properties that a method needs are
    computed on first use and cached. Transfers are compared by identity.
    """

    base: TokenizerFiles
    """The model's own tokenizer."""
    target: TokenizerFiles
    """The tokenizer that the model gets."""
    method_name: str
    """The name under which the method is registered. The plan records it."""
    method: Method
    """The method with its options."""
    num_rows: int
    """Rows of the new matrices."""
    base_rows: int
    """Rows of the old matrices."""
    auxiliary: AuxiliarySpace | None = None
    """The space in which token texts are compared, for methods that need it."""
    donor: Donor | None = None
    """The target's model, for methods that need it."""
    base_folder: str = ""
    """Folder or hub id of the base model, for methods that run it."""
    loaded_model: Any = None
    """The base model of transformers where it is in memory already; it is run in place of that in `base_folder`."""
    token_map: Mapping[str, str] = field(default_factory=dict)
    """The user's pairs of special tokens, see `read_token_map`."""
    glossary: Glossary | None = None
    """What the user says about the meaning of new tokens."""
    device: torch.device = CPU
    """Where vectors are kept and neighbours are searched for."""
    quiet: bool = False
    """Whether to show no progress bars."""
    trust_remote_code: bool = False
    """Whether the base model's own code may run."""
    only: frozenset[int] | None = None
    """Target ids of the new tokens to make rows for; None: all."""

    @classmethod
    def of(
        cls,
        adapt: AdaptConfig,
        *,
        base: TokenizerFiles,
        target: TokenizerFiles,
        base_rows: int,
        num_rows: int | None = None,
        pad_to_multiple_of: int | None = None,
        auxiliary: AuxiliarySpace | None = None,
        donor: Donor | None = None,
        base_folder: str | None = None,
        loaded_model: Any = None,
        device: torch.device = CPU,
        quiet: bool = False,
        trust_remote_code: bool = False,
    ) -> Transfer:
        """Return the transfer that the options of a recipe's ``adapt`` block ask for, checked.

        Args:
            adapt: the options.
            base: the model's own tokenizer.
            target: the tokenizer that the model is to get.
            base_rows: rows of the model's vocabulary matrices.
            num_rows: rows of the new ones; None: the number that `choose_rows` returns.
            pad_to_multiple_of: see `choose_rows`.
            auxiliary: the embedding space, where several transfers share it; None: the one that `adapt` names.
            donor: the target's model, for methods that need it; None: the weights at `target.name`.
            base_folder: folder or hub id of the base model, for methods that run it; None: `base.name`.
            loaded_model: the base model where it is in memory already.
            device: where neighbours are searched for, and the base model is run.
            quiet: whether to show no progress bars.
            trust_remote_code: whether a donor's or the base model's own code may run.

        Raises:
            TokenAdaptError: `choose_rows` or `check` refuses the options.
        """
        method = adapt.make_method()
        if num_rows is None:
            num_rows = choose_rows(adapt.rows, [(base, base_rows)], target, pad_to_multiple_of)
        if method.needs_donor and donor is None:
            donor = Donor(target.name, trust_remote_code)
        transfer = cls(
            base=base,
            target=target.with_rows(num_rows),
            method_name=adapt.method,
            method=method,
            num_rows=num_rows,
            base_rows=base_rows,
            auxiliary=auxiliary or adapt.make_auxiliary(),
            donor=donor,
            base_folder=base_folder or base.name,
            loaded_model=loaded_model,
            trust_remote_code=trust_remote_code,
            token_map=adapt.token_map,
            glossary=None if adapt.glossary is None else Glossary.read(adapt.glossary),
            device=device,
            quiet=quiet,
        )
        transfer.check()
        return transfer

    def check(self) -> None:
        """Match the vocabularies, and refuse now what a plan could not be made of.

        Raises:
            TokenAdaptError: the token map names tokens that are unknown, or that have no row; the method asks for
                more tokens than the base has, or for a file that does not exist; it needs a donor, and the target has
                no weights; it runs the base model, and there is none; or the glossary contradicts itself or the token
                map, or names no token of the target.
        """
        self.method.check(len(self.base.vocabulary))
        for option, place in self.method.files.items():
            if not Path(split_settings(place)[0]).exists():
                raise TokenAdaptError(f"{option}: there is no file or folder {place!r}")
        _ = self.mapping, self.defined
        if self.method.needs_donor:
            assert self.donor is not None
            self.donor.check(self.target.vocabulary)
        if self.method.needs_base_model and self.loaded_model is None:
            _ = self._base_model

    def make_plan(self) -> TransferPlan:
        """Let the method weigh the new tokens, and return the plan.

        Vectors and pieces are computed in a copy and freed with it: they may take more memory than the matrices to
        which the plan is applied.

        Raises:
            TokenAdaptError: see `plan_rows`.
        """
        return plan_rows(self._copy(self.only))

    def among(self, ids: Iterable[int]) -> Transfer:
        """Return the same transfer for some of the new tokens, given by target id.

        Segmenter and vectors are computed once and shared by all parts.
        """
        _ = self.segmenter
        if self.auxiliary is not None:
            _ = self._vectors
        return self._copy(frozenset(ids))

    def _copy(self, only: frozenset[int] | None) -> Transfer:
        """Return a copy for these new tokens, which shares what is cached already and does not depend on them."""
        copy = replace(self, only=only)
        copy.__dict__.update({name: self.__dict__[name] for name in SHARED if name in self.__dict__})
        return copy

    # --- what a method is given ------------------------------------------------------------------

    @cached_property
    def mapping(self) -> VocabularyMap:
        """How the two vocabularies match: the reason and the source of each new row."""
        base, target = self.base.vocabulary, self.target.vocabulary
        return match(base, target, num_rows=self.num_rows, base_rows=self.base_rows, token_map=self.token_map)

    @cached_property
    def _base_model(self) -> ModelFolder:
        folder = Path(self.base_folder or "")
        if (folder / "config.json").is_file():  # a base with an adapter is merged into a folder without a tokenizer
            return ModelFolder(self.base.name, folder, self.base, self.trust_remote_code)
        try:
            opened = open_model(self.base_folder, trust_remote_code=self.trust_remote_code)
        except TokenAdaptError as error:
            raise TokenAdaptError(f"the method {self.method_name} reads with the base model: {error}") from error
        return replace(opened, tokenizer=self.base)

    def base_matrices(self) -> list[Tensor]:
        """Return the base model's input matrix, and its output matrix if that is another one, each [base_rows, D].

        Raises:
            TokenAdaptError: the model has no vocabulary matrix.
        """
        if self.loaded_model is not None:
            return vocabulary_matrices(self.loaded_model)
        names = (self._base_model.input_matrix, self._base_model.output_matrix)
        return [self._base_model.rows(name) for name in names if name is not None]

    def load_base_model(self) -> LastStates:
        """Return the base model, to read tokens with it.

        Raises:
            TokenAdaptError: the model cannot be loaded, or its layers are not found.
        """
        if self.loaded_model is not None:
            return LastStates(self.loaded_model, self.base.vocabulary, self.base.name)
        return LastStates.of_folder(self._base_model, self.device)

    @cached_property
    def segmenter(self) -> Segmenter:
        """Segments texts into base tokens that have a row."""
        return Segmenter(self.base.definition, self.base.vocabulary, self.base_rows)

    @cached_property
    def defined(self) -> GlossaryRows | None:
        """The rows of the tokens that the glossary defines; None if there are none."""
        if self.glossary is None:
            return None
        rows = self.glossary.define(self.target.vocabulary, self.mapping, self.segmenter)
        return rows if len(rows.ids) else None

    @property
    def glossary_record(self) -> dict[str, Any] | None:
        """What the manifest states about the glossary; None if it makes no row."""
        return None if self.glossary is None or self.defined is None else self.glossary.describe()

    @cached_property
    def new_tokens(self) -> list[Token]:
        """The N target tokens for which the method makes rows, by ascending id.

        Special tokens without a counterpart are not among them, because they stand for no text. Tokens of the glossary
        are not among them either.
        """
        return [t for t in self._all_new_tokens if self.only is None or t.id in self.only]

    @cached_property
    def _all_new_tokens(self) -> list[Token]:
        ids = self.mapping.ids(Reason.NEW)
        if self.defined is not None:
            ids = np.setdiff1d(ids, self.defined.ids)
        tokens = map(self.target.vocabulary.by_id.__getitem__, ids.tolist())
        return [t for t in tokens if t.kind is not TokenKind.SPECIAL]

    @cached_property
    def new_ids(self) -> np.ndarray:
        """The ids of the new tokens, int64 [N]."""
        return np.array([t.id for t in self.new_tokens], dtype=np.int64)

    @cached_property
    def pieces(self) -> Pieces:
        """The base tokens into which each new token's text is segmented."""
        return self.segmenter.segment([t.bytes for t in self.new_tokens])

    @cached_property
    def candidates(self) -> list[Token]:
        """The C base tokens that can be neighbours: all that stand for text and have a row.

        Where the method sets `unreachable_as_mean`, byte twins are left out, because nothing trained their rows. The
        order is by bytes, so that ties between neighbours do not depend on the order of ids.
        """
        vocabulary = self.base.vocabulary
        left_out = vocabulary.byte_twins if self.method.unreachable_as_mean else frozenset()
        text_tokens = (t for t in vocabulary if t.kind is not TokenKind.SPECIAL and t.id not in left_out)
        usable = [t for t in text_tokens if t.id < self.base_rows]
        return sorted(usable, key=lambda t: (t.bytes, t.kind, t.spelling))

    @cached_property
    def candidate_ids(self) -> Tensor:
        """The ids of the candidates, int64 [C], on `device`."""
        return torch.tensor([t.id for t in self.candidates], dtype=torch.int64, device=self.device)

    @cached_property
    def _vectors(self) -> tuple[Tensor, dict[str, int]]:
        """Unit vectors of all distinct texts of candidates and new tokens, and the place of each text among them."""
        assert self.auxiliary is not None, "this method needs an auxiliary space"
        # All new tokens, whatever `only` is: the parts of a transfer share the vectors. Where a new token has the text
        # of a candidate, they share its vector as well.
        by_text = {t.label: OwnedToken(self.target, t) for t in self._all_new_tokens}
        by_text |= {t.label: OwnedToken(self.base, t) for t in self.candidates}
        texts = sorted(by_text)
        vectors = self.auxiliary.embed_tokens([by_text[t] for t in texts], device=self.device, quiet=self.quiet)
        return torch.nn.functional.normalize(vectors.to(self.device), dim=1), {t: n for n, t in enumerate(texts)}

    def vectors_of(self, tokens: list[Token]) -> Tensor:
        """Return the unit vectors of candidates or new tokens, float32 [len(tokens), A], on `device`.

        A text that the auxiliary space knows nothing about has a zero vector.
        """
        vectors, place = self._vectors
        return vectors[torch.tensor([place[t.label] for t in tokens], dtype=torch.int64, device=self.device)]

    def neighbours(self, top_k: int, *, block: int = BLOCK) -> tuple[Tensor, Tensor]:
        """Return the `top_k` candidates nearest to each new token, most similar first.

        Args:
            top_k: candidates wanted for each new token.
            block: new tokens searched at a time, at most.

        Returns:
            Cosine similarities, float32 [N, k], and ids of base tokens, int64 [N, k]; k = min(top_k, C). The
            similarity is -inf where there is no such neighbour, see `nearest`.
        """
        similarities_Nk, places_Nk = nearest(
            self.vectors_of(self.new_tokens),
            self.vectors_of(self.candidates),
            top_k,
            desc="Nearest old tokens of new ones",
            block=block,
            quiet=self.quiet,
        )
        return similarities_Nk, self.candidate_ids[places_Nk]

    def candidate_neighbours(
        self, top_k: int, *, among: list[int] | None = None, block: int = BLOCK
    ) -> tuple[Tensor, Tensor]:
        """Return the `top_k` candidates nearest to each candidate, which is never its own neighbour.

        Args:
            top_k: candidates wanted for each query.
            among: places of the candidates that are queries; None: all.
            block: queries searched at a time, at most.

        Returns:
            As `neighbours`, with a row for each query.
        """
        candidates_CA = self.vectors_of(self.candidates)
        own = torch.arange(len(self.candidates)) if among is None else torch.tensor(among, dtype=torch.int64)
        own = own.to(self.device)
        similarities_Qk, places_Qk = nearest(
            candidates_CA[own],
            candidates_CA,
            top_k,
            desc="Nearest old tokens of old ones",
            own_Q=own,
            block=block,
            quiet=self.quiet,
        )
        return similarities_Qk, self.candidate_ids[places_Qk]
