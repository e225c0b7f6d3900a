"""SAELens: sparse autoencoders from folders as it saves them, ``cfg.json`` beside ``sae_weights.safetensors``.

    >>> from interp.interop import sae_lens
    >>> found = sae_lens.read("gpt2-small-res-jb/blocks.8.hook_resid_pre")                   # doctest: +SKIP
    >>> Change(found.site, "END", featurizer=found.sae, edit=Select(torch.arange(24576) == 7))   # doctest: +SKIP

Configurations of versions 2 to 6 are understood; what these dictionaries compute is computed, or refused. A dictionary of all
heads' z has them one after the other: ``Joint("(b t) h d -> (b t) (h d)", heads=range(12), of=12, inner=found.sae)``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InteropError, UserError
from interp.interventions import SparseAutoencoder
from interp.interventions.files import parsed, tensors_of
from interp.sites import Site

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk")
_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
"""Words of earlier versions."""
_NORMALIZATIONS: dict[Any, str] = {
    None: "none",
    False: "none",
    True: "expected_average_only_in",
    "none": "none",
    "expected_average_only_in": "expected_average_only_in",
    "constant_norm_rescale": "norm",
    "layer_norm": "layer",
}


class Dictionary(NamedTuple):
    """A sparse autoencoder, and what is written beside it."""

    sae: SparseAutoencoder
    site: Site | None
    """What it was trained on; None where the name of that is not one of TransformerLens'."""
    config: dict[str, Any]
    """The configuration as it is in the file."""
    sparsity: Float[Tensor, " feature"] | None
    """log₁₀ of how often each feature was active, if the folder holds it."""


def read(folder: str | os.PathLike[str], *, scaling: float | None = None) -> Dictionary:
    """The dictionary that a folder holds.

    Args:
        scaling: where activations were scaled by one number for training (``expected_average_only_in``) that was not folded
            into the weights: √width over their mean norm.

    Raises:
        InteropError: files are missing, or it is of a kind that is not supported: what it is is said.
        StoreError: a file is damaged.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InteropError(f"{folder} has no {name}; expected a folder as SAELens saves, with {CONFIG} and {WEIGHTS}")
    config = parsed((folder / CONFIG).read_bytes(), str(folder / CONFIG))
    if not isinstance(config, dict):
        raise InteropError(f"{folder / CONFIG} holds a {type(config).__name__}; expected an object with the keys of SAELens")
    said = _flat(config)
    tensors = dict(tensors_of((folder / WEIGHTS).read_bytes(), str(folder / WEIGHTS)))
    try:
        sae = _autoencoder(said, tensors, scaling)
    except UserError as error:
        raise InteropError(f"{folder}: {error}") from error
    return Dictionary(sae, _site(said), config, _sparsity(folder, sae.features))


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of any version in the words of the newest, on one level."""
    every: dict[str, Any] = {}
    for level in (config.get("meta"), config.get("metadata"), config):
        every |= {_RENAMED.get(name, name): value for name, value in (level or {}).items()}
    return every


def _autoencoder(said: Mapping[str, Any], tensors: dict[str, Tensor], scaling: float | None) -> SparseAutoencoder:
    kind = said.get("architecture", "standard")
    if kind not in ARCHITECTURES:
        raise InteropError(f"architecture {kind!r} is not supported; expected one of {', '.join(ARCHITECTURES)}")
    activation = said.get("activation_fn", "relu")
    if activation not in ("relu", "topk"):
        raise InteropError(f"activation_fn {activation!r} is not supported; expected 'relu' or 'topk'")
    if activation == "topk" and kind == "standard":
        kind = "topk"
    w_enc, w_dec, b_dec = (_taken(tensors, name).float() for name in ("W_enc", "W_dec", "b_dec"))
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in tensors:
            w_dec = _finetuned(w_dec, tensors.pop(name).float(), said)
    w_enc, w_dec, b_dec, normalize = _scaled(w_enc, w_dec, b_dec, said, scaling)
    rescaled = said.get("rescale_acts_by_decoder_norm") and kind in ("topk", "batchtopk", "matryoshka_batchtopk")
    norms = w_dec.norm(dim=1) if rescaled else torch.ones(len(w_dec))
    rest: dict[str, Any] = {}
    if kind == "gated":
        b_enc = _taken(tensors, "b_mag").float()
        rest = {"activation": "gated", "gate": _taken(tensors, "b_gate"), "scale": _taken(tensors, "r_mag")}
    else:
        b_enc = _taken(tensors, "b_enc").float() * norms
    if kind == "topk":
        rest = {"activation": "topk", "k": _k(said)}
    if kind in ("jumprelu", "batchtopk", "matryoshka_batchtopk"):
        rest = {"activation": "jumprelu", "threshold": _threshold(tensors, kind, len(b_enc))}
    if tensors:
        raise InteropError(f"{WEIGHTS} holds {', '.join(sorted(tensors))} besides, which {kind!r} does not use")
    subtract = bool(said.get("apply_b_dec_to_input", True))
    return SparseAutoencoder(
        w_enc * norms, b_enc, w_dec / norms[:, None], b_dec, subtract=subtract, normalize=normalize, **rest
    )


def _scaled(
    w_enc: Tensor, w_dec: Tensor, b_dec: Tensor, said: Mapping[str, Any], scaling: float | None
) -> tuple[Tensor, Tensor, Tensor, str]:
    """Weights with the one number folded in by which activations were scaled, and what is normalised value by value."""
    given = said.get("normalize_activations")
    if given not in _NORMALIZATIONS:
        known = ", ".join(name for name in _NORMALIZATIONS if isinstance(name, str))
        raise InteropError(f"normalize_activations {given!r} is not supported; expected one of {known}")
    normalize = _NORMALIZATIONS[given]
    if normalize != "expected_average_only_in":
        if scaling is not None:
            raise InteropError(f"scaling={scaling}, but normalize_activations is {given!r}, which needs none")
        return w_enc, w_dec, b_dec, normalize
    if scaling is None or not scaling > 0:
        raise InteropError(
            f"normalize_activations is {given!r}: it was trained on activations times one number, which the files do not hold; "
            "give scaling=√width / mean norm of the activations"
        )
    return w_enc * scaling, w_dec / scaling, b_dec / scaling, "none"


def _finetuned(w_dec: Tensor, factor: Tensor, said: Mapping[str, Any]) -> Tensor:
    """Features are scaled before they are decoded, if that was asked for; ones were also written where it was not."""
    if (factor == 1).all():
        return w_dec
    if not said.get("finetuning_scaling_factor"):
        raise InteropError("a scaling factor is in the weights, but finetuning_scaling_factor is off")
    return factor[:, None] * w_dec


def _threshold(tensors: dict[str, Tensor], kind: str, features: int) -> Tensor:
    """What features must exceed; a batch-top-k dictionary in training has one number for all."""
    if "log_threshold" in tensors:
        return tensors.pop("log_threshold").float().exp()
    if "topk_threshold" in tensors:
        return tensors.pop("topk_threshold").float().expand(features)
    if "threshold" not in tensors and kind != "jumprelu":
        raise InteropError(f"{kind!r} without a threshold: what it gives for a value depends on the others of a batch")
    return _taken(tensors, "threshold")


def _k(said: Mapping[str, Any]) -> int:
    k = said.get("k", (said.get("activation_fn_kwargs") or {}).get("k"))
    if isinstance(k, bool) or not isinstance(k, int):
        raise InteropError(f"k is {k!r}; expected a whole number for 'topk'")
    return k


def _taken(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise InteropError(f"{WEIGHTS} has no {name}; it holds {', '.join(sorted(tensors)) or 'nothing else'}")
    return tensors.pop(name)


def _site(said: Mapping[str, Any]) -> Site | None:
    name, head = said.get("hook_name"), said.get("hook_head_index")
    try:
        site = Site.parse(name) if isinstance(name, str) else None
        return site if site is None or head is None else replace(site, head=head)
    except UserError:
        return None


def _sparsity(folder: Path, features: int) -> Tensor | None:
    path = folder / SPARSITY
    if not path.is_file():
        return None
    tensors = tensors_of(path.read_bytes(), str(path))
    if set(tensors) != {"sparsity"} or tensors["sparsity"].shape != (features,):
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise InteropError(f"{path} holds {shapes or 'nothing'}; expected sparsity ({features},)")
    return tensors["sparsity"]
