"""The torch references against their formulas in float64, and what the kernels refuse."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import Case, errors

from interp import kernels
from interp.errors import ShapeMismatchError

TYPES = ("float64", "float32", "bfloat16")
SIZES = {
    "subspace_interchange": [(5, 33, 7, 3), (40, 33, 1, 2), (1, 130, 20, 1), (0, 33, 7, 2), (3, 8, 2, 9)],
    "head_gates": [(5, 3, 7, 33, 2), (5000, 1, 2, 1, 1), (1, 4, 1, 8, 1), (0, 3, 7, 33, 2), (3, 2, 2, 4, 9)],
    "fused_readout": [(5, 33, 1009, 3, 4), (40, 33, 1009, 0, 2), (1, 7, 1009, 2, 1), (0, 33, 1009, 3, 2), (3, 8, 11, 2, 9)],
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("kernel", "sizes"), [(kernel, sizes) for kernel in SIZES for sizes in SIZES[kernel]])
def test_references_agree_with_their_formulas(kernel: str, sizes: tuple[int, ...], dtype: str, seed: int) -> None:
    assert max(errors(Case(kernel, sizes, dtype, seed), "torch").values()) <= 1


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("reference", [None, "states", "logprobs"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_every_kind_of_readout(softcap: float | None, bias: bool, reference: str | None, dtype: str, seed: int) -> None:
    """Two chunks of the vocabulary, the second cut short."""
    case = Case("fused_readout", (6, 33, 1009, 2, 4), dtype, seed, softcap, bias, reference)
    assert max(errors(case, "torch").values()) <= 1


def test_a_row_keeps_what_its_subspace_does_not_hold() -> None:
    """By hand: the first basis vector comes from the source, the second stays; with R = I all of it comes."""
    h, s = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[10.0, 20.0], [10.0, 20.0]])
    bases = torch.stack([torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.eye(2)])
    assert kernels.subspace_interchange(h, s, bases, torch.tensor([0, 1])).tolist() == [[10.0, 2.0], [10.0, 20.0]]


def _readout(**changes: object) -> kernels.Fused:
    given: dict[str, object] = {"x": torch.randn(3, 4), "unembedding": torch.randn(9, 4), "columns": torch.zeros(3, 1).long()}
    return kernels.fused_readout(**given | changes)  # type: ignore[arg-type]


def test_padding_is_minus_infinity_and_has_no_gradient(seed: int) -> None:
    torch.manual_seed(seed)
    x, unembedding = torch.randn(2, 4, requires_grad=True), torch.randn(9, 4)
    read = _readout(x=x, unembedding=unembedding, columns=torch.tensor([[1, -1], [-1, -1]])).columns
    assert torch.isneginf(read).tolist() == [[False, True], [True, True]]
    (gradient,) = torch.autograd.grad(read.sum(), x)
    assert torch.equal(gradient, torch.stack([unembedding[1], torch.zeros(4)]))


def test_columns_alone_leave_the_vocabulary_unread(seed: int) -> None:
    torch.manual_seed(seed)
    read = _readout(logsumexp=False)
    assert read.logsumexp is None
    assert read.kl is None


def test_impossible_tokens_add_nothing(seed: int) -> None:
    """Log-probabilities of −inf in the reference, in more columns than a chunk has, and a bias of −inf: 0 · log 0 is 0."""
    torch.manual_seed(seed)
    x, unembedding = torch.randn(2, 5, dtype=torch.float64, requires_grad=True), torch.randn(1100, 5, dtype=torch.float64)
    bias = torch.zeros(1100, dtype=torch.float64)
    bias[:600] = -torch.inf
    clean = torch.randn(1, 1100, dtype=torch.float64).masked_fill(torch.arange(1100) < 700, -torch.inf).log_softmax(-1)
    reference = kernels.ReferenceLogProbs(clean, torch.tensor([0, 0]))
    read = _readout(x=x, unembedding=unembedding, bias=bias, columns=torch.zeros(2, 0).long(), reference=reference)
    own = (x @ unembedding.T)[:, 600:].log_softmax(-1)[:, 100:]
    expected = (clean[:, 700:].exp() * (clean[:, 700:] - own)).sum(-1)
    torch.testing.assert_close(read.kl, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(read.kl.sum(), x), torch.autograd.grad(expected.sum(), x), rtol=0, atol=1e-12
    )


def test_the_same_distribution_has_no_divergence(seed: int) -> None:
    """Also far from 0, where logits are large: the differences are taken before the sums."""
    torch.manual_seed(seed)
    states, unembedding = torch.randn(4, 16), 20 * torch.randn(5000, 16)
    read = _readout(
        x=states, unembedding=unembedding, columns=torch.zeros(4, 0).long(),
        reference=kernels.ReferenceStates(states, torch.arange(4)),
    )  # fmt: skip
    assert read.kl is not None
    assert read.kl.abs().max() < 1e-5 * (1 + float((states @ unembedding.T).abs().max()))


def test_a_second_derivative_is_refused(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(3, 4, requires_grad=True)
    read = _readout(x=x)
    assert read.logsumexp is not None
    for result in (read.logsumexp, read.columns):
        with pytest.raises(kernels.KernelError, match="a second derivative is not offered"):
            torch.autograd.grad(result.sum(), x, create_graph=True, retain_graph=True)


@pytest.mark.parametrize("name", ["unembedding", "bias", "states", "values"])
def test_a_gradient_that_is_not_computed_is_refused(name: str) -> None:
    """The gradient would be missing without a word; without gradients there is nothing to miss."""
    shapes = {"unembedding": (9, 4), "bias": (9,), "states": (2, 4), "values": (2, 9)}
    tensor = torch.randn(shapes[name], requires_grad=True)
    rows = torch.zeros(3).long()
    kinds = {"states": kernels.ReferenceStates, "values": kernels.ReferenceLogProbs}
    given = {"reference": kinds[name](tensor, rows)} if name in kinds else {name: tensor}
    with pytest.raises(kernels.KernelError, match=rf"{name} requires a gradient, and only x gets one; pass {name}.detach\(\)"):
        _readout(**given)
    with torch.no_grad():
        _readout(**given)


def test_indices_that_do_not_exist_are_named() -> None:
    with pytest.raises(kernels.KernelError, match="columns hold 0 … 9, expected 0 … 8, or −1 for padding"):
        _readout(columns=torch.tensor([[0], [9], [1]]))
    with pytest.raises(kernels.KernelError, match="columns hold -2 … 1"):
        _readout(columns=torch.tensor([[0], [-2], [1]]))
    with pytest.raises(kernels.KernelError, match="example_of hold -1 … 2, expected 0 … 1"):
        _readout(reference=kernels.ReferenceStates(torch.randn(2, 4), torch.tensor([0, -1, 2])))
    with pytest.raises(kernels.KernelError, match="set_of hold 0 … 2, expected 0 … 1"):
        kernels.head_gates(torch.randn(2, 1, 3, 4), torch.randn(2, 3), torch.tensor([0, 2]))
    with pytest.raises(kernels.KernelError, match="set_of hold 5 … 5, expected 0 … 0"):
        kernels.subspace_interchange(torch.randn(1, 4), torch.randn(1, 4), torch.randn(1, 4, 2), torch.tensor([5]))


def test_a_softcap_that_is_none_is_refused() -> None:
    with pytest.raises(kernels.KernelError, match=r"softcap is 0\.0, expected a positive number or None"):
        _readout(softcap=0.0)


def test_shapes_that_do_not_fit_are_listed() -> None:
    """Where annotations are not checked: the same function without its check."""
    from interp.kernels import checks

    h, s = torch.zeros(2, 3), torch.zeros(2, 4)
    with pytest.raises(
        ShapeMismatchError, match=r"demo: shapes do not fit: h \[row width\] = \(2, 3\), s \[row width\] = \(2, 4\)"
    ):
        checks.sizes("demo", h=(h, "row width"), s=(s, "row width"))
    with pytest.raises(ShapeMismatchError, match="axes of one name have one size"):
        checks.sizes("demo", h=(h, "row"))
    with pytest.raises(kernels.KernelError, match="expected all tensors on one device, got h on cpu, s on meta"):
        checks.sizes("demo", h=(h, "row width"), s=(torch.zeros(2, 3, device="meta"), "row width"))
