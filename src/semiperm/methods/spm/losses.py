"""The losses of the paper as plain functions of predictions (arXiv:2312.16145, eqs. 4 and 8).

Every tensor is a prediction of the denoiser, of any one type (epsilon, v or velocity): each term is linear in it.
"""

from torch import Tensor


def erasing_target(target: Tensor, surrogate: Tensor, eta: float) -> Tensor:
    """Return the goal of the guarded prediction for the target: the surrogate, pushed eta times away from the target.

    `target` and `surrogate` are the bare model's predictions at one noisy state (arXiv:2312.16145, eq. 4).
    """
    return surrogate - eta * (target - surrogate)


def erasing_loss(guarded: Tensor, target: Tensor, surrogate: Tensor, eta: float) -> Tensor:
    """Return the mean squared distance of the guarded prediction to `erasing_target`, which carries no gradient."""
    return (guarded - erasing_target(target, surrogate, eta).detach()).square().mean()


def anchoring_loss(guarded: Tensor, bare: Tensor) -> Tensor:
    """Return the mean squared change of the anchors' predictions (arXiv:2312.16145, eq. 8)."""
    return (guarded - bare.detach()).square().mean()


def total_loss(erasing: Tensor, anchoring: Tensor, anchor_weight: float) -> Tensor:
    """Return L_era + lambda L_anc."""
    return erasing + anchor_weight * anchoring
