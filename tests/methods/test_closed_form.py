"""The instant membrane solves the ridge regression that it states, and its low-rank part is the best there is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semiperm.methods.spm.closed_form import (
    REACH,
    best_change,
    direction,
    firmest,
    low_rank,
    metric,
    reached,
    solve,
    square_root,
)
from semiperm.methods.spm.losses import erasing_target

OUT, TEXT = 5, 7
SEED = st.integers(0, 10_000)


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(seed: int) -> Tensor:
    root = numbers(seed, TEXT, TEXT)
    return root @ root.T + 0.1 * torch.eye(TEXT, dtype=torch.float64)


def error(change: Tensor, candidate: Tensor, metric_cc: Tensor) -> float:
    """The squared weighted distance, written as a trace and so without any root of the metric."""
    rest = change - candidate
    return float((rest @ metric_cc @ rest.T).trace())


# how features should move


@given(SEED, st.floats(0, 5))
@settings(max_examples=30, deadline=None)
def test_the_direction_is_the_text_side_of_the_erasing_target(seed: int, eta: float) -> None:
    e, s, weight = numbers(seed, 4, TEXT), numbers(seed + 1, 4, TEXT), numbers(seed + 2, OUT, TEXT)
    moved = e + direction(e, s, eta)
    torch.testing.assert_close(moved @ weight.T, erasing_target(e @ weight.T, s @ weight.T, eta))


def test_without_a_push_the_target_moves_onto_the_surrogate() -> None:
    e, s = numbers(0, 4, TEXT), numbers(1, 4, TEXT)
    torch.testing.assert_close(e + direction(e, s, 0.0), s)
    assert not direction(e, e, 3.0).any()


# the ridge regression


@pytest.mark.parametrize(("anchor_weight", "ridge"), [(10.0, 1e-3), (0.0, 0.5), (300.0, 1e-2)])
@pytest.mark.parametrize("targets", [1, 3, 40])
def test_the_change_is_the_least_squares_solution_of_the_stacked_system(
    targets: int, anchor_weight: float, ridge: float
) -> None:
    e, s, p = numbers(0, targets, TEXT), numbers(1, targets, TEXT), numbers(2, 11, TEXT)
    weight = numbers(3, OUT, TEXT)
    g = -(1 + 1.5) * (e - s)
    rows = np.concatenate([e / targets**0.5, p * (anchor_weight / 11) ** 0.5, np.eye(TEXT) * ridge**0.5])
    wanted = np.concatenate([(g @ weight.T) / targets**0.5, np.zeros((11 + TEXT, OUT))])
    expected = np.linalg.lstsq(rows, wanted, rcond=None)[0].T
    found = best_change(weight, e, direction(e, s, 1.5), metric(e, p, anchor_weight, ridge))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=1e-9)


def test_the_change_is_where_the_stated_cost_has_no_slope() -> None:
    e, g, p, weight = numbers(0, 6, TEXT), numbers(1, 6, TEXT), numbers(2, 9, TEXT), numbers(3, OUT, TEXT)
    change = best_change(weight, e, g, metric(e, p, 10.0, 0.01)).requires_grad_()
    cost = (
        (e @ change.T - g @ weight.T).square().sum(1).mean()
        + 10.0 * (p @ change.T).square().sum(1).mean()
        + 0.01 * change.square().sum()
    )
    (slope,) = torch.autograd.grad(cost, change)
    assert slope.abs().max() < 1e-10


# how much anchors weigh


def test_what_is_reached_falls_as_one_anchor_along_the_target_weighs_more() -> None:
    # With e = p = one axis and no ridge, D e = g / (1 + weight).
    e, g = torch.eye(TEXT, dtype=torch.float64)[:1], numbers(0, 1, TEXT)
    for weight in (0.0, 1.0, 3.0):
        found = reached(e, g, metric(e, e, weight, 1e-9))
        assert found == pytest.approx(1 - (weight / (1 + weight)) ** 2, abs=1e-6)


@pytest.mark.parametrize(("along", "times"), [(0.01, 100), (0.03, 10), (1.0, 1)])
def test_anchors_weigh_as_much_as_leaves_the_target_within_reach(along: float, times: int) -> None:
    axes = torch.eye(TEXT, dtype=torch.float64)
    e, s, p = axes[:1], axes[1:2], along * axes[:1]
    weight = firmest(e, s, p, eta=0.3, anchor_weight=10.0, ridge=1e-6)
    assert weight == 10.0 * times
    if times > 1:
        assert reached(e, direction(e, s, 0.3), metric(e, p, weight, 1e-6)) >= REACH


# the low-rank part


@given(SEED, st.integers(1, OUT))
@settings(max_examples=30, deadline=None)
def test_the_error_is_the_tail_of_the_singular_values_in_the_metric(seed: int, rank: int) -> None:
    change, m = numbers(seed, OUT, TEXT), positive(seed + 1)
    up, down = low_rank(change, square_root(m), rank)
    assert up.shape == (OUT, rank) and down.shape == (rank, TEXT)
    # Cholesky's factor is another square root of the metric than the one in the code.
    tail = np.linalg.svd(change.numpy() @ np.linalg.cholesky(m.numpy()), compute_uv=False)[rank:]
    assert error(change, up @ down, m) == pytest.approx(float((tail**2).sum()), rel=1e-6, abs=1e-9)


@given(SEED)
@settings(max_examples=30, deadline=None)
def test_no_rank_1_competitor_is_better(seed: int) -> None:
    change, m = numbers(seed, OUT, TEXT), positive(seed + 1)
    up, down = low_rank(change, square_root(m), 1)
    best = error(change, up @ down, m)
    for number in range(20):
        v = numbers(seed + 100 + number, TEXT, 1)
        # Alternating least squares from a random direction makes strong competitors.
        for _ in range(3):
            u = change @ m @ v / (v.T @ m @ v)
            assert error(change, u @ v.T, m) >= best - 1e-9 * (1 + best)
            v = change.T @ u / (u.T @ u)
        near = error(change, (up + 0.01 * numbers(seed + number, OUT, 1)) @ down, m)
        assert near >= best - 1e-9 * (1 + best)


def test_alternating_least_squares_ends_at_the_same_product() -> None:
    change, m = numbers(0, OUT, TEXT), positive(1)
    u, v = numbers(3, OUT, 1), numbers(2, TEXT, 1)
    for _ in range(3000):
        u = change @ m @ v / (v.T @ m @ v)
        v = change.T @ u / (u.T @ u)
    up, down = low_rank(change, square_root(m), 1)
    torch.testing.assert_close(up @ down, u @ v.T, rtol=1e-6, atol=1e-8)


def test_full_rank_gives_the_change_itself() -> None:
    change, m = numbers(0, OUT, TEXT), positive(1)
    up, down = low_rank(change, square_root(m), OUT)
    torch.testing.assert_close(up @ down, change)


def test_the_metric_decides_what_is_kept() -> None:
    # Two rank-1 parts; the smaller one acts where nearly all features lie.
    change = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    seen = torch.diag(torch.tensor([0.01, 100.0], dtype=torch.float64))
    up, down = low_rank(change, square_root(seen), 1)
    torch.testing.assert_close(up @ down, torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64)))


def test_a_rank_beyond_the_layers_size_is_filled_with_zeros() -> None:
    change, metric_CC = numbers(0, 3, 5), torch.eye(5, dtype=torch.float64)
    up, down = low_rank(change, square_root(metric_CC), 7)
    assert up.shape == (3, 7) and down.shape == (7, 5)
    assert not up[:, 3:].any() and not down[3:].any()
    torch.testing.assert_close(up @ down, change)


# all of it


def test_orthogonal_anchors_do_not_move_and_the_target_goes_where_it_should() -> None:
    axes = torch.eye(TEXT, dtype=torch.float64)
    e, s, p = axes[:1], axes[1:2], axes[2:]
    weight = numbers(0, OUT, TEXT)
    [(up, down)] = solve([weight], e, s, p, eta=1.0, anchor_weight=10.0, ridge=1e-9, rank=1)
    assert up.dtype == down.dtype == torch.float32 and up.shape == (OUT, 1) and down.shape == (1, TEXT)
    change = (up @ down).double()
    torch.testing.assert_close(e @ (weight + change).T, (2 * s - e) @ weight.T, rtol=1e-5, atol=1e-5)
    assert (p @ change.T).abs().max() < 1e-5


def test_more_weight_on_the_anchors_moves_them_less() -> None:
    e, s, p = numbers(0, 6, TEXT), numbers(1, 6, TEXT), numbers(2, 30, TEXT)
    moved = []
    for anchor_weight in (0.1, 1.0, 10.0, 100.0):
        settings_ = {"eta": 1.0, "anchor_weight": anchor_weight, "ridge": 1e-3}
        [(up, down)] = solve([numbers(3, OUT, TEXT)], e, s, p, rank=OUT, **settings_)
        moved.append(float((p @ (up @ down).double().T).norm()))
    assert moved == sorted(moved, reverse=True)


def test_a_surrogate_that_is_the_target_asks_for_no_change() -> None:
    e, p = numbers(0, 6, TEXT), numbers(2, 9, TEXT)
    [(up, down)] = solve([numbers(3, OUT, TEXT)], e, e, p, eta=1.0, anchor_weight=10.0, ridge=1e-3, rank=1)
    assert not (up @ down).any()
