"""A product kept as factors has the readings of the matrix that it never forms.

Expected numbers: the explicit matrix, by torch, in float64 to 1e-10 × (1 + the largest number).
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from interp.errors import ShapeMismatchError
from interp.models.weights.factored import SVD, Factored


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= 1e-10 * (1 + float(expected.abs().max()))


SHAPES = [
    ((7, 3), (3, 9)),
    ((2, 7, 3), (2, 3, 9)),
    ((2, 4, 7, 3), (2, 4, 3, 9)),
    ((2, 5), (5, 9)),
    ((7, 5), (5, 2)),
    ((4, 1), (1, 4)),
]
"""Without and with batch axes; rank above rows or columns; rank one."""


@pytest.fixture(params=SHAPES, ids=str)
def product(request: pytest.FixtureRequest, seed: int) -> Factored:
    return Factored(*draw(seed, *request.param))


@pytest.fixture(params=[(6, 3), (2, 6, 3), (4, 6)], ids=str)
def square(request: pytest.FixtureRequest, seed: int) -> Factored:
    *batch, a, r = request.param
    return Factored(*draw(seed, (*batch, a, r), (*batch, r, a)))


def test_readings(product: Factored) -> None:
    whole = product.matrix()
    assert product.shape == whole.shape
    close(product.norm(), torch.linalg.matrix_norm(whole))
    close(product.mT.matrix(), whole.mT)
    close((product * 2.0).matrix(), 2 * whole)
    close((0.5 * product).matrix(), whole / 2)
    rows = torch.tensor([1, 0, 1])
    close(product.rows(rows), whole[..., rows, :])
    expected = torch.linalg.svdvals(whole)
    found = product.singular_values()
    close(found[..., : expected.shape[-1]], expected[..., : found.shape[-1]])
    assert float(expected[..., found.shape[-1] :].abs().sum()) <= 1e-10


def test_the_decomposition(product: Factored) -> None:
    found = product.svd()
    eye = torch.eye(found.S.shape[-1], dtype=torch.float64).expand(*found.S.shape, -1)
    close(found.U.mT @ found.U, eye)
    close(found.V.mT @ found.V, eye)
    close(found.U @ torch.diag_embed(found.S) @ found.V.mT, product.matrix())
    close(found.S, product.singular_values())
    close(Factored.of(found).matrix(), product.matrix())
    first = Factored.of(SVD(found.U[..., :1], found.S[..., :1], found.V[..., :1]))
    close((product.matrix() - first.matrix()).square().sum((-2, -1)), found.S[..., 1:].square().sum(-1))  # Eckart–Young


def test_square_readings(square: Factored) -> None:
    whole = square.matrix()
    close(square.trace(), whole.diagonal(dim1=-2, dim2=-1).sum(-1))
    found = torch.view_as_real(square.eigenvalues())
    every = torch.view_as_real(torch.linalg.eigvals(whole))
    kept = min(square.rank, square.shape[-1])
    order, biggest = (t.square().sum(-1).argsort(-1, descending=True)[..., :kept] for t in (found, every))
    moduli, expected = (t.square().sum(-1).gather(-1, index) for t, index in ((found, order), (every, biggest)))
    close(moduli, expected)
    close(found.sum(-2), every.sum(-2))


def test_products(product: Factored, seed: int) -> None:
    """Vectors, matrices, batches of them, from either side, and other products of either rank."""
    whole, (a, b) = product.matrix(), product.shape[-2:]
    row, column, rows, columns = draw(seed + 1, (a,), (b,), (5, a), (b, 5))
    close(row @ product, row @ whole)
    close(product @ column, whole @ column)
    close(rows @ product, rows @ whole)
    close(product @ columns, whole @ columns)
    for rank in (1, 8):
        after = Factored(*draw(seed + 2, (b, rank), (rank, 4)))
        before = Factored(*draw(seed + 3, (4, rank), (rank, a)))
        close((product @ after).matrix(), whole @ after.matrix())
        close((before @ product).matrix(), before.matrix() @ whole)
        assert (product @ after).rank == (before @ product).rank == min(rank, product.rank)
    close(product.between(rows, columns).matrix(), rows @ whole @ columns)
    close(product.between(after=columns).matrix(), whole @ columns)
    close((product @ product.mT).matrix(), whole @ whole.mT)


def test_batches_are_indexed(seed: int) -> None:
    product = Factored(*draw(seed, (3, 4, 7, 2), (3, 4, 2, 7)))
    close(product[1].matrix(), product.matrix()[1])
    close(product[1, 2].matrix(), product.matrix()[1, 2])
    close(product[:, 2:].matrix(), product.matrix()[:, 2:])
    assert [one.shape for one in product] == [torch.Size([4, 7, 7])] * 3
    assert len(product) == 3
    with pytest.raises(ShapeMismatchError, match="it has 2 batch axes to index"):
        product[1, 2, 3]
    with pytest.raises(ShapeMismatchError, match="rows"):
        product[..., 0]


def test_the_largest_numbers_of_rows(product: Factored, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = product.matrix()
    for numbers in (1, 1 << 24):  # a row at a time, and all at once
        monkeypatch.setattr("interp.models.weights.factored._NUMBERS", numbers)
        found = product.top(2)
        close(found.values, whole.topk(2).values)
        close(whole.gather(-1, found.columns), found.values)
        some = product.top(1, torch.tensor([1]), largest=False)
        close(some.values[..., 0, 0], whole[..., 1, :].amin(-1))
    with pytest.raises(ShapeMismatchError, match=f"k=10 numbers .* from 1 to {product.shape[-1]}"):
        product.top(10)


def test_what_cannot_be_multiplied_says_both_sizes() -> None:
    product = Factored(torch.zeros(5, 2), torch.zeros(2, 6))
    wrong: list[tuple[str, Any]] = [
        (r"factors of shapes \(5, 2\) and \(3, 6\)", lambda: Factored(torch.zeros(5, 2), torch.zeros(3, 6))),
        ("same batch axes", lambda: Factored(torch.zeros(3, 5, 2), torch.zeros(2, 6))),
        (r"float32 on cpu and torch\.float64 on cpu", lambda: Factored(torch.zeros(5, 2), torch.zeros(2, 6).double())),
        ("the columns of a Factored.* are 6, the other's rows 5", lambda: product @ torch.zeros(5)),
        ("the columns of a Factored.* are 6, the other's rows 5", lambda: product @ torch.zeros(5, 3)),
        ("the columns of a Factored.* are 6, the other's rows 5", lambda: product @ product),
        ("the rows of a Factored.* are 5, the other's last axis 6", lambda: torch.zeros(6) @ product),
        ("the last axis of before 6", lambda: product.between(torch.zeros(3, 6))),
        ("the rows of after 5", lambda: product.between(after=torch.zeros(5, 3))),
        ("eigenvalues are of square products", product.eigenvalues),
        ("trace are of square products", product.trace),
    ]
    for words, call in wrong:
        with pytest.raises(ShapeMismatchError, match=words):
            call()
    with pytest.raises(TypeError):
        product @ "x"
    assert repr(product) == "Factored(5 × 6, rank 2)"
    assert re.fullmatch(r"SVD\(U \[5, 2\], S \[2\] from \S+ to \S+, V \[6, 2\]\)", repr(product.svd()))
    assert re.fullmatch(r"Top\(values and columns \[5, 3\], from \S+ to \S+\)", repr(product.top(3)))
