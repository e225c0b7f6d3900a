"""Fitted subspaces: planted directions come back, identities hold to rounding, and each says how it was found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from interp.errors import InputError, ShapeMismatchError
from interp.interventions import (
    Featurizer,
    Fitted,
    Identity,
    Replace,
    Rotation,
    Select,
    Subspace,
    apply,
    each,
    from_safetensors,
    kmeans,
    lda,
    linear_probe,
    mean_difference,
    pca,
    pls,
    random_subspace,
    to_safetensors,
)

ROWS, WIDTH = 60, 8


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cos(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0).item()


def error(basis: Tensor) -> float:
    q = basis.double()
    return float((q.mT @ q - torch.eye(q.shape[1], dtype=q.dtype)).abs().max())


def projector(basis: Tensor) -> Tensor:
    return basis.double() @ basis.double().mT


def two_classes(seed: int, rows: int = ROWS, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    labels = torch.arange(rows) % 2
    return drawn(seed, rows, width) + labels[:, None] * 3 * drawn(seed + 1, width), labels


LABELS = torch.arange(ROWS) % 2
EVERY: dict[str, Callable[[Tensor], Fitted]] = {
    "pca": lambda acts: pca(acts, 3),
    "pls": lambda acts: pls(acts, LABELS.double(), 2),
    "mean difference": lambda acts: mean_difference(acts, LABELS),
    "mean difference of three": lambda acts: mean_difference(acts, torch.arange(ROWS) % 3),
    "lda": lambda acts: lda(acts, LABELS),
    "lda pattern": lambda acts: lda(acts, LABELS, "pattern"),
    "lda of three": lambda acts: lda(acts, torch.arange(ROWS) % 3),
    "k-means": kmeans,
    "k-means of three": lambda acts: kmeans(acts, 3),
    "logistic": lambda acts: linear_probe(acts, LABELS),
    "logistic of three": lambda acts: linear_probe(acts, torch.arange(ROWS) % 3),
    "ridge": lambda acts: linear_probe(acts, LABELS, "ridge"),
}
RANKS = {"pca": 3, "pls": 2, "mean difference of three": 2, "lda of three": 2, "k-means of three": 2, "logistic of three": 2}


@pytest.mark.parametrize("name", EVERY)
def test_each_is_an_orthonormal_subspace_that_is_saved_with_how_it_was_found(name: str, seed: int) -> None:
    acts, _ = two_classes(seed)
    for given, dtype in ((acts, torch.float64), (acts.float(), torch.float32), (acts.bfloat16(), torch.float32)):
        fitted = EVERY[name](given)
        assert isinstance(fitted, Featurizer | Subspace)
        assert fitted.basis.shape == (WIDTH, RANKS.get(name, 1))
        assert fitted.basis.dtype == dtype
        assert error(fitted.basis) <= 1e-6
        assert fitted.fit.rows == ROWS
        again = from_safetensors(to_safetensors(fitted))
        assert isinstance(again, Fitted)
        assert torch.equal(again.basis, fitted.basis)
        assert (again.fit, again.spec()) == (fitted.fit, fitted.spec())
        assert error(again.basis) <= 1e-6
        h, s = drawn(seed + 2, 5, WIDTH), drawn(seed + 3, 5, WIDTH)
        torch.testing.assert_close(apply(Replace(), fitted, h, s), h + (s - h) @ projector(fitted.basis), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", EVERY)
def test_where_the_origin_lies_does_not_matter(name: str, seed: int) -> None:
    acts, _ = two_classes(seed)
    moved = acts + 10 * drawn(seed + 5, WIDTH)
    # Iterated solvers stop within their own tolerance; the closed forms differ by rounding alone.
    close = 1e-4 if name.startswith(("logistic", "k-means")) else 1e-8
    assert (projector(EVERY[name](acts).basis) - projector(EVERY[name](moved).basis)).abs().max() <= close


@pytest.mark.parametrize("name", EVERY)
def test_explained_is_the_share_of_variance_along_each_column(name: str, seed: int) -> None:
    acts, _ = two_classes(seed)
    fitted = EVERY[name](acts)
    shares = (acts @ fitted.basis).var(0, correction=0) / acts.var(0, correction=0).sum()
    assert fitted.fit.explained == pytest.approx(shares.tolist(), abs=1e-10)


# ground truths


def test_planted_classes_are_found(seed: int) -> None:
    """Two Gaussians of one covariance: discriminants find Σ⁻¹Δμ, means and the discriminant's pattern Δμ."""
    rows = 10_000
    factor = drawn(seed, WIDTH, WIDTH) / WIDTH**0.5 + 0.5 * torch.eye(WIDTH)
    sigma, delta = factor @ factor.mT, drawn(seed + 1, WIDTH)
    labels = torch.arange(rows) % 2
    acts = drawn(seed + 2, rows, WIDTH) @ factor.mT + labels[:, None] * delta
    best = torch.linalg.solve(sigma, delta)
    assert cos(mean_difference(acts, labels).basis, delta) > 0.99
    # The penalty 1e-3 of the mean eigenvalue is in the expected value: it matters where Σ is nearly singular.
    shrunk = torch.linalg.solve(sigma + 1e-3 * sigma.trace() / WIDTH * torch.eye(WIDTH), delta)
    assert cos(lda(acts, labels).basis, shrunk) > 0.99
    assert cos(lda(acts, labels, "pattern").basis, sigma @ shrunk) > 0.99
    assert abs(cos(best, delta)) < 0.99, "the two differ here, so that the above tells them apart"


def test_the_discriminant_is_one_whether_rows_or_features_are_more(seed: int) -> None:
    """(Σ + λ)⁻¹Δμ by its definition, also where Σ is singular."""
    for rows, width in ((50, 6), (10, 30)):
        acts, labels = drawn(seed, rows, width), torch.arange(rows) % 2
        means = torch.stack([acts[labels == c].mean(0) for c in (0, 1)])
        within = acts - means[labels]
        sigma = within.mT @ within / (rows - 2)
        shrunk = sigma + 1e-3 * sigma.trace() / width * torch.eye(width)
        expected = torch.linalg.solve(shrunk, means[1] - means[0])
        assert cos(lda(acts, labels).basis, expected) == pytest.approx(1, abs=1e-10)
        assert cos(lda(acts, labels, "pattern").basis, sigma @ expected) == pytest.approx(1, abs=1e-10)


def test_pls_of_two_classes_is_the_difference_of_their_means(seed: int) -> None:
    acts = drawn(seed, 50, WIDTH)
    labels = (
        torch.rand(50, generator=torch.Generator().manual_seed(seed)) < 0.3
    )  # unbalanced: the identity is exact all the same
    labels[:2] = torch.tensor([True, False])
    assert cos(pls(acts, labels, 1).basis, mean_difference(acts, labels).basis) == pytest.approx(1, abs=1e-12)


def test_a_planted_value_is_found_with_its_r2(seed: int) -> None:
    """h = y·u + noise: the direction is u, and a reading of all features has R² = SNR / (1 + SNR)."""
    rows, u = 4_000, torch.nn.functional.normalize(drawn(seed, WIDTH), dim=0)
    y = 2 * drawn(seed + 1, rows)
    acts = y[:, None] * u + drawn(seed + 2, rows, WIDTH)
    for fitted in (pls(acts, y, 1), linear_probe(acts, y, "ridge")):
        assert cos(fitted.basis, u) > 0.99
        assert fitted.fit.r2 == pytest.approx(4 / 5, abs=0.04)  # of 800 rows held out: 3 standard errors


def test_pls_spans_what_scikit_learns_does(seed: int) -> None:
    from sklearn.cross_decomposition import PLSRegression

    acts = drawn(seed, 40, WIDTH) @ drawn(seed + 1, WIDTH, WIDTH)
    values = acts[:, :2] ** 2 + drawn(seed + 2, 40, 2)
    for targets in (values[:, 0], values):
        theirs = PLSRegression(3, scale=False, tol=1e-12, max_iter=10_000).fit(acts.numpy(), targets.numpy())
        rotations = torch.from_numpy(theirs.x_rotations_)
        expected = projector(torch.linalg.qr(rotations).Q)
        assert (projector(pls(acts, targets, 3).basis) - expected).abs().max() <= 1e-5
        assert (projector(torch.from_numpy(theirs.x_weights_)) - expected).abs().max() <= 1e-5, "weights span what rotations do"


def test_principal_components_are_the_covariances(seed: int) -> None:
    acts = drawn(seed, ROWS, WIDTH) * torch.arange(1, WIDTH + 1) + 100
    values, vectors = torch.linalg.eigh(torch.cov(acts.mT))
    fitted = pca(acts, 3)
    assert (projector(fitted.basis) - projector(vectors[:, -3:])).abs().max() <= 1e-10
    assert fitted.fit.explained == pytest.approx((values.flip(0)[:3] / values.sum()).tolist())
    largest = fitted.basis.gather(0, fitted.basis.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


def test_all_components_are_the_whole_value(seed: int) -> None:
    h, s = drawn(seed, 5, WIDTH), drawn(seed + 1, 5, WIDTH)
    whole = apply(Replace(), Identity(), h, s)
    assert torch.equal(whole, s)
    for basis in (pca(drawn(seed + 2, ROWS, WIDTH), WIDTH), random_subspace(WIDTH, WIDTH, seed)):
        torch.testing.assert_close(apply(Replace(), basis, h, s), whole, atol=1e-5, rtol=0)


def test_a_turn_within_the_subspace_changes_nothing(seed: int) -> None:
    basis, turn = torch.linalg.qr(drawn(seed, WIDTH, 3)).Q, torch.linalg.qr(drawn(seed + 1, 3, 3)).Q
    h, s = drawn(seed + 2, 5, WIDTH), drawn(seed + 3, 5, WIDTH)
    torch.testing.assert_close(
        apply(Replace(), Subspace(basis), h, s), apply(Replace(), Subspace(basis @ turn), h, s), atol=1e-13, rtol=0
    )


def test_the_low_rank_form_is_rotating_and_swapping_the_first_coordinates(seed: int) -> None:
    whole = torch.linalg.qr(drawn(seed, WIDTH, WIDTH)).Q
    h, s = drawn(seed + 2, 5, WIDTH), drawn(seed + 3, 5, WIDTH)
    first = Select(torch.arange(WIDTH) < 3)
    torch.testing.assert_close(
        apply(Replace(), Subspace(whole[:, :3]), h, s), apply(first, Subspace(whole), h, s), atol=1e-13, rtol=0
    )


def test_two_clusters_are_found(seed: int) -> None:
    acts, labels = drawn(seed, 100, WIDTH), torch.arange(100) % 2
    acts = acts + labels[:, None] * 20 * torch.nn.functional.normalize(drawn(seed + 1, WIDTH), dim=0)
    assert abs(cos(kmeans(acts, seed=seed).basis, mean_difference(acts, labels).basis)) == pytest.approx(1, abs=1e-9)
    assert torch.equal(kmeans(acts, seed=1).basis, kmeans(acts, seed=1).basis)


def test_several_means_span_their_differences(seed: int) -> None:
    acts, labels = drawn(seed, 90, WIDTH), np.array(["a", "b", "c"] * 30)
    basis = mean_difference(acts, labels).basis
    means = [acts[torch.from_numpy(labels == name)].mean(0) for name in "abc"]
    for one in (means[1] - means[0], means[2] - means[0]):
        torch.testing.assert_close(projector(basis) @ one, one, atol=1e-12, rtol=0)


def test_the_sign_is_from_the_first_class_to_the_second(seed: int) -> None:
    acts, labels = two_classes(seed)
    words = np.where(labels.numpy() == 1, "b", "a")
    for method in (mean_difference, lda, linear_probe):
        along = acts @ method(acts, words).basis.double()
        assert along[labels == 1].mean() > along[labels == 0].mean()


# probes


def test_a_probe_is_judged_by_rows_that_it_did_not_see(seed: int) -> None:
    """More features than rows: any labels are fitted perfectly, and none are predicted."""
    acts, labels = drawn(seed, 200, 300), torch.rand(200, generator=torch.Generator().manual_seed(seed)) < 0.5
    accuracy = linear_probe(acts, labels).fit.accuracy
    assert accuracy is not None
    assert abs(accuracy - 0.5) <= 0.32  # four standard errors of 40 rows
    score = pls(acts, labels.double(), 3).fit.r2
    assert score is not None
    assert score < 0.5


def test_rows_of_one_group_are_held_out_together(seed: int) -> None:
    """Ten entities of ten rows each, with values that nothing but the entity tells: known ones are predicted, others not."""
    entity = torch.arange(100) % 10
    acts = (4 * drawn(seed, 10, 30))[entity] + 0.01 * drawn(seed + 1, 100, 30)
    values = drawn(seed + 2, 10)[entity]
    apart, together = pls(acts, values, 9).fit.r2, pls(acts, values, 9, groups=entity).fit.r2
    assert apart is not None
    assert together is not None
    assert apart > 0.99
    assert together < 0.9


def test_the_penalty_is_chosen_and_means_the_same_at_every_scale(seed: int) -> None:
    acts, labels = two_classes(seed, rows=150)
    fitted, larger = linear_probe(acts, labels), linear_probe(1000 * acts, labels)
    assert fitted.fit.penalty in (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
    assert (fitted.fit.penalty, fitted.fit.accuracy) == (larger.fit.penalty, larger.fit.accuracy)
    assert cos(fitted.basis, larger.basis) == pytest.approx(1, abs=1e-6)
    forced = linear_probe(acts, labels, penalties=[1e6])
    # Under an overwhelming penalty the weights are the gradient at zero, the difference of the means of balanced classes.
    assert cos(forced.basis, mean_difference(acts, labels).basis) == pytest.approx(1, abs=1e-5)


def test_a_ridge_probe_is_its_formula(seed: int) -> None:
    acts, values = drawn(seed, 50, WIDTH), drawn(seed + 1, 50)
    x = acts - acts.mean(0)
    scale = x.square().sum(1).mean()
    expected = torch.linalg.solve(x.mT @ x + 50 * 0.1 * scale * torch.eye(WIDTH), x.mT @ (values - values.mean()))
    assert cos(linear_probe(acts, values, "ridge", penalties=[0.1]).basis, expected) == pytest.approx(1, abs=1e-10)


# random, and many sites at once


def test_random_subspaces_favour_no_direction(seed: int) -> None:
    """Haar: the mean projector is rank/width times the identity, and signs are fair."""
    bases = torch.stack([random_subspace(6, 2, seed + i).basis for i in range(2000)])
    mean = torch.einsum("nwr,nvr->wv", bases, bases) / len(bases)
    assert (mean - torch.eye(6) / 3).abs().max() <= 0.03  # an entry's standard error is 0.006 at most
    assert bases.mean(0).abs().max() <= 0.05
    assert torch.equal(random_subspace(6, 2, 3).basis, Rotation(6, 2, seed=3).basis)
    assert error(random_subspace(64, 16, seed).basis) <= 1e-6


@pytest.mark.parametrize("name", ["pca", "pls", "mean", "means", "lda", "pattern", "probe"])
def test_a_sweep_is_fitted_as_its_sites_are(name: str, seed: int) -> None:
    acts = drawn(seed, 4, ROWS, WIDTH) + LABELS[:, None]
    third = torch.arange(ROWS) % 3
    method, args = {
        "pca": (pca, (2,)),
        "pls": (pls, (LABELS.double(), 2)),
        "mean": (mean_difference, (LABELS,)),
        "means": (mean_difference, (third,)),
        "lda": (lda, (third,)),
        "pattern": (lda, (LABELS, "pattern")),
        "probe": (linear_probe, (LABELS,)),
    }[name]
    for one, site in zip(each(method, acts, *args), acts, strict=True):
        alone = method(site, *args)
        torch.testing.assert_close(one.basis, alone.basis, atol=1e-9, rtol=0)
        assert one.fit.method == alone.fit.method
        assert (one.fit.r2, one.fit.accuracy) == (pytest.approx(alone.fit.r2), pytest.approx(alone.fit.accuracy))


# mistakes


def test_the_rank_asked_for_is_the_rank_given(seed: int) -> None:
    """And never fewer columns in silence, as where activations span fewer dimensions."""
    acts = drawn(seed, ROWS, 2) @ drawn(seed + 1, 2, WIDTH)
    assert pca(acts, 2).basis.shape == (WIDTH, 2)
    with pytest.raises(ShapeMismatchError, match=r"rank=3; expected 1 to 2, the dimensions that the centred activations span"):
        pca(acts, 3)
    with pytest.raises(
        ShapeMismatchError, match=r"rank=3; nothing in the activations covaries with the values after 2 columns"
    ):
        pls(acts, acts[:, 0] + drawn(seed, ROWS), 3)
    for rank in (1, 3):
        assert random_subspace(WIDTH, rank, seed).encode(acts).shape == (ROWS, rank)
    with pytest.raises(ShapeMismatchError, match="rank=9 with width=8"):
        random_subspace(WIDTH, 9, seed)


def test_two_positions_are_rows_and_not_one_longer_value(seed: int) -> None:
    basis = random_subspace(WIDTH, 2, seed)
    h, s = drawn(seed, 5, 2, WIDTH), drawn(seed + 1, 5, 2, WIDTH)
    together = apply(Replace(), basis, h, s)
    for position in (0, 1):
        torch.testing.assert_close(together[:, position], apply(Replace(), basis, h[:, position], s[:, position]))
    with pytest.raises(ShapeMismatchError, match="a subspace of width 8 was used on features of width 16"):
        basis.encode(h.reshape(5, 2 * WIDTH))


def test_values_of_a_lower_precision_are_encoded_in_float32(seed: int) -> None:
    basis, h = random_subspace(WIDTH, 2, seed), drawn(seed, 5, WIDTH).bfloat16()
    assert basis.encode(h).dtype == torch.float32
    torch.testing.assert_close(basis.encode(h), h.float() @ basis.basis)
    assert basis.decode(basis.encode(h).bfloat16()).dtype == torch.float32
    assert basis.encode(h.double()).dtype == torch.float64


def test_what_cannot_be_fitted_is_refused(seed: int) -> None:
    acts = drawn(seed, 6, 4)
    two = [0, 1] * 3
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: pca(acts[:1], 1), r"acts has shape \(1, 4\); expected \[row, width\] with at least two rows"),
        (lambda: pca(acts.log(), 1), "activations are not finite"),
        (lambda: pca(acts[:1].expand(6, 4), 1), "activations are the same in all 6 rows: there is nothing to fit"),
        (lambda: mean_difference(acts, two[:4]), r"labels have shape \(4,\); expected one for each of 6 rows"),
        (lambda: mean_difference(acts, ["x"] * 6), "all labels are .*x.*; expected at least two classes"),
        (lambda: mean_difference(torch.cat([acts, acts]), [0] * 6 + [1] * 6), "the classes have one mean"),
        (lambda: lda(acts[:2].repeat(3, 1), two), "activations do not vary within a class"),
        (lambda: lda(acts, two, "weights"), "which='weights'; expected 'direction' or 'pattern'"),
        (lambda: pls(acts, list("abcdef"), 1), "values are of <U1 or not finite; expected numbers"),
        (lambda: pls(acts, [1.0] * 6, 1), "all values are 1.0; expected some that differ"),
        (lambda: pls(acts, drawn(seed, 5), 1), r"values have shape \(5,\); expected \[row\] or \[row, target\] with 6 rows"),
        (lambda: linear_probe(acts, two, "svm"), "kind='svm'; expected 'logistic' or 'ridge'"),
        (lambda: linear_probe(acts, two, penalties=[0.0]), r"penalties=\(0.0,\); expected numbers above 0"),
        (lambda: linear_probe(acts[:3], [0, 1, 2]), "give more rows, or another seed"),
        (lambda: linear_probe(acts, two, groups=[1]), r"groups have shape \(1,\); expected one for each of 6 rows"),
        (lambda: kmeans(acts, 7), "clusters=7; expected 2 to 6, the number of different rows"),
        (lambda: each(pca, acts, 1), r"acts has shape \(6, 4\); expected \[site, row, width\]"),
        (
            lambda: each(pca, torch.stack([acts, acts[:1].expand(6, 4)]), 1),
            "at site 1 of 2, activations are the same in all 6 rows",
        ),
    ]
    for call, message in cases:
        with pytest.raises((InputError, ShapeMismatchError), match=message):
            call()
