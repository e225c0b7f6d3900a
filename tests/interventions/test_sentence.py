"""The sentence h + F⁻¹(edit(F(h), F(s))) − F⁻¹(F(h)) on tensors, and what is refused."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import pytest
import sweeps
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interp.errors import InputError, ShapeMismatchError
from interp.interventions import (
    Activation,
    Add,
    AddPreservingNorm,
    Apply,
    Change,
    Constant,
    Gate,
    Identity,
    Interpolate,
    Intervention,
    Noise,
    Replace,
    Scale,
    SetCoefficient,
    Subspace,
    apply,
    knock_out,
    mean,
    noise,
    resample,
    zero,
)
from interp.interventions.featurizer import Featurizer
from interp.sites import ALL, Positions, Site

EXACT = {"atol": 1e-12, "rtol": 1e-12}


def orthonormal(width: int, rank: int, seed: int) -> Tensor:
    draw = torch.randn(width, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(draw).Q


def draws(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h, s = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    return h, s


class Lossy:
    """A featurizer that loses much and is not linear: rectified coordinates along random directions."""

    def __init__(self, width: int, features: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.w = torch.randn(width, features, dtype=torch.float64, generator=generator)
        self.d = torch.randn(features, width, dtype=torch.float64, generator=generator)

    def encode(self, h: Tensor) -> Tensor:
        return (h @ self.w).relu()

    def decode(self, f: Tensor) -> Tensor:
        return f @ self.d + 1.0

    def spec(self) -> dict[str, object]:
        return {"kind": "lossy"}


shapes = st.tuples(st.integers(1, 3), st.integers(2, 7))
seeds = st.integers(0, 2**31)


def featurizers(width: int, seed: int) -> list[Featurizer]:
    ranks = [Subspace(orthonormal(width, k, seed)) for k in range(1, width + 1)]
    return [Identity(), *ranks, Lossy(width, 2 * width, seed)]


@settings(max_examples=40)
@given(shapes, seeds)
def test_a_sites_own_value_changes_nothing_in_any_basis(shape: tuple[int, int], seed: int) -> None:
    h, _ = draws(seed, *shape)
    for featurizer in featurizers(shape[-1], seed):
        for edit in (Replace(), Interpolate(0.3), Interpolate(1.0), Add(0.0), Scale(1.0)):
            moved = apply(edit, featurizer, h, h) - h
            assert moved.abs().max() <= 1e-12, (edit, featurizer)  # decoded values reach 100 here: 60 units in the last place
            if isinstance(edit, Replace):
                assert not moved.any(), "the two decoded values are one number, so their difference is exactly 0"


@settings(max_examples=40)
@given(shapes, seeds, st.integers(1, 6))
def test_the_complement_of_a_subspace_is_left_alone(shape: tuple[int, int], seed: int, rank: int) -> None:
    """With projector P: replacing gives h + P(s − h), so P h' = P s and (1 − P) h' = (1 − P) h."""
    h, s = draws(seed, *shape)
    basis = orthonormal(shape[-1], min(rank, shape[-1]), seed + 1)
    projector = basis @ basis.T
    new = apply(Replace(), Subspace(basis), h, s)
    torch.testing.assert_close(new @ projector, s @ projector, **EXACT)
    torch.testing.assert_close(new - new @ projector, h - h @ projector, **EXACT)
    torch.testing.assert_close(new, h + (s - h) @ projector, **EXACT)


def test_a_constant_is_written_along_a_subspace(seed: int) -> None:
    """Sources broadcast to the site's shape as ever."""
    h, _ = draws(seed, 3, 2, 5)
    basis = orthonormal(5, 2, seed)
    new = apply(Replace(), Subspace(basis), h, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(new, h - h @ basis @ basis.T, **EXACT)


def test_what_is_dropped_is_dropped_along_a_subspace_too(seed: int) -> None:
    h, s = draws(seed, 3, 5)
    basis = orthonormal(5, 2, seed)
    torch.testing.assert_close(apply(Replace(), Subspace(basis), h, s, keep_error=False), s @ basis @ basis.T, **EXACT)


def test_a_subspace_that_encodes_in_its_own_way_is_taken_at_its_word(seed: int) -> None:
    """Only its own encoding and decoding say what it means: here the coordinates are doubled on the way back."""

    class Louder(Subspace):
        def decode(self, f: Tensor) -> Tensor:
            return 2 * super().decode(f)

    h, s = draws(seed, 3, 5)
    basis = orthonormal(5, 2, seed)
    torch.testing.assert_close(apply(Replace(), Louder(basis), h, s), h + 2 * (s - h) @ basis @ basis.T, **EXACT)
    assert Change("L0.resid_pre", featurizer=Louder(basis)).kernels == frozenset()


def test_a_change_names_its_kernels(seed: int) -> None:
    subspace = Subspace(orthonormal(5, 2, seed))
    for options, expected in [
        ({"featurizer": subspace}, {"subspace_interchange"}),
        ({"featurizer": subspace, "keep_error": False}, set()),
        ({"featurizer": subspace, "edit": Scale(0.5)}, set()),
        ({}, set()),
        ({"edit": Gate((3, 1))}, {"head_gates"}),
        ({"edit": Gate((3, 1)), "featurizer": subspace}, {"head_gates"}),
        ({"edit": Gate((3, 1), source=True)}, set()),
        ({"edit": Gate((3,))}, set()),
        ({"edit": Gate((3, 2))}, set()),
    ]:
        assert Change("L0.z", **options).kernels == expected, options


@settings(max_examples=20)
@given(shapes, seeds)
def test_a_full_rotation_replaces_as_the_identity_does(shape: tuple[int, int], seed: int) -> None:
    h, s = draws(seed, *shape)
    rotation = Subspace(orthonormal(shape[-1], shape[-1], seed))
    torch.testing.assert_close(apply(Replace(), rotation, h, s), s, **EXACT)
    torch.testing.assert_close(apply(Interpolate(0.4), rotation, h, s), h + 0.4 * (s - h), **EXACT)
    torch.testing.assert_close(apply(Add(2.0), rotation, h, s), h + 2 * s, **EXACT)
    torch.testing.assert_close(apply(Scale(0.25), rotation, h, s), 0.25 * h, **EXACT)


def test_replacing_in_the_identity_basis_is_exact_to_the_bit() -> None:
    """h + (s − h) would round: 1e8 + (1e-3 − 1e8) is 0 in float32."""
    h, s = torch.tensor([[1e8, -3.0]]), torch.tensor([[1e-3, 7.0]])
    assert torch.equal(apply(Replace(), Identity(), h, s), s)


@settings(max_examples=20)
@given(shapes, seeds)
def test_dropping_the_error_leaves_the_reconstruction(shape: tuple[int, int], seed: int) -> None:
    h, s = draws(seed, *shape)
    lossy = Lossy(shape[-1], 3, seed)
    torch.testing.assert_close(apply(Replace(), lossy, h, s, keep_error=False), lossy.decode(lossy.encode(s)), **EXACT)
    kept = h + lossy.decode(lossy.encode(s)) - lossy.decode(lossy.encode(h))
    torch.testing.assert_close(apply(Replace(), lossy, h, s), kept, **EXACT)
    basis = orthonormal(shape[-1], 1, seed)
    torch.testing.assert_close(apply(Replace(), Subspace(basis), h, h, keep_error=False), h @ basis @ basis.T, **EXACT)


@settings(max_examples=20)
@given(shapes, seeds)
def test_edits_in_a_subspace(shape: tuple[int, int], seed: int) -> None:
    """Formulas with projector P: knock out h − P h, scale h + (c − 1) P h, add h + c P s."""
    h, s = draws(seed, *shape)
    basis = orthonormal(shape[-1], max(1, shape[-1] - 1), seed)
    p, subspace = basis @ basis.T, Subspace(basis)
    torch.testing.assert_close(apply(knock_out(), subspace, h, s), h - h @ p, **EXACT)
    torch.testing.assert_close(apply(Scale(3.0), subspace, h, s), h + 2 * h @ p, **EXACT)
    torch.testing.assert_close(apply(Add(0.5), subspace, h, s), h + 0.5 * s @ p, **EXACT)
    torch.testing.assert_close(apply(Apply(lambda f, g: f * g), Subspace(torch.eye(shape[-1]).double()), h, s), h * s, **EXACT)


def test_one_source_value_serves_every_feature() -> None:
    h = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(apply(Replace(), Identity(), h, torch.tensor([[5.0]])), torch.full((2, 3), 5.0))
    assert torch.equal(apply(Add(), Identity(), h, torch.tensor([[5.0]])), h + 5)
    lifted = apply(Replace(), Subspace(torch.eye(3)), h, torch.tensor([[5.0]]))
    assert torch.equal(lifted, torch.full((2, 3), 5.0))


def test_gradients_reach_value_and_source() -> None:
    """h' = h + P(s − h): the derivative of 1ᵀh' in h is 1 − P1, in s it is P1."""
    h, s = (x.requires_grad_() for x in draws(0, 1, 4))
    basis = orthonormal(4, 2, 0)
    apply(Replace(), Subspace(basis), h, s).sum().backward()
    expected = (basis @ basis.T).sum(0)
    torch.testing.assert_close(s.grad, expected[None], **EXACT)
    torch.testing.assert_close(h.grad, 1 - expected[None], **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_sites_dtype_is_kept(dtype: torch.dtype) -> None:
    h, s = torch.randn(2, 4).to(dtype), torch.randn(2, 4, dtype=torch.float64)
    for edit in (Replace(), Add(), Scale(0.5), Interpolate(0.5)):
        assert apply(edit, Identity(), h, s).dtype == dtype
        assert apply(edit, Subspace(torch.eye(4)[:, :2]), h, s.to(dtype)).dtype == dtype


# what is refused


def test_a_source_of_another_width() -> None:
    with pytest.raises(ShapeMismatchError, match=r"the source of L3.z has features \(5,\), but the site has \(4,\)"):
        apply(Replace(), Identity(), torch.zeros(2, 4), torch.zeros(2, 5), where="L3.z")


@pytest.mark.parametrize("featurizer", [Identity(), Subspace(torch.eye(4)[:, :2])], ids=repr)
def test_an_edit_that_returns_another_shape(featurizer: Featurizer) -> None:
    with pytest.raises(ShapeMismatchError, match=r"edit .* at L3.z returned shape \(2, 1\) for a value of shape \(2, "):
        apply(Apply(lambda h, s: h[:, :1]), featurizer, torch.zeros(2, 4), torch.zeros(2, 4), where="L3.z")


def test_a_basis_that_is_none() -> None:
    with pytest.raises(
        ShapeMismatchError, match=re.escape("the columns of basis (4, 2) are not orthonormal: max |BᵀB − 1| = 3.0e+00")
    ):
        Subspace(2 * torch.eye(4)[:, :2])
    with pytest.raises(
        ShapeMismatchError, match=re.escape("basis has shape (2, 4); expected [width, feature] with feature ≤ width")
    ):
        Subspace(torch.eye(4)[:2])
    with pytest.raises(ShapeMismatchError, match="a subspace of width 4 was used on features of width 5"):
        Subspace(torch.eye(4)[:, :2]).encode(torch.zeros(1, 5))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": "mean", "over": ("position",)}, "a mean runs over"),
        ({"pool": "mean", "over": ("example", "head")}, "a mean runs over"),
        ({"by": "template"}, "are for pool='mean'"),
        ({"over": ("example", "position")}, "are for pool='mean'"),
        ({"pool": "resample", "by": "template"}, "are for pool='mean'"),
    ],
)
def test_pools_that_make_no_sense(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Activation(**options)  # type: ignore[arg-type]


# words and specs


def test_how_things_print() -> None:
    printed = {
        "Activation(source)": Activation(),
        "Activation(source, L3.resid_post@subject[-1])": Activation(site="L3.resid_post", positions="subject[-1]"),
        "Activation(base, layer 2)": Activation("base", layer=2),
        "Activation(source, mean over example by template)": mean(by="template"),
        "Activation(source, mean over example+position)": mean(over=("example", "position")),
        "Activation(clean, resample seed=3)": resample(3, "clean"),
        "Activation(prompt 'some text')": Activation("some text"),
        "Constant(0.0)": zero(),
        "Noise(std=0.3, seed=1)": noise(0.3, 1),
        "Noise(std=0.3392, seed=0)": noise(0.33915864676237106),
        "Constant(0.1235)": Constant(0.12345678),
        "Add(scale=-2.346)": Add(-2.3456789),
        "Interpolate(weight=0.3333)": Interpolate(1 / 3),
        "AddPreservingNorm(scale=4)": AddPreservingNorm(4),
        "L9H6.z@END ← Activation(source)": Change("L9H6.z", "END"),
    }
    assert [repr(thing) for thing in printed.values()] == list(printed)
    assert repr(Change("L9H6.z", edit=knock_out())) == "L9H6.z Scale(factor=0.0)"
    both = Intervention.of("L9H6.z@END") & Intervention.of("L10H0.z@END")
    assert repr(both) == "Intervention(L9H6.z@END ← Activation(source); L10H0.z@END ← Activation(source))"


def test_targets_written_as_text() -> None:
    (change,) = Intervention.of("a9.h6@S2[-1]", source=zero(), edit=Add(2.0)).changes
    assert change.site == Site("z", layer=9, head=6)
    assert change.positions == Positions(role="S2", pick=-1)
    assert (change.source.spec(), change.edit) == (zero().spec(), Add(2.0))
    assert Intervention.of(Site("z", layer=1)).changes[0].positions == ALL


def test_order_is_kept_where_it_was_stated() -> None:
    a, b = Intervention.of("L0.z"), Intervention.of("L1.z")
    assert not (a & b).ordered
    assert a.then(b).ordered
    assert (a.then(b) & a).ordered
    assert [c.site.layer for c in b.then(a).changes] == [1, 0]


SPECS = [
    Intervention.of("L1.z"),
    Intervention.of("L2.z"),
    Intervention.of("L1H0.z"),
    Intervention((Change("L1.z", -1),)),
    Intervention.of("L1.z@END"),
    Intervention.of("L1.z", edit=Add()),
    Intervention.of("L1.z", edit=Add(2.0)),
    Intervention.of("L1.z", edit=Scale(2.0)),
    Intervention.of("L1.z", edit=Interpolate(0.5)),
    Intervention.of("L1.z", source=zero()),
    Intervention.of("L1.z", source=Constant(1.0)),
    Intervention.of("L1.z", source=Constant(torch.tensor([1.0, 2.0]))),
    Intervention.of("L1.z", source=mean()),
    Intervention.of("L1.z", source=mean(by="template")),
    Intervention.of("L1.z", source=mean(over=("example", "position"))),
    Intervention.of("L1.z", source=resample()),
    Intervention.of("L1.z", source=resample(1)),
    Intervention.of("L1.z", source=noise(1.0)),
    Intervention.of("L1.z", source=noise(1.0, 1)),
    Intervention.of("L1.z", source=Activation("base")),
    Intervention.of("L1.z", source=Activation("a prompt")),
    Intervention.of("L1.z", source=Activation((1, 2))),
    Intervention.of("L1.z", source=Activation(layer=0)),
    Intervention.of("L1.z", source=Activation(site="v")),
    Intervention.of("L1.z", source=Activation(positions="S2")),
    Intervention.of("L1.z", featurizer=Subspace(torch.eye(4)[:, :2])),
    Intervention.of("L1.z", featurizer=Subspace(torch.eye(4)[:, 1:3])),
    Intervention.of("L1.z", featurizer=Subspace(torch.eye(4)[:, :2]), keep_error=False),
    Intervention.of("L1.z", "L2.z"),
    Intervention.of("L2.z", "L1.z"),
    Intervention.of("L1.z").then(Intervention.of("L2.z")),
]


def test_different_interventions_have_different_specs() -> None:
    specs = [json.dumps(i.spec(), sort_keys=True) for i in SPECS]
    assert len(set(specs)) == len(specs)


def test_a_function_has_no_canonical_description() -> None:
    assert Apply(lambda h, s: h).spec() == {"kind": "apply", "function": None}


# noise


@settings(max_examples=20)
@given(st.integers(0, 50), st.integers(0, 5), st.integers(1, 6), st.integers(0, 4))
def test_noise_at_a_position_does_not_depend_on_how_many_follow(example: int, seed: int, length: int, more: int) -> None:
    source = Noise(2.0, seed)
    short, long = source.draw(example, (length, 3)), source.draw(example, (length + more, 3))
    assert torch.equal(short, long[:length])


def test_noise_differs_between_examples_positions_and_seeds_and_has_its_scale() -> None:
    one = Noise(0.5).draw(0, (200, 100))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, Noise(0.5).draw(1, (200, 100)))
    assert not torch.equal(one, Noise(0.5, seed=1).draw(0, (200, 100)))
    assert torch.equal(Noise(1.0).draw(0, (200, 100)) * 0.5, one)
    assert one.std().item() == pytest.approx(0.5, rel=0.02)  # 20 000 draws: standard error 0.5 %
    assert abs(one.mean().item()) < 0.02


# sources' sites


@pytest.mark.parametrize(
    ("source", "target", "site"),
    [
        (Activation(), "L3H1.z", "L3H1.z"),
        (Activation(layer=1), "L3H1.z", "L1H1.z"),
        (Activation(site="v"), "L3H1.z", "L3H1.v"),
        (Activation(site="L0.v"), "L3H1.z", "L0H1.v"),
        (Activation(site="L0H0.v"), "L3H1.z", "L0H0.v"),
        (Activation(site="L0.v", layer=2), "L3H1.z", "L2H1.v"),
        (Activation(site="resid_pre"), "L3.resid_post", "L3.resid_pre"),
        (Activation(site="embed"), "L3.resid_post", "embed"),
        (Activation(site="resid_pre"), "L3H1.result", "L3.resid_pre"),
        (Activation(site="mlp_pre"), "L3.mlp_post[7]", "L3.mlp_pre[7]"),
    ],
)
def test_coordinates_left_out_are_the_targets(source: Activation, target: str, site: str) -> None:
    assert source.site_for(Site.parse(target)) == Site.parse(site)


@pytest.mark.parametrize(
    ("source", "counterpart"),
    [
        (Activation(), True),
        (Activation("base"), False),
        (Activation("clean"), False),
        (Activation(layer=0), False),
        (Activation(site="z"), False),
        (Activation(positions="END"), False),
        (mean(), False),
        (resample(), False),
    ],
)
def test_which_source_is_the_counterfactual_run_itself(source: Activation, counterpart: bool) -> None:
    assert source.is_counterpart == counterpart


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": lambda h, ctx: h}, r"type function.*this is an edit: pass it as edit="),
        ({"source": Scale(0.0)}, r"type Scale.*this is an edit: pass it as edit="),
        ({"source": "another text"}, r"type str; expected Activation\(…\)"),
        ({"edit": lambda h: h}, r"edit <lambda>\(h\) cannot be called with \(h, ctx\)"),
        ({"edit": Scale}, r"edit is the class Scale; give one of it, as in Scale\(…\)"),
    ],
)
def test_what_is_no_source_and_no_edit_is_told_when_it_is_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        sweeps.unchecked(Change.__init__)(object.__new__(Change), "L1H3.z", -1, **options)


@pytest.mark.parametrize("edit", [torch.nn.ReLU(), max, lambda h, ctx, *more: h, lambda *both: both[0]])
def test_whatever_takes_two_arguments_may_be_an_edit(edit: Any) -> None:
    assert Change("L1H3.z", -1, edit=edit).edit.kind == "free"


def test_every_basis_has_a_spec() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert len(Subspace(torch.eye(4)[:, :2].to(dtype)).spec()["sha256"]) == 16


def test_a_tensor_is_the_constant_that_it_is() -> None:
    vector = torch.arange(8.0)
    written, short = (
        Change("L1.resid_post", source=Constant(vector), edit=Add()),
        Change("L1.resid_post", source=vector, edit=Add()),
    )
    assert short.spec() == written.spec() == Change("L1.resid_post", source=vector.numpy(), edit=Add()).spec()


@pytest.mark.parametrize("edit", [Add, AddPreservingNorm, Scale, Interpolate, SetCoefficient])
def test_a_vector_is_no_strength(edit: Any) -> None:
    """``Add(v)`` reads as if v were added; the strength is a number, the vector the source."""
    begin = inspect.unwrap(edit.__init__)
    with pytest.raises(InputError, match=rf"of {edit.__name__} is a tensor of shape \(8,\), expected a number.*the source"):
        begin(object.__new__(edit), torch.zeros(8))


@pytest.mark.parametrize("value", [0.0, "clean"])
def test_a_value_is_no_source(value: object) -> None:
    """Refused where it is written, not as the engine reads it. Unwrapped, since checked annotations would refuse it first."""
    begin = inspect.unwrap(Change.__init__)
    with pytest.raises(InputError, match=rf"L1\.resid_post.*{type(value).__name__}.*Constant\(value\)"):
        begin(object.__new__(Change), "L1.resid_post", source=value)
    assert Change("L1.resid_post").source == Activation()


def test_a_matrix_is_no_featurizer() -> None:
    begin = inspect.unwrap(Change.__init__)
    with pytest.raises(InputError, match=r"L1\.resid_post.*Tensor.*Subspace\(matrix\)"):
        begin(object.__new__(Change), "L1.resid_post", featurizer=torch.eye(8))
