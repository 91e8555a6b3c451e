"""Losses between models with different tokenizers, as plain as they can be: they show what the files of
`align` are for, and that they are right. For training, use a trainer's own.

Letters: T tokens, S spans, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.two_models.nearest_tokens import NearestTokens


def span_log_probabilities(logits_TV: Tensor, ids_T: np.ndarray, ends_S: np.ndarray) -> Tensor:
    """Log probability of each span: the sum over its tokens, float32 [S].

    Args:
        logits_TV: for each token, the logits that it is predicted with.
        ids_T: the tokens.
        ends_S: number of tokens up to and including each span.
    """
    chosen = torch.from_numpy(ids_T.astype(np.int64)).to(logits_TV.device)
    tokens_T = logits_TV.float().log_softmax(dim=1).gather(1, chosen[:, None]).squeeze(1)
    lengths = torch.from_numpy(np.diff(ends_S, prepend=0).astype(np.int64)).to(logits_TV.device)
    span_T = torch.repeat_interleave(torch.arange(len(ends_S), device=logits_TV.device), lengths)
    return torch.zeros(len(ends_S), device=logits_TV.device).index_add(0, span_T, tokens_T)


def alm_loss(teacher_S: Tensor, student_S: Tensor, temperature: float = 100.0) -> Tensor:
    """Approximate likelihood matching (arXiv 2503.20083, 3.2), with Kullback and Leibler's divergence.

    The probability of a span, to the power 1 / temperature, and its complement are taken for a
    distribution of two outcomes. The mean over spans is 0 where both models say the same of each.
    """
    teacher_S, student_S = (log.clamp(max=-1e-6) / temperature for log in (teacher_S, student_S))
    others_teacher, others_student = (torch.log(-torch.expm1(log)) for log in (teacher_S, student_S))
    divergence_S = teacher_S.exp() * (teacher_S - student_S)
    divergence_S = divergence_S + others_teacher.exp() * (others_teacher - others_student)
    return divergence_S.mean()


def carry_over(probabilities_TV: Tensor, nearest: NearestTokens, num_rows: int) -> Tensor:
    """Distributions over one vocabulary, carried to another by nearest tokens: [T, num_rows], rows sum to 1.

    Every token hands its probability to its nearest one; what belongs to tokens without one is shared
    out in proportion.
    """
    known = np.flatnonzero(nearest.ids >= 0)
    places = torch.from_numpy(nearest.ids[known].astype(np.int64)).to(probabilities_TV.device)
    carried = probabilities_TV.new_zeros(len(probabilities_TV), num_rows)
    carried.index_add_(1, places, probabilities_TV[:, torch.from_numpy(known).to(places.device)])
    return carried / carried.sum(dim=1, keepdim=True)
