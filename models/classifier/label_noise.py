"""Labels of which a stated share is wrong: the forward correction of the loss.

    p(label j) = sum_i p(class i) C(i, j)      C(i, j) = s f(j) / (1 - f(i)) for j != i, 1 - s for j = i

A wrong label is another class, drawn by the frequencies f of all labels; s is the share of wrong ones. The network answers for
the class, and the loss compares what it says of the label: one that contradicts all others costs at most -log(s f / (1 - f)).
Source: Patrini et al. 2017 (forward correction).
Shapes: K classes, M samples: logits (M, K), confusion (K, K).
Units:  none.
Errors: ValueError for a share that is not in [0, 1).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST: Final = 1e-12
"""Probability below which a logarithm is not taken."""


def confusion_of(labels: NDArray[Any], classes: int, share: float) -> NDArray[np.float32]:
    """Return the confusion (K, K) of labels (M,) of which a share is wrong; rows sum to 1."""
    if not 0 <= share < 1:
        raise ValueError(f"the share of wrong labels lies in [0, 1), not {share}")
    frequency = np.bincount(labels, minlength=classes) / max(len(labels), 1)
    others = np.tile(frequency, (classes, 1))
    np.fill_diagonal(others, 0.0)
    total = others.sum(axis=1, keepdims=True)
    wrong = np.divide(others, total, out=np.zeros_like(others), where=total > 0)
    # Where there is no other class nothing can be wrong.
    shares = np.where(total[:, 0] > 0, share, 0.0)
    return np.asarray(np.diag(1 - shares) + shares[:, None] * wrong, np.float32)


def as_labelled(logits: Tensor, confusion: Tensor | None) -> Tensor:
    """Return the log probabilities (M, K) of the label, given the logits of the class; the logits where none is wrong."""
    if confusion is None:
        return logits
    return (torch.softmax(logits, dim=1) @ confusion).clamp(min=LEAST).log()
