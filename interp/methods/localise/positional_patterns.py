"""Positional patterns of the causal mask: what scores of attention say of absolute positions, apart from distances.

    >>> texts = [text[:4000] for text in many_texts]                                              # doctest: +SKIP
    >>> found = interp.positional_patterns(model, texts, length=128)                              # doctest: +SKIP
    >>> interp.views.heatmap(found.centred, slider="layer")                                       # doctest: +SKIP
    >>> interp.views.curve(found.profile.sel(layer=[0, 5, 10]), x="distance")                     # doctest: +SKIP
    >>> interp.views.curve({"norm": found.norm, "noise": found.noise}, x="layer")                 # doctest: +SKIP
    >>> from interp.methods.localise.positional_patterns import simulated_patterns
    >>> simulated_patterns(cosine=0.2).norm.values.round(2)
    array([0.12, 1.22, 2.38, 2.85, 2.94])

Junu Kim, Xiao Liu, Zhenghao Lin, Lei Ji, Yeyun Gong and Edward Choi, "Behind RoPE: How Does Causal Mask Encode Positional
Information?" (2025), arXiv 2509.21042.

1. A layer of the simulation has no weights: x̂ = x / |x|, A = softmax of x̂ x̂ᵀ below the mask, x ← A x̂ + x. It begins with
   unit vectors x_i = normalised √(1−ρ) noise_i + √ρ shared, and the cosines that enter every layer are kept.
2. Of a model the scores before the softmax are averaged over texts and heads: M[i, j], j ≤ i.
3. What is relative goes with the mean of every diagonal: M̃[i, j] = M[i, j] − mean of M[i′, j′] with i′ − j′ = i − j. It is 0
   for scores that depend on the distance alone.
4. Summaries: the mean by distance and its slope, and the norm of M̃, beside the norm that the noise of so many texts has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import xarray as xr
from jaxtyping import Float

from interp import axes
from interp.engine.background import Given
from interp.engine.single.asked import Asked, ask
from interp.engine.single.cache import ask_checked, cached
from interp.errors import HeadOutOfRangeError, InputError, ShapeMismatchError, UnknownNameError, require_whole
from interp.methods.registry import Method
from interp.models import Bos, Model
from interp.prompts import Prompt

METHOD = Method(
    id="positional_patterns",
    name="positional patterns of the causal mask",
    paper="Kim et al. 2025, Behind RoPE: How Does Causal Mask Encode Positional Information?, arXiv 2509.21042",
    mediator="attention scores before the softmax, by query and key",
    search="reading",
    cost="a forward pass over the texts, and one more wherever the scores of all layers are too large at once",
    function="interp.positional_patterns",
)

By = Literal["layer", "head"]
BY = ("layer", "head")
DISTANCE = "distance"
_NUMBERS = 1 << 24
"""Scores that are held at once."""
_MASKED = -1e30
"""Scores below are those of a mask."""

Square = Float[np.ndarray[Any, Any], "*places position source_position"]


def positional_patterns(
    model: Model,
    prompts: Any,
    *,
    layers: int | Iterable[int] | None = None,
    length: int | None = None,
    skip: int = 0,
    by: By = "layer",
    given: Given = None,
    bos: Bos | None = None,
) -> xr.Dataset:
    """Mean scores of attention by position, and what is left of them without the means of their diagonals.

    Args:
        prompts: texts of equally many tokens, or of at least ``length``; as in :func:`interp.cache`. Of an encoder–decoder what
            the decoder has said counts, behind the encoder's whole text.
        layers: one or several; None for all that have attention.
        length: how many tokens of every text are run, the first ones; None for all of them.
        skip: positions at the beginning that are left out of the averages though they are attended to, such as 1 for BOS.
        by: ``"layer"`` averages over heads as they are, so that those of large scores weigh more; ``"head"`` keeps them apart.
        given: interventions in force, as in :func:`interp.patch`.
        bos: how texts begin; by default as the model was loaded.

    Returns:
        ``score`` and ``centred`` by (layer, position, source_position), with heads (layer, head, …), NaN where a mask is;
        ``profile``, the mean score by (layer, distance), with ``entries``, the number of positions that it is a mean of;
        ``slope``, in score a token, of the line through the profile from distance 1 on, weighted by entries; ``norm`` of
        ``centred``, Σ M̃² under a root; ``rms``, the same for each entry that the diagonals' means leave free; ``noise``, the
        norm that ``centred`` would have by the differences between texts alone, NaN for one text. ``attrs["n_texts"]``.

    Raises:
        ShapeMismatchError: texts of different length, or shorter than ``length``.
        InputError: ``length`` or ``skip`` leave no two positions; or what does not run as token ids.
        UnknownSiteError: the model has no scores, with the reason.
        HeadOutOfRangeError: no such layer, or none at all.
    """
    if by not in BY:
        raise UnknownNameError("by", by, BY)
    whole = ask(model, prompts, bos=bos)
    texts = _of_length(whole, length)
    long, bos = int(whole.tokens.said[0]) if length is None else length, whole.encoded.asked
    if not 0 <= skip <= long - 2:
        raise InputError(f"skip={skip} of {long} positions; expected to leave at least two")
    asked = ask_checked(model, texts[:1], "scores", given=given, bos=bos)
    probe = cached(asked, "scores", position=0)["scores"]
    there = [int(layer) for layer in probe[axes.LAYER].values]
    chosen = there if layers is None else sorted({layers} if isinstance(layers, int) else {*layers})
    if not chosen:
        raise HeadOutOfRangeError(f"layers is empty; name one or several of {there}, or None for all of them")
    if missing := [layer for layer in chosen if layer not in there]:
        raise HeadOutOfRangeError(f"layers names {missing[0]}, which has no scores; those of {model.name} are {there}")
    shape = (len(chosen), *(probe.sizes[axes.HEAD],) * (by == "head"), long - skip, long - skip)
    halves, at_once = np.zeros((2, *shape)), max(1, _NUMBERS // (probe.sizes[axes.HEAD] * long * long))
    for some in _parts(len(texts), max(1, at_once // len(chosen))):
        for part in _parts(len(chosen), at_once):
            sites = [f"L{layer}.scores" for layer in chosen[part]]
            scores = cached(ask(model, texts[some], given=given, bos=bos), sites)["scores"].values[..., skip:, skip:]
            seen = np.where(scores > _MASKED, scores.astype(float), np.nan)
            seen = seen if by == "head" else seen.mean(2)
            for half in range(2):
                halves[half, part] += seen[(half - some.start) % 2 :: 2].sum(0)
    places = {axes.LAYER: chosen} | ({axes.HEAD: np.arange(probe.sizes[axes.HEAD])} if by == "head" else {})
    found = _summaries(halves, len(texts), places, skip)
    said = {
        **whole.attrs(),
        "given": asked.attrs()["given"],
        "method": METHOD.id,
        "n_texts": len(texts),
        "n_tokens": long,
        "skip": skip,
        "by": by,
    }
    for number in found.data_vars.values():
        number.attrs = {key: said[key] for key in ("model", "given") if said[key] is not None}
    return found.assign_attrs(said)


def simulated_patterns(
    *,
    cosine: float = 0.0,
    layers: int = 4,
    sequences: int = 1000,
    length: int = 50,
    width: int = 64,
    masked: bool = True,
    inputs: Float[np.ndarray[Any, Any], "sequence position d_model"] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """The pattern that a causal mask alone makes: attention without weights, over random vectors.

    Args:
        cosine: ρ, the mean cosine of two inputs of a sequence.
        layers: how often the layer is applied; cosines that enter layers 0 to ``layers`` are kept.
        sequences, length, width: random inputs: how many sequences of how many vectors of how many numbers.
        masked: whether attention is causal; without a mask scores above the diagonal are kept too.
        inputs: vectors in place of random ones.
        seed: of random inputs.

    Returns:
        As :func:`positional_patterns`, ``n_texts`` being the sequences.

    Raises:
        ValueError: ``cosine`` is not in 0 to 1, a number is below 1, or fewer than two positions.
    """
    if not 0 <= cosine <= 1:
        raise ValueError(f"cosine={cosine}; expected a mean cosine from 0 to 1")
    if inputs is not None:
        sequences, length, width = inputs.shape
    for name, number, least in (("layers", layers, 1), ("sequences", sequences, 1), ("length", length, 2), ("width", width, 1)):
        if number < least:
            raise ValueError(f"{name}={number}; expected at least {least}")
    of_own, of_shared = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    halves = np.zeros((2, layers + 1, length, length))
    below = np.tril(np.ones((length, length), bool)) if masked else np.ones((length, length), bool)
    for start in range(0, sequences, step := max(2, _NUMBERS // (8 * length * (length + width)) // 2 * 2)):
        count = min(step, sequences - start)
        x = inputs[start : start + count] if inputs is not None else _drawn(of_own, of_shared, (count, length, width), cosine)
        for layer in range(layers + 1):
            unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
            scores = unit @ unit.swapaxes(-1, -2)
            for half in range(2):  # a step is even, so that every other sequence is in the same half
                halves[half, layer] += np.where(below, scores[half::2].sum(0), np.nan)
            weights = np.where(below, np.exp(scores), 0.0)
            x = weights / weights.sum(-1, keepdims=True) @ unit + x
    found = _summaries(halves, sequences, {axes.LAYER: np.arange(layers + 1)}, 0)
    said = {"cosine": cosine, "width": width, "masked": masked, "seed": None if inputs is not None else seed}
    return found.assign_attrs({"method": "simulated positional patterns", "n_texts": sequences, "n_tokens": length, **said})


def centred(scores: Square) -> Square:
    """Every entry less the mean of its diagonal; NaN stays, and counts in no mean."""
    means, _ = _diagonals(scores)
    return scores - means[..., _offsets(scores.shape[-1])]


def _offsets(length: int) -> np.ndarray[Any, Any]:
    """Which diagonal every entry is on, the distance from key to query, from −length + 1 on."""
    return np.subtract.outer(np.arange(length), np.arange(length)) + length - 1


def _diagonals(scores: Square) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The mean of every diagonal, and how many entries it has; NaN of none."""
    length, offsets = scores.shape[-1], _offsets(scores.shape[-1]).ravel()
    flat = scores.reshape(-1, length * length)
    known = np.isfinite(flat)
    sums, counts = (
        np.stack([np.bincount(offsets, row, 2 * length - 1) for row in rows]) for rows in (np.where(known, flat, 0.0), known)
    )
    means = np.divide(sums, counts, where=counts > 0, out=np.full_like(sums, np.nan))
    shape = (*scores.shape[:-2], 2 * length - 1)
    return means.reshape(shape), counts.reshape(shape)


def _summaries(
    halves: Float[np.ndarray[Any, Any], "half *places position source_position"], n: int, places: dict[str, Any], skip: int
) -> xr.Dataset:
    """What is told of sums of scores over every other text."""
    score = halves.sum(0) / n
    left = centred(score)
    means, counts = _diagonals(score)
    length = score.shape[-1]
    profile, entries = means[..., length - 1 :], counts[..., length - 1 :]
    square = np.nansum(left**2, (-2, -1))
    free = np.maximum(counts - 1, 0).sum(-1)
    noise = np.full(square.shape, np.nan)
    if n > 1:
        difference = centred(halves[0] / ((n + 1) // 2) - halves[1] / (n // 2))
        noise = np.sqrt(np.nansum(difference**2, (-2, -1)) * ((n + 1) // 2) * (n // 2)) / n
    by_pair, by_place = (*places, axes.POSITION, axes.SOURCE_POSITION), (*places,)
    numbers = {"slope": _slope(profile, entries), "norm": np.sqrt(square), "rms": np.sqrt(square / free), "noise": noise}
    at = np.arange(skip, skip + length)
    return xr.Dataset(
        {"score": (by_pair, score), "centred": (by_pair, left), "profile": ((*places, DISTANCE), profile)}
        | {"entries": ((*places, DISTANCE), entries)}
        | {name: (by_place, values) for name, values in numbers.items()},
        {**places, axes.POSITION: at, axes.SOURCE_POSITION: at, DISTANCE: np.arange(length)},
    )


def _slope(profile: np.ndarray[Any, Any], entries: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of the line through the means from distance 1 on, each weighing as much as it has entries; NaN through fewer than two."""
    weights, values = entries[..., 1:], np.where(entries[..., 1:] > 0, profile[..., 1:], 0.0)
    total, distance = weights.sum(-1, keepdims=True), np.arange(1, profile.shape[-1])
    away = distance - (weights * distance).sum(-1, keepdims=True) / np.maximum(total, 1)
    spread = (weights * away**2).sum(-1)
    return np.divide((weights * away * values).sum(-1), spread, where=spread > 0, out=np.full(spread.shape, np.nan))


def _drawn(
    of_own: np.random.Generator, of_shared: np.random.Generator, shape: tuple[int, int, int], cosine: float
) -> np.ndarray[Any, Any]:
    """Unit vectors whose cosine is so large in the mean; each generator goes on as if all sequences were drawn at once."""
    own, shared = of_own.standard_normal(shape), of_shared.standard_normal((shape[0], 1, shape[2]))
    own, shared = (each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (own, shared))
    x = np.sqrt(1 - cosine) * own + np.sqrt(cosine) * shared
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _of_length(asked: Asked, length: Any) -> list[Prompt]:
    """Prompts of equally many tokens: as they are, or the first ones of the text that enters the layers."""
    tokens = asked.tokens
    if tokens.ids is None:
        raise InputError("these prompts are no token ids; positions are compared over texts")
    lengths = tokens.said.tolist()
    wanted = lengths[0] if length is None else length
    require_whole(
        "length" if length is not None else "the number of tokens", wanted, "how many tokens of every text are run", 2
    )
    for number, own in enumerate(lengths):
        if own < wanted or (length is None and own != wanted):
            raise ShapeMismatchError(
                f"text {number} has {own} tokens where {wanted} are averaged; give length=, at most {min(lengths)}, to run the "
                "first ones of every text, or leave shorter texts out"
            )
    prompts = [getattr(pair, asked.side) for pair in asked.encoded.pairs]
    if all(own == wanted for own in lengths):
        return prompts
    decoded = tokens.argument != "input_ids"
    if tokens.others and not decoded:
        raise InputError(
            f"length={wanted} would cut prompts that hold more than a text ({', '.join(tokens.others)}); take prompts that are "
            "equally long"
        )
    rows = zip(prompts, tokens.ids.tolist(), tokens.first.tolist(), strict=True)
    cut = [(prompt, row[start : start + wanted]) for prompt, row, start in rows]
    return [replace(prompt, target=ids) if decoded else Prompt(ids) for prompt, ids in cut]


def _parts(count: int, most: int) -> Iterator[slice]:
    """Slices of so many at most."""
    for start in range(0, count, most):
        yield slice(start, start + most)
