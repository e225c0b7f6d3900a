"""MIB's submissions: folders and names, sizes as MIB counts edges, and featurizers that plain torch loads as MIB does.

Layouts are those of the READMEs and ``verify_submission.py`` of hannamw/MIB-circuit-track at b759df3 and aaronmueller/MIB at
cc2a160. How its modules are loaded is written again here: a layer with one ``weight``, as pyvene's ``LowRankRotateLayer`` has,
with torch's orthogonal parametrization; their state dict goes in strictly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interp.circuits import Circuit, Graph, strongest
from interp.errors import InteropError, LoadError, UnknownNameError
from interp.interop import eap_ig, mib
from interp.interventions import Identity, Rotation, Subspace
from interp.sites import Site

SQUARE = ("householder", 8)
"""Our householder is of tall matrices alone."""
FOLDER = "ioi_task_GPT2LMHeadModel_output_token"


class Rotate(nn.Module):
    def __init__(self, wide: int, narrow: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(wide, narrow))


class Module(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        layer = Rotate(*matrix.shape)
        layer.weight.data.copy_(matrix)
        self.rotate = nn.utils.parametrizations.orthogonal(layer)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        columns: Any = self.rotate.weight
        features = x @ columns
        return features, x - features @ columns.T

    def inverse(self, features: Tensor, error: Tensor) -> Tensor:
        columns: Any = self.rotate.weight
        return features @ columns.T + error


def loaded(path: Path) -> tuple[dict[str, Any], Module]:
    said = torch.load(path, weights_only=True)
    module = Module(said["model_info"]["additional_config"]["rotation_matrix"])
    module.load_state_dict(said["state_dict"], strict=True)
    return said["model_info"], module


def trained(width: int, rank: int, seed: int, parametrization: str = "qr") -> Rotation:
    """A rotation that is not where it began."""
    rotation = Rotation(width, rank, seed=seed, parametrization=parametrization)
    with torch.no_grad():
        rotation.weight.add_(0.1 * torch.randn(rotation.weight.shape, generator=torch.Generator().manual_seed(seed)))
    return rotation


@pytest.mark.parametrize(
    ("kind", "rank"),
    [(kind, rank) for kind in ("qr", "cayley", "householder", "subspace") for rank in (1, 3, 8) if (kind, rank) != SQUARE],
)
def test_plain_torch_loads_a_rotation(kind: str, rank: int, tmp_path: Path, seed: int) -> None:
    """Features and what is left of them within float32 rounding: 1e-5 for values of about 1; 8 of 8 is torch's square case."""
    ours: Any = trained(8, rank, seed % 1000, kind if kind != "subspace" else "qr")
    ours = Subspace(ours.basis.detach()) if kind == "subspace" else ours
    place = mib.unit("L3.resid_pre", "last_token")
    before = torch.random.get_rng_state()
    paths = mib.write_featurizer(tmp_path / FOLDER, place, ours)
    assert torch.equal(before, torch.random.get_rng_state()), "nobody's draws are moved"
    assert [path.name for path in paths] == [
        "ResidualStream(Layer-3,Token-last_token)_featurizer",
        "ResidualStream(Layer-3,Token-last_token)_inverse_featurizer",
        "ResidualStream(Layer-3,Token-last_token)_indices",
    ]
    info, forth = loaded(paths[0])
    same, back = loaded(paths[1])
    assert (info["featurizer_class"], same["inverse_featurizer_class"], info["n_features"]) == (
        "SubspaceFeaturizerModule",
        "SubspaceInverseFeaturizerModule",
        rank,
    )
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        features, error = forth.features(x)
        expected = ours.encode(x)
        torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(error, x - ours.decode(expected), rtol=0, atol=1e-5)
        other = torch.randn(5, rank)
        torch.testing.assert_close(
            back.inverse(other, error), ours.decode(other) + x - ours.decode(expected), rtol=0, atol=1e-5
        )
    assert paths[2].read_text() == "null"


def test_featurizers_there_and_back(tmp_path: Path) -> None:
    rotation, head = trained(16, 4, 1), mib.unit("L9H6.z", "all")
    assert head.name == "AttentionHead(Layer-9,Head-6,Token-all)"
    mib.write_featurizer(tmp_path, head, rotation, [0, 2])
    mib.write_featurizer(tmp_path, mib.unit("L2.resid_post", "correct_symbol"), Identity(), [1, 5])
    a, b = mib.read_featurizers(tmp_path)
    assert (a.unit, a.indices) == (head, (0, 2))
    assert isinstance(a.featurizer, Subspace)
    torch.testing.assert_close(a.featurizer.basis, rotation.basis.detach(), rtol=0, atol=1e-6)
    assert (b.unit, b.indices) == (mib.Unit(Site("resid_pre", layer=3), "correct_symbol"), (1, 5))
    assert isinstance(b.featurizer, Identity)
    (tmp_path / "AttentionHead(Layer-9,Head-6,Token-all)_indices").unlink()
    with pytest.raises(LoadError, match="cannot be read"):
        mib.read_featurizers(tmp_path)


def test_older_names_of_units_are_read(tmp_path: Path) -> None:
    mib.write_featurizer(tmp_path, mib.unit("L0.resid_pre", "last"), Identity())
    for ending in ("featurizer", "inverse_featurizer", "indices"):
        (tmp_path / f"ResidualStream(Layer-0,Token-last)_{ending}").rename(
            tmp_path / f"ResidualStream(Layer:12,Token:last)_{ending}"
        )
    [found] = mib.read_featurizers(tmp_path)
    assert (found.unit.site, found.unit.token, found.indices) == (Site("resid_pre", layer=12), "last", None)


def test_what_is_no_feature_says_why(tmp_path: Path) -> None:
    with pytest.raises(InteropError, match=r"site L3.mlp_out; MIB's units are streams in front of a block"):
        mib.unit("L3.mlp_out", "last_token")
    place = mib.unit("L3.resid_pre", "last_token")
    with pytest.raises(InteropError, match=r"indices hold 4, but Subspace\(8 → 2\) has features 0 to 1"):
        mib.write_featurizer(tmp_path, place, Subspace(torch.eye(8)[:, :2]), [0, 4])

    class Mine(Subspace):
        pass

    with pytest.raises(InteropError, match="MIB's own modules hold orthonormal columns"):
        mib.write_featurizer(tmp_path, place, Mine(torch.eye(8)[:, :2]))
    with pytest.raises(LoadError, match="holds no file that ends in '_featurizer'"):
        mib.read_featurizers(tmp_path)
    (tmp_path / "MLP(Layer-3,Token-last)_featurizer").write_bytes(b"")
    with pytest.raises(InteropError, match=r"'MLP\(Layer-3,Token-last\)' is no unit that is read here"):
        mib.read_featurizers(tmp_path)


def test_scores_of_a_task_and_a_model(tmp_path: Path, seed: int) -> None:
    graph = Graph.like(2, 4, kv_heads=2)
    scores = np.random.default_rng(seed).normal(size=len(graph))
    path = mib.write_scores(tmp_path, "ioi", "qwen2.5", graph, scores, d_model=8)
    assert path == tmp_path / "ioi_qwen2.5" / "importances.json"
    found = mib.read(path.parent, graph)
    assert list(found) == ["importances"]
    np.testing.assert_allclose(found["importances"].scores, scores, rtol=0, atol=1e-12)
    with pytest.raises(UnknownNameError, match="unknown task and model 'ioi_gpt3'"):
        mib.write_scores(tmp_path, "ioi", "gpt3", graph, scores, d_model=8)


def test_a_circuit_for_every_size(tmp_path: Path, seed: int) -> None:
    """Edges as MIB counts them: one for each of the two heads that share keys or values."""
    graph = Graph.like(6, 8, kv_heads=4)
    wide = Graph.like(6, 8)
    assert eap_ig.counted(Circuit.whole(graph)) == len(wide)
    draw = np.random.default_rng(seed).normal(size=len(graph))
    nine = {size: strongest(draw, graph, max(1, int(size / 100 * len(wide) / 2))) for size in mib.SIZES}
    paths = mib.write_circuits(tmp_path, "mcqa", "llama3", nine, d_model=8)
    assert [path.name for path in paths] == [f"{size:g}.json" for size in mib.SIZES]
    for path, size in zip(paths, mib.SIZES, strict=True):
        said = json.loads(path.read_text())
        many = sum(edge["in_graph"] for edge in said["edges"].values())
        assert many == eap_ig.counted(nine[size])
        assert many <= size / 100 * len(said["edges"])
        assert eap_ig.read(path, graph).circuit == nine[size]
    assert set(mib.read(tmp_path / "mcqa_llama3", graph)) == {f"{size:g}" for size in mib.SIZES}
    with pytest.raises(
        InteropError, match=r"circuits are of 0.1 % of the edges; MIB asks for 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50"
    ):
        mib.write_circuits(tmp_path, "mcqa", "llama3", {0.1: nine[0.1]}, d_model=8)
    with pytest.raises(InteropError, match=r"whole: .* edges as MIB counts them, 100.00% of .*; at most 5 % are allowed"):
        mib.write_circuits(tmp_path, "mcqa", "llama3", nine | {5.0: Circuit.whole(graph)}, d_model=8)
    with pytest.raises(LoadError, match=r"holds no .json and no .pt file"):
        mib.read(tmp_path)
