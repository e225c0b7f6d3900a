"""MIB: submissions to the Mechanistic Interpretability Benchmark, of circuits and of features that hold a causal variable.

    >>> from interp.interop import mib
    >>> mib.write_scores("ours", "ioi", "gpt2", interp.graph(model), scores, d_model=768)        # doctest: +SKIP
    >>> mib.write_circuits("ours", "ioi", "gpt2", nine, d_model=768)                             # doctest: +SKIP
    >>> unit = mib.unit("L15.resid_pre", "last_token")                                           # doctest: +SKIP
    >>> mib.write_featurizer("ours/4_answer_MCQA_Qwen2ForCausalLM_answer", unit, rotation)       # doctest: +SKIP

Mueller et al., "MIB: A Mechanistic Interpretability Benchmark" (arXiv 2504.13151).

Circuits: a folder ``TASK_MODEL`` each, with ``importances.json`` alone, scores of all edges from which MIB makes circuits of
its sizes (the highest ones, with the sign of EAP-IG: what helps is above 0), or one file for every size of :data:`SIZES`. Files
are those of :mod:`interp.interop.eap_ig`.

Features: a folder ``TASK_MODEL_VARIABLE`` with three files for every place, ``UNIT_featurizer`` (f = x R and what is left,
x − f Rᵀ), ``UNIT_inverse_featurizer`` (f Rᵀ and what was left) and ``UNIT_indices`` (which of f, or all). What is orthonormal
is written: a rotation, a subspace, the site's own coordinates. Anything else needs a ``featurizer.py`` of yours beside it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from interp.circuits import Circuit, Graph
from interp.circuits.selecting import Scores
from interp.errors import InteropError, LoadError, UnknownNameError
from interp.interop import eap_ig
from interp.interventions import Identity, Rotation, Subspace
from interp.interventions.featurizer import Featurizer
from interp.sites import Site

SUBMITTED = (
    *("ioi_gpt2", "ioi_qwen2.5", "ioi_gemma2", "ioi_llama3", "ioi_interpbench"),
    *("mcqa_qwen2.5", "mcqa_gemma2", "mcqa_llama3", "arithmetic-addition_llama3", "arithmetic-subtraction_llama3"),
    *("arc-easy_gemma2", "arc-easy_llama3", "arc-challenge_llama3"),
)
"""Tasks and models whose circuits are compared."""
SIZES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
"""Percentages of edges that circuits may have."""
_UNIT = re.compile(r"(ResidualStream|AttentionHead)\(Layer[-_:](\d+)(?:,block_input)?(?:,Head[-_:](\d+))?,Token[-_:](.+)\)$")
_SUBSPACE, _IDENTITY = "Subspace", "Identity"


# ---------------------------------------------------------------------------------------------------- circuits


def write_scores(
    folder: str | os.PathLike[str],
    task: str,
    model: str,
    graph: Graph,
    scores: Scores,
    *,
    d_model: int,
    metric: str | None = None,
) -> Path:
    """Scores of all edges, as ``FOLDER/TASK_MODEL/importances.json``.

    Args:
        task, model: as in :data:`SUBMITTED`, ``"ioi"`` and ``"gpt2"``.
        graph, scores, d_model, metric: as for :func:`interp.interop.eap_ig.write`.

    Raises:
        UnknownNameError: a task or model that is not compared. And what :func:`interp.interop.eap_ig.write` raises.
    """
    path = _folder(folder, task, model) / "importances.json"
    eap_ig.write(path, graph, scores=scores, d_model=d_model, metric=metric)
    return path


def write_circuits(
    folder: str | os.PathLike[str], task: str, model: str, circuits: Mapping[float, Circuit], *, d_model: int
) -> list[Path]:
    """A circuit for every size, as ``FOLDER/TASK_MODEL/0.1.json`` and so on.

    Args:
        task, model: as in :data:`SUBMITTED`.
        circuits: by the percentage of edges that they may have at most, all of :data:`SIZES`. Edges are counted as MIB does:
            into keys and values that heads share, one for every head.
        d_model: width of the stream.

    Raises:
        InteropError: a size is missing, or a circuit has more edges than its size.
        UnknownNameError: a task or model that is not compared. And what :func:`interp.interop.eap_ig.write` raises.
    """
    missing = [size for size in SIZES if size not in circuits]
    if missing or len(circuits) > len(SIZES):
        listed = ", ".join(f"{size:g}" for size in circuits)
        raise InteropError(
            f"circuits are of {listed or 'no'} % of the edges; MIB asks for {', '.join(f'{s:g}' for s in SIZES)}"
        )
    for size in SIZES:
        many, of = eap_ig.counted(circuits[size]), eap_ig.counted(Circuit.whole(circuits[size].graph))
        if many > size / 100 * of:
            raise InteropError(
                f"{circuits[size]!r} has {many:,} edges as MIB counts them, {many / of:.2%} of {of:,}; at most {size:g} % are "
                "allowed"
            )
    inside, found = _folder(folder, task, model), []
    for size in SIZES:
        found.append(inside / f"{size:g}.json")
        eap_ig.write(found[-1], circuits[size].graph, circuit=circuits[size], d_model=d_model)
    return found


def read(folder: str | os.PathLike[str], graph: Graph | None = None) -> dict[str, eap_ig.Read]:
    """What a folder ``TASK_MODEL`` holds, by the names of its files without their ending.

    Args:
        graph: of the model, as for :func:`interp.interop.eap_ig.read`.

    Raises:
        LoadError: it holds no ``.json`` or ``.pt`` file. And what :func:`interp.interop.eap_ig.read` raises.
    """
    paths = sorted(path for path in Path(folder).glob("*") if path.suffix in (".json", ".pt"))
    if not paths:
        raise LoadError(f"{folder} holds no .json and no .pt file")
    return {path.stem: eap_ig.read(path, graph) for path in paths}


def _folder(folder: str | os.PathLike[str], task: str, model: str) -> Path:
    name = f"{task}_{model}"
    if name not in SUBMITTED:
        raise UnknownNameError("task and model", name, SUBMITTED)
    path = Path(folder) / name
    path.mkdir(parents=True, exist_ok=True)
    return path


# ---------------------------------------------------------------------------------------------------- features


class Unit(NamedTuple):
    """A place whose features are submitted."""

    site: Site
    token: str
    """The id of a token position of the submission's ``token_position.py``."""

    @property
    def name(self) -> str:
        """What its files begin with."""
        if self.site.name == "z":
            return f"AttentionHead(Layer-{self.site.layer},Head-{self.site.head},Token-{self.token})"
        return f"ResidualStream(Layer-{self.site.layer},Token-{self.token})"


class Features(NamedTuple):
    """What three files hold."""

    unit: Unit
    featurizer: Featurizer
    indices: tuple[int, ...] | None
    """Which features are the variable's; None for all."""


def unit(site: Site | str, token: str) -> Unit:
    """The place that a site is in their words.

    Args:
        site: the stream in front of a block (``"L15.resid_pre"``; behind the one before is the same), or a head (``"L9H6.z"``).
        token: the id of a token position, such as ``"last_token"``, or ``"all"`` of heads.

    Raises:
        InteropError: their units are of no such site.
    """
    named = Site.parse(site) if isinstance(site, str) else site
    if named.name == "resid_post" and named.layer is not None:
        named = Site("resid_pre", layer=named.layer + 1)
    head = named.name == "z" and named.head is not None
    if named.layer is None or named.path is not None or not (head or named.name == "resid_pre"):
        raise InteropError(f"site {named!r}; MIB's units are streams in front of a block (L15.resid_pre) and heads (L9H6.z)")
    return Unit(named, token)


def write_featurizer(
    folder: str | os.PathLike[str], unit: Unit, featurizer: Featurizer, indices: Sequence[int] | None = None
) -> list[Path]:
    """Three files of a place.

    Args:
        folder: ``TASK_MODEL_VARIABLE``, such as ``"ioi_task_GPT2LMHeadModel_output_token"``; made where it is not there.
        unit: from :func:`unit`.
        featurizer: a :class:`interp.interventions.Rotation`, :class:`interp.interventions.Subspace` or ``Identity``.
        indices: which of its features are the variable's; None for all.

    Raises:
        InteropError: a featurizer that is not orthonormal, or an index that it does not have.
    """
    basis = _basis(featurizer)
    chosen = None if indices is None else [int(index) for index in indices]
    many = None if basis is None else basis.shape[1]
    strange = [index for index in chosen or () if index < 0 or (many is not None and index >= many)]
    if strange:
        raise InteropError(
            f"indices hold {strange[0]}, but {featurizer!r} has features 0 to {'…' if many is None else many - 1}"
        )
    kind = _IDENTITY if basis is None else _SUBSPACE
    config = {} if basis is None else {"rotation_matrix": basis, "requires_grad": True}
    info = {
        "featurizer_class": f"{kind}FeaturizerModule",
        "inverse_featurizer_class": f"{kind}InverseFeaturizerModule",
        "n_features": many,
        "additional_config": config,
    }
    state = {} if basis is None else _state(basis)
    base = Path(folder) / unit.name
    base.parent.mkdir(parents=True, exist_ok=True)
    paths = [base.with_name(base.name + ending) for ending in ("_featurizer", "_inverse_featurizer", "_indices")]
    for path in paths[:2]:
        torch.save({"model_info": info, "state_dict": state}, path)
    paths[2].write_text(json.dumps(chosen), encoding="utf-8")
    return paths


def read_featurizers(folder: str | os.PathLike[str]) -> list[Features]:
    """All places of a folder ``TASK_MODEL_VARIABLE``, by the names of their files.

    Raises:
        LoadError: a file that is none of theirs, or that is missing.
        InteropError: a featurizer that is no subspace and not the identity, or a unit that is neither a stream nor a head.
    """
    ends = "_featurizer", "_inverse_featurizer"
    names = sorted(
        path.name.removesuffix(ends[0]) for path in Path(folder).glob("*_featurizer") if not path.name.endswith(ends[1])
    )
    if not names:
        raise LoadError(f"{folder} holds no file that ends in '_featurizer'")
    return [_read(Path(folder), name) for name in names]


def _read(folder: Path, name: str) -> Features:
    found = _UNIT.match(name)
    if found is None or (found[1] == "AttentionHead") != (found[3] is not None):
        raise InteropError(
            f"{name!r} is no unit that is read here; expected a stream in front of a block, "
            "ResidualStream(Layer-15,Token-last_token), or a head, AttentionHead(Layer-9,Head-6,Token-all)"
        )
    layer, token = int(found[2]), found[4]
    site = Site("resid_pre", layer=layer) if found[3] is None else Site("z", layer=layer, head=int(found[3]))
    try:
        said = torch.load(folder / f"{name}_featurizer", map_location="cpu", weights_only=True)
        chosen = json.loads((folder / f"{name}_indices").read_text(encoding="utf-8"))
        info = said["model_info"]
        kind = str(info["featurizer_class"])
    except (OSError, RuntimeError, UnpicklingError, ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{folder / name} cannot be read: {error!r}") from error
    if kind == f"{_IDENTITY}FeaturizerModule":
        featurizer: Featurizer = Identity()
    elif kind == f"{_SUBSPACE}FeaturizerModule":
        featurizer = Subspace(info["additional_config"]["rotation_matrix"].detach())
    else:
        raise InteropError(f"{name} has a featurizer {kind}; only subspaces and the identity are read")
    return Features(Unit(site, token), featurizer, None if chosen is None else tuple(chosen))


def _basis(featurizer: Any) -> Float[Tensor, "width feature"] | None:
    """Orthonormal columns; None for the site's own coordinates."""
    if isinstance(featurizer, Identity):
        return None
    if type(featurizer) not in (Rotation, Subspace):
        raise InteropError(
            f"featurizer is {featurizer!r}; MIB's own modules hold orthonormal columns: a Rotation, a Subspace or Identity(). "
            "Others are submitted with a featurizer.py that has their classes"
        )
    return featurizer.basis.detach().cpu().float().contiguous().clone()


class _Rotate(nn.Module):
    """A module with one weight, as pyvene's ``LowRankRotateLayer``."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())


def _state(basis: Float[Tensor, "width feature"]) -> dict[str, Tensor]:
    """What the state dict of their modules holds: torch's orthogonal parametrization at this basis."""
    with torch.random.fork_rng(devices=[]):  # torch completes a tall matrix by a draw
        torch.manual_seed(0)
        rotate = orthogonal(_Rotate(basis))
        rotate.weight = basis
    return {f"rotate.{name}": value.detach().clone() for name, value in rotate.state_dict().items()}
