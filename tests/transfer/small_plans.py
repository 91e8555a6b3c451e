"""Plans between tiny tokenizers, and the fixture `plan` (in conftest.py) of a plan with rows of every origin."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers_zoo import RandomSpace, make_transfer, with_method
from torch import Tensor

from mergekit_tokenadapt.tokenizer.files import TokenizerFiles
from mergekit_tokenadapt.transfer.plan import TransferPlan
from mergekit_tokenadapt.transfer.transfer import Transfer

OLD_ROWS = 474
"""Of the base of `plan`."""


def random_tensor(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def plan_of(transfer: Transfer, name: str = "hybrid", **options: Any) -> TransferPlan:
    return with_method(transfer, name, **options).make_plan()


def plan_between(base: TokenizerFiles, target: TokenizerFiles, name: str = "hybrid", **given: Any) -> TransferPlan:
    return plan_of(make_transfer(base, target, RandomSpace(seed=9), **given), name)
