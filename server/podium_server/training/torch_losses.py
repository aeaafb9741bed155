"""Losses of one query's list: the student's scores as logits, the targets as logits, each (documents,) float32.

sentence-transformers has most of these as modules that tokenize, call a model and reduce over a batch. A step here
mixes lists of several sources, each with its own loss, over scores of one pass, so what is needed is the loss alone;
tests/training compares them with the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812  # as everyone calls it
from torch import Tensor

_GAP_MAX = 2.0
"""Of two targets, in RankNet's weight: beyond it a pair is just a pair in order."""
_LEAST = 1e-6


def kl(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the divergence of the student's distribution over the list from the targets' (both softmax)."""
    return F.kl_div(F.log_softmax(scores, -1), F.softmax(targets, -1), reduction="sum")


def listnet(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of top-one probabilities (ListNet, Cao et al. 2007): `kl` plus a constant."""
    return -(F.softmax(targets, -1) * F.log_softmax(scores, -1)).sum()


def listmle(scores: Tensor, targets: Tensor) -> Tensor:
    """Return -log of the probability of the targets' order (Plackett-Luce; Xia et al. 2008), a document."""
    ordered = scores[torch.argsort(targets, descending=True, stable=True)]
    rest = torch.logcumsumexp(ordered.flip(0), 0).flip(0)
    return (rest - ordered).mean()


def ranknet(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the logistic loss over pairs, each weighted by how far apart its targets are (Burges et al. 2005)."""
    gap = targets[:, None] - targets[None]
    weight = gap.clamp(0, _GAP_MAX) * (gap > _LEAST)
    return (weight * F.softplus(scores[None] - scores[:, None])).sum() / weight.sum().clamp(min=_LEAST)


def lambda_loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Return RankNet's loss with each pair weighted by what its swap costs in discount (LambdaRank's idea).

    Gains are 1 / rank by target, discounts those of nDCG at the student's present order.
    """
    gains = 1 / (1 + torch.argsort(torch.argsort(targets, descending=True, stable=True)).float())
    ranks = torch.argsort(torch.argsort(scores.detach(), descending=True, stable=True)).float()
    discounts = 1 / torch.log2(ranks + 2)
    differ = (targets[:, None] - targets[None]) > _LEAST
    weight = (gains[:, None] - gains[None]).clamp(min=0) * (discounts[:, None] - discounts[None]).abs() * differ
    return 2 * (weight * F.softplus(scores[None] - scores[:, None])).sum() / weight.sum().clamp(min=_LEAST)


def margin_mse(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the squared error of the margins to the best document (arXiv 2010.02666)."""
    best = int(torch.argmax(targets))
    return F.mse_loss(scores[best] - scores, targets[best] - targets)


def mse(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the squared error of the scores themselves."""
    return F.mse_loss(scores, targets)


def bce(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each document being relevant (target above 0) or not."""
    return F.binary_cross_entropy_with_logits(scores, (targets > 0).float())


def contrastive(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each best document against those that are not as good, the mean over the best."""
    best = targets >= targets.max() - _LEAST
    others = scores.masked_fill(best, float("-inf"))
    against = torch.logsumexp(others, -1)
    return (torch.logaddexp(scores[best], against) - scores[best]).mean() if not bool(best.all()) else scores.sum() * 0


def in_batch(scores: Tensor, same: Tensor) -> Tensor:
    """Return the cross-entropy of each query's own positive among all texts of the batch (MNRL, arXiv 1705.00652).

    Args:
        scores: (queries, texts) logits; text i is the positive of query i.
        same: (queries, texts) whether a text is another copy of the query's positive, or positive for it as well.

    """
    return F.cross_entropy(scores.masked_fill(same, -1e4), torch.arange(len(scores), device=scores.device))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": kl,
    "listnet": listnet,
    "listmle": listmle,
    "ranknet": ranknet,
    "lambda": lambda_loss,
    "margin-mse": margin_mse,
    "mse": mse,
    "bce": bce,
    "contrastive": contrastive,
}


def mixed(losses: Mapping[str, float], scores: Tensor, targets: Tensor) -> Tensor:
    """Return the weighted sum of several losses of one list."""
    total = scores.new_zeros(())
    for name, weight in losses.items():
        total = total + weight * LOSSES[name](scores, targets)
    return total
