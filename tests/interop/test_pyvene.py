"""pyvene's interventions give the same numbers in our engine as in pyvene 0.1.8, on the same weights, row by row.

Both run in a process of their own (``pyvene_runs.py``); what is read from a file is read here, without pyvene.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from deviations import deviation

from interp.doctor import architectures
from interp.errors import InteropError, LoadError, PositionError, ShapeMismatchError, UnknownNameError, UnknownSiteError
from interp.interop import pyvene as from_pyvene
from interp.interventions import Activation, Constant, Intervention, Replace, Rotation, Scale, Select
from interp.models import Model, load

Ask = Callable[..., Any]
Part = dict[str, Any]

FAMILIES = ("gpt2", "gpt-neox", "llama", "mistral", "qwen2")
COMPONENTS = (
    "block_input", "block_output", "attention_input", "attention_output", "mlp_input", "mlp_output", "mlp_activation",
    "attention_value_output", "head_attention_value_output", "query_output", "key_output", "value_output",
    "head_query_output", "head_key_output", "head_value_output",
)  # fmt: skip
FUSED = COMPONENTS[-6:]
"""What pyvene has no name for in GPT-NeoX, whose projections are interleaved."""
KINDS: Mapping[str, Part] = {
    "VanillaIntervention": {},
    "ZeroIntervention": {},
    "AdditionIntervention": {},
    "SubtractionIntervention": {},
    "NoiseIntervention": {"positions": [0, 2, 3, 5]},  # it is made for four tokens
    "RotatedSpaceIntervention": {},
    "LowRankRotatedSpaceIntervention": {"options": {"low_rank_dimension": 5}},
    "BoundlessRotatedSpaceIntervention": {},
    "SigmoidMaskRotatedSpaceIntervention": {},
    "SigmoidMaskIntervention": {},
    "PCARotatedSpaceIntervention": {},
    "AutoencoderIntervention": {"options": {"latent_dim": 7, "interchange_dim": 3}},  # by default pyvene indexes past its end
    "JumpReLUAutoencoderIntervention": {"options": {"low_rank_dimension": 9}},
    "SkipIntervention": {},
    "TwoTokens": {},
    "Steer": {},
    "mixture": {},
}
"""All of pyvene's, and three of a user's own: learned, without a source, a function."""
BROKEN_BY_HEAD = ("BoundlessRotatedSpaceIntervention", "SigmoidMaskRotatedSpaceIntervention")
"""pyvene multiplies ``[example, width]`` into ``[example, token, width]`` there."""


def part(component: str, kind: str, **changes: Any) -> Part:
    by_head = {"unit": "h.pos", "heads": [1]} if component.startswith("head_") else {}
    found = {"component": component, "kind": kind, "positions": [2, 4], **by_head, **KINDS.get(kind, {}), **changes}
    return found | ({"units": len(found["heads"])} if by_head else {})


def equal(answers: Sequence[Mapping[str, Any]], at_least: float = 1e-2) -> None:
    """Every deviation within 1e-5 × (1 + max |logit|), and every intervention shows."""
    for answer in answers:
        assert "refused by pyvene" not in answer, answer
        allowed = 1e-5 * (1 + answer["scale"])
        for how, found in [*answer["deviations"].items(), *(("collected", one) for one in answer.get("collected", []))]:
            print(f"{how}: {found:.1e} of {allowed:.1e}, {answer['said']}")
            assert found <= allowed, (how, found, allowed, answer["case"])
        assert answer["deviations"] or "collected" in answer
        assert answer["effect"] >= at_least or "collected" in answer, answer["case"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_component(family: str, seed: int, pyvene_and_us: Ask) -> None:
    components = [c for c in COMPONENTS if family != "gpt-neox" or c not in FUSED]
    cases = [{"parts": [part(c, kind)], "back": True} for c in components for kind in ("VanillaIntervention", "mixture")]
    equal(pyvene_and_us(do="cases", family=family, seed=seed, cases=cases))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind(family: str, seed: int, pyvene_and_us: Ask) -> None:
    """Each kind at three components of a family, so that over the five families it meets every one that it can."""
    cases = []
    for number, kind in enumerate(KINDS):
        for step in range(3):
            component = COMPONENTS[(number + 3 * FAMILIES.index(family) + step) % len(COMPONENTS)]
            if family == "gpt-neox" and component in FUSED:
                component = "block_output"
            if kind == "SkipIntervention":  # pyvene's own takes the first positional argument of a module
                component = ("block_output", "mlp_output", "mlp_activation")[step]
            if kind in BROKEN_BY_HEAD and component.startswith("head_"):
                component = component.removeprefix("head_")
            cases.append({"parts": [part(component, kind)], "back": True})
    equal(pyvene_and_us(do="cases", family=family, seed=seed, cases=cases), at_least=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_at_once(family: str, seed: int, pyvene_and_us: Ask) -> None:
    """In parallel, one after the other in one tensor, in one group, and serially where that is one run. Every strategy."""
    low = {"low_rank_dimension": 5}
    vanilla, added, rotated = "VanillaIntervention", "AdditionIntervention", "LowRankRotatedSpaceIntervention"
    cases: list[dict[str, Any]] = [
        {"parts": [part("block_output", vanilla, layer=0, positions=[2]), part("mlp_output", "RotatedSpaceIntervention")]},
        {"parts": [part("block_output", added, positions=[2]), part("block_output", rotated, options=low)]},
        {"parts": [part("block_output", rotated, options=low), part("block_output", added, positions=[2])]},
        {"parts": [part("mlp_output", added, group=0), part("block_output", rotated, layer=2, group=0, options=low)]},
        {"parts": [part("head_attention_value_output", vanilla), part("head_attention_value_output", added, heads=[0])]},
        {"parts": [part("block_output", vanilla)], "mode": "serial"},
    ]
    strategies = {"strategies": ["auto", "batched", "serial"], "back": True}
    equal(pyvene_and_us(do="cases", family=family, seed=seed, cases=[case | strategies for case in cases]))


@pytest.mark.parametrize("component", ["block_output", "attention_value_output", "head_attention_value_output"])
def test_parts_of_a_place(component: str, seed: int, pyvene_and_us: Ask) -> None:
    """The first dimensions, columns and subspaces; constants; several heads; one token and three."""
    partition = {"subspace_partition": [[0, 2], [2, 5], [5, 8]]}
    constants = [part(component, kind, options={"constant": True}) for kind in ("VanillaIntervention", "AdditionIntervention")]
    parts = [
        *(part(component, kind, options={"interchange_dim": 5}) for kind in ("VanillaIntervention", "ZeroIntervention")),
        part(component, "AdditionIntervention", options={"interchange_dim": 5}),
        part(component, "RotatedSpaceIntervention", options={"interchange_dim": 5}),
        *constants,
        part(component, "VanillaIntervention", subspaces=[0, 7]),
        part(component, "VanillaIntervention", subspaces=[0, 2], options=partition),
        part(component, "SubtractionIntervention", subspaces=[1], options=partition),
        part(
            component,
            "LowRankRotatedSpaceIntervention",
            subspaces=[1],
            positions=[3],
            options=partition | {"low_rank_dimension": 6},
        ),
        part(component, "RotatedSpaceIntervention", subspaces=[1], positions=[3], options=partition),
        part(component, "RotatedSpaceIntervention", positions=[5, 1, 3]),
        part(component, "Steer", positions=[5, 1, 3]),
    ]
    if component.startswith("head_"):
        several = ("VanillaIntervention", "ZeroIntervention", "RotatedSpaceIntervention", "Steer", "TwoTokens", "mixture")
        parts += [part(component, kind, heads=heads) for kind in several for heads in ([0, 2], [3, 1])]
    equal(pyvene_and_us(do="cases", family="llama", seed=seed, cases=[{"parts": [one]} for one in parts]), at_least=1e-3)


def test_paths_of_modules(seed: int, pyvene_and_us: Ask) -> None:
    """Named by path and side, also where that is the tensor of a role."""
    paths = ("transformer.h[1].mlp.act.output", "transformer.h[1].attn.c_attn.output", "transformer.h.1.ln_2.input")
    parts = [part(path, kind) for path in (*paths, "transformer.h[1].output") for kind in ("VanillaIntervention", "mixture")]
    answers = pyvene_and_us(do="cases", family="gpt2", seed=seed, cases=[{"parts": [one], "back": True} for one in parts])
    equal(answers)
    assert "L1.resid_post" in answers[-1]["said"]
    assert "transformer.h.1.attn.c_attn:output" in answers[2]["said"]


def test_collecting(seed: int, pyvene_and_us: Ask) -> None:
    collect = "CollectIntervention"
    cases: list[dict[str, Any]] = [
        {"parts": [part("block_output", collect)]},
        {"parts": [part("head_attention_value_output", collect, heads=[0, 2])]},
        {"parts": [part("attention_value_output", collect, positions=[3], options={"interchange_dim": 5})]},
        {"parts": [part("mlp_output", "VanillaIntervention", layer=0), part("mlp_output", collect)]},
        {"parts": [part("block_output", "ZeroIntervention"), part("block_output", collect)]},
    ]
    answers = pyvene_and_us(do="cases", family="llama", seed=seed, cases=[case | {"back": True} for case in cases])
    equal(answers)
    assert all(len(answer["collected"]) == 1 for answer in answers)


def test_a_users_own_class_is_trained_by_our_trainer(seed: int, pyvene_and_us: Ask) -> None:
    found = pyvene_and_us(do="train", family="gpt2", seed=seed)
    assert found["last"] < found["first"]
    assert found["moved"] > 1e-2  # the very object that was given


# ---------------------------------------------------------------------------------------- configs and folders


def test_a_config_says_the_same_when_it_is_written_again(seed: int, pyvene_and_us: Ask) -> None:
    rows: list[dict[str, Any]] = [
        {"layer": 0, "component": "block_output", "intervention_type": "VanillaIntervention", "group_key": 0},
        {
            "layer": 1,
            "component": "mlp_output",
            "intervention_type": "LowRankRotatedSpaceIntervention",
            "low_rank_dimension": 4,
            "subspace_partition": [[0, 2], [2, 4]],
            "group_key": 0,
        },
        {"layer": 1, "component": "mlp_activation", "intervention_type": "CollectIntervention", "group_key": 1},
        {
            "layer": 2,
            "component": "head_query_output",
            "unit": "h.pos",
            "intervention_type": "RotatedSpaceIntervention",
            "group_key": 1,
            "intervention_link_key": 3,
        },
        {
            "layer": 2,
            "component": "block_output",
            "intervention_type": "AutoencoderIntervention",
            "latent_dim": 6,
            "group_key": 2,
        },
        {
            "layer": 2,
            "component": "model.layers[2].mlp.up_proj.output",
            "intervention_type": "ZeroIntervention",
            "group_key": 2,
        },
    ]
    found = pyvene_and_us(do="back and forth", family="llama", seed=seed, representations=rows)
    assert found["written"] == found["given"]
    assert found["types"][0] == found["types"][1] == [row["intervention_type"] for row in rows]


SAVED: Mapping[str, Part] = {
    "RotatedSpaceIntervention": part("block_output", "RotatedSpaceIntervention"),
    "LowRankRotatedSpaceIntervention": part("mlp_output", "LowRankRotatedSpaceIntervention", layer=0),
    "BoundlessRotatedSpaceIntervention": part("attention_value_output", "BoundlessRotatedSpaceIntervention", positions=[3]),
    "SigmoidMaskRotatedSpaceIntervention": part("block_input", "SigmoidMaskRotatedSpaceIntervention"),
    "SigmoidMaskIntervention": part("head_attention_value_output", "SigmoidMaskIntervention"),
    "first dimensions": part("block_output", "RotatedSpaceIntervention", options={"interchange_dim": 5}),
    "a source of its own": part("block_output", "AdditionIntervention", options={"constant": True}),
    "zero": part("head_key_output", "ZeroIntervention"),
    "a path": part("transformer.h[1].mlp.output", "LowRankRotatedSpaceIntervention"),
}


@pytest.mark.parametrize("name", SAVED)
def test_what_pyvene_saved_is_loaded_without_it(name: str, seed: int, tmp_path: Path, pyvene_and_us: Ask) -> None:
    """One that was trained, and a plain one beside it, in one folder. Expected numbers: pyvene's, before it saved."""
    one = SAVED[name]
    if "units" not in one:
        one = one | {"units": len(one["positions"]) if "Space" in one["kind"] else 1}
    parts = [one, part("mlp_output", "VanillaIntervention", layer=2, positions=[5])]
    told = pyvene_and_us(do="save", family="gpt2", seed=seed, case={"parts": parts}, folder=str(tmp_path))
    model = load(architectures.build("gpt2", seed % 1000))
    where = [",".join(map(str, p["positions"])) for p in parts]
    found = from_pyvene.load(tmp_path, model, where, heads=[1, None])
    expected = torch.tensor(told["expected"])
    off = deviation(model, found.intervention, torch.tensor(told["base"]), torch.tensor(told["source"]), expected)
    assert off <= 1e-5 * (1 + float(expected.abs().max()))
    assert "pyvene" not in sys.modules


def test_a_pickle_of_anything_else_is_refused(seed: int, tmp_path: Path, pyvene_and_us: Ask, tiny: Model) -> None:
    case = {"parts": [part("block_output", "RotatedSpaceIntervention", positions=[3])]}
    pyvene_and_us(do="save", family="gpt2", seed=seed, case=case, folder=str(tmp_path))
    (file,) = tmp_path.glob("intkey_*.bin")
    torch.save({"rotate_layer": Path("anything")}, file)
    with pytest.raises(LoadError, match=r"intkey_.*holds more than tensors") as caught:
        from_pyvene.load(tmp_path, tiny, 3)
    assert "\n" not in str(caught.value)
    file.write_bytes(b"nonsense")
    with pytest.raises(LoadError, match="damaged"):
        from_pyvene.load(tmp_path, tiny, 3)
    file.unlink()
    with pytest.raises(LoadError, match="no tensors for it"):
        from_pyvene.load(tmp_path, tiny, 3)
    (tmp_path / "config.json").unlink()
    with pytest.raises(LoadError, match=r"config\.json is no config of pyvene's"):
        from_pyvene.load(tmp_path, tiny, 3)


# ---------------------------------------------------------------------------------------- without pyvene


@pytest.fixture
def tiny() -> Model:
    return load(architectures.build("gpt2"))


def rows(*many: Mapping[str, Any], **whole: Any) -> dict[str, Any]:
    return {"representations": [dict(one) for one in many], **whole}


def kind(name: str, **fields: Any) -> dict[str, Any]:
    return {"intervention_type": f"<class 'pyvene.models.interventions.{name}'>", "layer": 1, **fields}


def test_a_config_file_is_read(tiny: Model, tmp_path: Path) -> None:
    """As pyvene writes it: representations are lists of fields, and types stand beside them."""
    types = [
        "<class 'pyvene.models.interventions.LowRankRotatedSpaceIntervention'>",
        "<class 'pyvene.models.interventions.ZeroIntervention'>",
    ]
    written = {
        "representations": [[1, "block_output", "pos", 1, 4], [2, "head_attention_value_output", "h.pos", 1]],
        "intervention_types": types,
        "mode": "parallel",
    }
    (tmp_path / "config.json").write_text(json.dumps(written))
    found = from_pyvene.from_config(tmp_path / "config.json", tiny, ["END", -1], heads=[None, 2], seed=5)
    first, second = found.changes
    assert repr(first.site) == "L1.resid_post"
    assert repr(first.positions) == "END"
    assert isinstance(first.edit, Replace)
    assert isinstance(first.featurizer, Rotation)
    assert (first.featurizer.width, first.featurizer.rank) == (architectures.WIDTH, 4)
    torch.testing.assert_close(first.featurizer.basis, Rotation(architectures.WIDTH, 4, seed=5).basis)
    assert (repr(second.site), repr(second.positions)) == ("L2H2.z", "-1")
    assert second.edit == Scale(0.0)
    assert found.intervention.ordered


def test_sources_and_subspaces(tiny: Model) -> None:
    config = rows(
        kind("VanillaIntervention", group_key=0),
        kind("RotatedSpaceIntervention", group_key=1, subspace_partition=[[0, 2], [2, 8]]),
    )
    other = Activation("a prompt of its own")
    found = from_pyvene.from_config(config, tiny, sources={0: other, 1: Constant(0.0)}, subspaces=[None, [1]])
    assert found.changes[0].source is other
    edit = found.changes[1].edit
    assert isinstance(edit, Select)
    assert edit.chosen.nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7]


REFUSED: Mapping[str, tuple[Any, Mapping[str, Any], type[Exception], str]] = {
    "serial": (
        rows(kind("VanillaIntervention"), kind("VanillaIntervention"), mode="serial"),
        {},
        InteropError,
        "mode='serial' with 2",
    ),
    "linked": (
        rows(kind("VanillaIntervention", intervention_link_key=0), kind("VanillaIntervention", intervention_link_key=0)),
        {},
        InteropError,
        "intervention_link_key joins",
    ),
    "expert": (rows(kind("VanillaIntervention", moe_key=1)), {}, InteropError, "moe_key names an expert"),
    "stateful": (rows(kind("VanillaIntervention", unit="t")), {}, InteropError, "'t' is a step of a stateful model"),
    "pattern": (rows(kind("VanillaIntervention", component="attention_weight")), {}, InteropError, "changes nothing"),
    "component": (rows(kind("VanillaIntervention", component="mlp_outpt")), {}, UnknownNameError, "did you mean 'mlp_output'"),
    "path": (rows(kind("VanillaIntervention", component="transformer.h[9].output")), {}, UnknownSiteError, "transformer.h.9"),
    "no heads said": (
        rows(kind("VanillaIntervention", component="head_key_output", unit="h.pos")),
        {},
        InteropError,
        "say which heads",
    ),
    "no unit of heads": (rows(kind("VanillaIntervention", component="head_key_output")), {}, InteropError, "expected 'h.pos'"),
    "field": (rows({"layer": 1, "where": 2}), {}, InteropError, "has the field 'where'"),
    "groups": (
        rows(kind("VanillaIntervention", group_key=1), kind("VanillaIntervention", group_key=0)),
        {},
        InteropError,
        "ascending",
    ),
    "class": (
        rows({"intervention_type": "<class 'os.path.Mine'>"}),
        {},
        InteropError,
        r"pass classes=\{'os.path.Mine': Mine\}",
    ),
    "what is skipped": (
        rows(kind("SkipIntervention", component="attention_output")),
        {},
        InteropError,
        "depends on the family",
    ),
    "rank": (rows(kind("LowRankRotatedSpaceIntervention")), {}, InteropError, "needs low_rank_dimension"),
    "width": (
        rows(kind("RotatedSpaceIntervention")),
        {"positions": "2,3"},
        ShapeMismatchError,
        "is 32 wide, but .* gives it 64",
    ),
    "list": (
        rows(kind("VanillaIntervention")),
        {"positions": [2, 3]},
        InteropError,
        "a list of 2; expected one entry for each of 1",
    ),
    "late": (
        rows(kind("CollectIntervention"), kind("VanillaIntervention")),
        {},
        InteropError,
        "after that was collected",
    ),
    "no config": (7, {}, InteropError, "config is int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(name: str, tiny: Model) -> None:
    config, given, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        from_pyvene.from_config(config, tiny, **given)


def test_a_class_in_a_file_is_imported_from_nowhere(tiny: Model) -> None:
    config = rows({"intervention_type": "<class 'antigravity.Intervention'>"})
    with pytest.raises(InteropError, match="which is not pyvene's"):
        from_pyvene.from_config(config, tiny)
    assert "antigravity" not in sys.modules


def test_a_function_needs_no_pyvene(tiny: Model) -> None:
    change = from_pyvene.change(tiny, lambda base, source: base + source, "L1.mlp_out", 3)
    assert change.edit.spec() == {"kind": "pyvene", "function": None}  # so a run with it is anonymous
    base, source = torch.ones(2, 1, 4), torch.full((2, 1, 4), 2.0)
    torch.testing.assert_close(change.edit(base, source), torch.full((2, 1, 4), 3.0))
    with pytest.raises(InteropError, match="no pyvene intervention"):
        from_pyvene.change(tiny, "VanillaIntervention", "L1.mlp_out")
    assert "pyvene" not in sys.modules


@pytest.mark.parametrize("rank", [5, 8])
def test_a_rotation_in_half_precision_becomes_orthonormal(rank: int, seed: int) -> None:
    """As torch's parametrization holds one that was cast to bfloat16, which keeps three digits."""
    layer = torch.nn.Linear(rank, 8, bias=False)
    torch.nn.init.orthogonal_(layer.weight, generator=torch.Generator().manual_seed(seed))
    torch.nn.utils.parametrizations.orthogonal(layer)
    expected = layer.weight.detach()
    state = {f"rotate_layer.{name}": tensor for name, tensor in layer.bfloat16().state_dict().items()}
    found = from_pyvene.kinds.rotation(from_pyvene.kinds.Described("LowRankRotatedSpaceIntervention", state)).basis.detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)
    torch.testing.assert_close(found.mT @ found, torch.eye(rank), rtol=0, atol=1e-5)


def test_what_its_own_code_raises_is_told_with_the_shapes(tiny: Model) -> None:
    change = from_pyvene.change(tiny, lambda base, source: base @ source, "L1.mlp_out", 3)
    with pytest.raises(ShapeMismatchError, match=r"raised RuntimeError for base \(2, 1, 4\)"):
        change.edit(torch.ones(2, 1, 4), torch.ones(2, 1, 4))


def test_tokens_changed_as_one_are_as_many_in_every_example(tiny: Model) -> None:
    rotated = rows(kind("RotatedSpaceIntervention", max_number_of_units=2))
    found = from_pyvene.from_config(rotated, tiny)
    prompts = torch.randint(1, architectures.VOCAB, (2, 3, 6), generator=torch.Generator().manual_seed(0))
    with pytest.raises(PositionError, match="changes 2 tokens as one, but its positions name 6"):
        deviation(tiny, found.intervention, *prompts, expected=torch.zeros(3, 6, architectures.VOCAB))


def test_patterns_and_heads_that_are_not_there(tiny: Model) -> None:
    with pytest.raises(InteropError, match="no place in pyvene"):
        from_pyvene.change(tiny, lambda base, source: base, "L1.pattern")
    with pytest.raises(InteropError, match="which has no heads"):
        from_pyvene.change(tiny, lambda base, source: base, "L1.resid_post", heads=1)
    with pytest.raises(InteropError, match="names its head already"):
        from_pyvene.change(tiny, lambda base, source: base, "L1H1.z", heads=1)


def test_locations_of_a_call(tiny: Model) -> None:
    """Negative positions and left padding are counted out, row by row, as pyvene wants them."""
    tokens = tiny.encode([[1, 2, 3], [4, 5, 6, 7, 8]])
    one = Intervention.of("L1.resid_post@-2", "L1H3.z@0")
    assert from_pyvene.unit_locations(one, tiny, tokens) == {"sources->base": 2 * ([[[3], [3]], [[[3], [3]], [[2], [0]]]],)}
