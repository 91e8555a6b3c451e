"""Reference losses for models with different tokenizers.

They show how to use the files of `align`, and tests check the files with them. They are not optimised; for training,
use the losses of a trainer.

Letters: T tokens, S spans, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mergekit_tokenadapt.two_models.nearest_tokens import NearestTokens


def span_log_probabilities(logits_TV: Tensor, ids_T: np.ndarray, ends_S: np.ndarray) -> Tensor:
    """Return the log probability of each span (the sum over its tokens, in nats), float32 [S].

    Args:
        logits_TV: for each token, the logits at the position before it.
        ids_T: the token ids.
        ends_S: for each span, the number of tokens up to its end.
    """
    chosen = torch.from_numpy(ids_T.astype(np.int64)).to(logits_TV.device)
    tokens_T = logits_TV.float().log_softmax(dim=1).gather(1, chosen[:, None]).squeeze(1)
    lengths = torch.from_numpy(np.diff(ends_S, prepend=0).astype(np.int64)).to(logits_TV.device)
    span_T = torch.repeat_interleave(torch.arange(len(ends_S), device=logits_TV.device), lengths)
    return torch.zeros(len(ends_S), device=logits_TV.device).index_add(0, span_T, tokens_T)


def alm_loss(teacher_S: Tensor, student_S: Tensor, temperature: float = 100.0) -> Tensor:
    """Approximate likelihood matching (arXiv 2503.20083, section 3.2) with the Kullback-Leibler divergence.

    The probability of a span to the power 1 / temperature, and one minus this value, form a distribution over two
    outcomes. The loss is the mean divergence over spans. It is 0 if both models give every span the same probability.

    Args:
        teacher_S: the teacher's log probability of each span, in nats.
        student_S: the student's log probability of each span, in nats.
        temperature: probabilities of long spans are close to 0, where differences would hardly count. A high
            temperature moves them away from 0.
    """
    # log(1 - p) is not finite at p = 1.
    teacher_S, student_S = (log.clamp(max=-1e-6) / temperature for log in (teacher_S, student_S))
    others_teacher, others_student = (torch.log(-torch.expm1(log)) for log in (teacher_S, student_S))
    divergence_S = teacher_S.exp() * (teacher_S - student_S)
    divergence_S = divergence_S + others_teacher.exp() * (others_teacher - others_student)
    return divergence_S.mean()


def carry_over(probabilities_TV: Tensor, nearest: NearestTokens, num_rows: int) -> Tensor:
    """Map distributions over one vocabulary to another by nearest tokens. Returns [T, num_rows]; each row sums to 1.

    Each token gives its probability to its nearest token. The probability of tokens without a nearest token is
    distributed over the others in proportion.

    Args:
        probabilities_TV: one distribution over the first vocabulary for each position.
        nearest: the nearest tokens in the second vocabulary.
        num_rows: number of ids of the second vocabulary.
    """
    known = np.flatnonzero(nearest.ids >= 0)
    places = torch.from_numpy(nearest.ids[known].astype(np.int64)).to(probabilities_TV.device)
    carried = probabilities_TV.new_zeros(len(probabilities_TV), num_rows)
    carried.index_add_(1, places, probabilities_TV[:, torch.from_numpy(known).to(places.device)])
    return carried / carried.sum(dim=1, keepdim=True)
