"""What metrics read of the logits, without the logits: chosen columns, the log-sum-exp, and the KL from a reference.

    >>> x, unembedding = torch.zeros(1, 2), torch.ones(4, 2)
    >>> read = fused_readout(x, unembedding, torch.tensor([[3]]))
    >>> read.columns - read.logsumexp[:, None]  # the log-probability of token 3
    tensor([[-1.3863]])

Rows × vocabulary is the largest tensor of a sweep and metrics reduce it to a few numbers a row, so it is computed in pieces
that are thrown away. The idea is that of online softmax (Milakov & Gimelshein, arXiv 1805.02867) and of losses that never hold
the logits (Wijmans et al., arXiv 2411.09009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import KernelError
from interp.kernels import readout_columns, readout_torch
from interp.kernels.checks import accumulator, frozen, indices, sizes
from interp.kernels.choice import implementation
from interp.kernels.readout_parts import Head, Reference

NAME = "fused_readout"


@dataclass(frozen=True, eq=False)
class ReferenceStates:
    """The distributions that KL is taken from, as the hidden states that give them through the same unembedding."""

    states: Float[Tensor, "example width"]
    example_of: Int[Tensor, " row"]
    """Which example a row is compared with."""


@dataclass(frozen=True, eq=False)
class ReferenceLogProbs:
    """The distributions that KL is taken from, as log-probabilities; logits do as well, since they are normalised again."""

    values: Float[Tensor, "example vocab"]
    example_of: Int[Tensor, " row"]
    """Which example a row is compared with."""


class Fused(NamedTuple):
    """What was read of the logits, in float32, or float64 where an input is."""

    columns: Float[Tensor, "row column"]
    """Logits of the chosen tokens; −inf where the token is padding."""
    logsumexp: Float[Tensor, " row"] | None
    """Over the whole vocabulary, in nats; None where it was not asked for."""
    kl: Float[Tensor, " row"] | None
    """D(reference ‖ row) in nats; None without a reference."""


def fused_readout(
    x: Float[Tensor, "row width"],
    unembedding: Float[Tensor, "vocab width"],
    columns: Int[Tensor, "row column"],
    *,
    bias: Float[Tensor, " vocab"] | None = None,
    softcap: float | None = None,
    reference: ReferenceStates | ReferenceLogProbs | None = None,
    logsumexp: bool = True,
) -> Fused:
    """Read the logits ``x · unembeddingᵀ + bias``, capped as ``softcap · tanh(logits / softcap)``, without keeping them.

    Args:
        x: final hidden states, already normed, and scaled where the model scales its logits.
        columns: token ids, a row's own; −1 is padding. May have no columns.
        reference: where KL is wanted, what it is taken from.
        logsumexp: False reads the columns alone, which costs one product of vectors each.

    The gradient reaches ``x`` alone, once (no second derivative). Sums are float32, or float64 where an input is, whatever the
    dtype of the weights; a model that rounds its logits to bfloat16 differs by that rounding.

    Raises:
        ShapeMismatchError: shapes that do not fit.
        KernelError: a token or example that does not exist, tensors on several devices, a softcap that is not positive, an
            input other than ``x`` that requires a gradient, or Triton where it cannot run.
    """
    states = reference.states if isinstance(reference, ReferenceStates) else None
    values = reference.values if isinstance(reference, ReferenceLogProbs) else None
    example_of = None if reference is None else reference.example_of
    axes = sizes(
        NAME, x=(x, "row width"), unembedding=(unembedding, "vocab width"), bias=(bias, "vocab"),
        columns=(columns, "row column"), example_of=(example_of, "row"),
        states=(states, "example width"), values=(values, "example vocab"),
    )  # fmt: skip
    frozen(NAME, unembedding=unembedding, bias=bias, states=states, values=values)
    indices(NAME, "columns", columns, axes["vocab"], padding=True)
    if softcap is not None and not softcap > 0:
        raise KernelError(f"{NAME}: softcap is {softcap}, expected a positive number or None")
    if example_of is not None:
        indices(NAME, "example_of", example_of, axes["example"])
    wide = accumulator(x, unembedding, bias, states, values)
    head = Head(unembedding, bias, softcap, wide)
    chosen = implementation(NAME, x.device)
    read = readout_columns.at(x, head, columns)
    if reference is None and not logsumexp:
        return Fused(read, None, None)
    compared = None if example_of is None else Reference.of(states, values, example_of)
    if chosen == "triton":
        from interp.kernels import readout_triton

        return Fused(read, *readout_triton.whole(x, head, compared))
    return Fused(read, *readout_torch.whole(x, head, compared))
