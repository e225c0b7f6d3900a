"""Is the output right? Confidence, probes, and whether the variables that carry the algorithm were there to make it.

>>> place = interp.das(model, rows, "L18.resid_post@-1", rank=4).best                                 # doctest: +SKIP
>>> found = interp.predict_correctness(model, rows, {"in": held, "renamed": other}, place)          # doctest: +SKIP
>>> found.auc.mean("fold").sel(split="renamed")                                                     # doctest: +SKIP

A prompt x, the network's own answer to it, and a causal model with a variable Z whose place is known:

1. Confidence: the probability of the answer at the temperature that tells right from wrong best on validation rows.
2. Correctness probe: a linear probe for right and wrong at the place that does so.
3. Counterfactual simulation: Z's place is taken from x in runs on M bases that the network answers rightly. The score is the
   mean probability of what the causal model then says to the base, with the value of Z that the answer to x implies. What is
   right is not asked, so that nothing of it can leak.
4. Value probe: a classifier for Z's value at its place, trained on rows that are answered rightly. Its largest posterior is one
   score, the posterior of the value that the answer implies another.

Every part of the training rows is left out once, as validation rows: probes are trained on the others, temperature and place
are chosen by these. How well a score tells right from wrong is the area under the ROC, the share of pairs of a right and a
wrong row that it ranks so, with DeLong's interval; also of all tests pooled, without recalibration.

Huang, Tao, Icard, Yang and Potts, "Internal Causal Mechanisms Robustly Predict Language Model Out-of-Distribution Behaviors",
arXiv 2505.11770.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from interp import axes, effects
from interp.effects import curves
from interp.engine.options import OPTION, option_logprobs
from interp.engine.precision import Precision
from interp.engine.said import Said, alone
from interp.engine.single.cache import cache
from interp.errors import InputError, UnknownNameError, require_whole
from interp.interventions import Activation, Change, Intervention, classifier
from interp.methods.registry import Method
from interp.metrics.protocol import Readout, Reads
from interp.models import Model
from interp.sites import Site
from interp.tasks import Counterfactuals

METHODS = (
    Method(
        id="correctness_prediction",
        name="counterfactual simulation and value probing",
        paper="Huang et al. 2025, Internal Causal Mechanisms Robustly Predict Language Model Out-of-Distribution Behaviors, "
        "arXiv 2505.11770",
        mediator="the place of a variable",
        search="none: the place is given; probes are trained",
        cost="two forward passes of every prompt, and for every prompt, base and fold what follows the place",
        function="interp.predict_correctness",
    ),
)
SCORES = ("confidence", "correctness_probe", "simulation", "value_probe", "implied_value")
_VALUED = ("value_probe", "implied_value")
TEMPERATURES = tuple(np.arange(0.5, 5.0, 0.5).tolist())
VALIDATION, POOLED = "validation", "pooled"


@dataclass(frozen=True, slots=True)
class Tempered:
    """The probability, at a temperature, of which of a pair's answers is the likeliest."""

    temperature: float
    reads: Reads = Reads(needs=("answers",))
    unit: str = "probability"

    @property
    def name(self) -> str:
        return f"confidence_{self.temperature:g}"

    def __call__(self, readout: Readout) -> Float[Tensor, "row example"]:
        every = torch.cat([readout.at(readout.answers), readout.at(readout.wrong)], dim=-1)
        return (every.amax(-1) / self.temperature - (readout.final / self.temperature).logsumexp(-1)).exp()


def predict_correctness(
    model: Model,
    train: Counterfactuals,
    test: Mapping[str, Counterfactuals],
    where: Change | Intervention,
    variable: str | None = None,
    *,
    bases: int | Counterfactuals = 16,
    folds: int = 3,
    probes: Any = None,
    scores: Sequence[str] = SCORES,
    temperatures: Sequence[float] = TEMPERATURES,
    penalty: float = 1e-2,
    level: float = 0.95,
    seed: int = 0,
    precision: Precision = "full",
    progress: bool | None = None,
) -> xr.Dataset:
    """Score prompts by how likely the network's answer is right, and judge the scores.

    Args:
        model: from :func:`interp.load`.
        train: rows whose *bases* are the prompts, some of them answered rightly and some not; their sources play no part.
        test: further rows by name, in distribution or out of it, of tasks that may say the same otherwise.
        where: the variable's place and that of no other, such as :attr:`interp.engine.alignment.Aligned.best` of a search for
            one variable, made on other rows.
        variable: of the causal models, by default that of the training rows. It has a list of values.
        bases: how many are drawn for every fold; or rows, all of which the network answers rightly.
        folds: parts of the training rows.
        probes: what the correctness probe may read at the last token, as for :func:`interp.cache`; by default the stream behind
            every block, else the place itself.
        scores: some of :data:`SCORES`.
        temperatures: of the confidence, to choose from.
        penalty: of probes, as for :func:`interp.interventions.linear_probe`.
        level: of intervals.
        seed: of the parts and of the bases.
        precision, progress: as for :func:`interp.patch`.

    Returns:
        ``score [predictor, fold, example]``, of training rows in the fold that leaves them out; ``auc``, ``low``, ``high
        [predictor, split, fold]``, undefined of splits that are all right or all wrong; splits are ``validation``, the tests
        and ``pooled``; ``correct [example]``; ``chosen_temperature [fold]``, ``chosen_probe [fold]``. Examples have the
        coordinate ``of``, their split.

    Raises:
        InputError: a variable without a list of values, nothing that is answered rightly or wrongly where one is needed, bases
            that are answered wrongly, or a causal model that asks for an answer that the base does not offer.
        UnknownNameError: no such variable or score.
    """
    for name in scores:
        if name not in SCORES:
            raise UnknownNameError("score", name, SCORES)
    require_whole("folds", folds, "in how many parts training rows are cut")
    if folds < 2 or not test or {VALIDATION, POOLED} & {*test}:
        raise InputError(
            f"folds={folds}, tests {list(test)}; expected two folds and one test at least, of other names than these"
        )
    words: dict[str, Any] = {"precision": precision, "progress": progress}
    place = where if isinstance(where, Intervention) else Intervention((where,))
    name = train.variables[0] if variable is None else variable
    heats = [Tempered(temperature) for temperature in temperatures] if "confidence" in scores else []
    parts = {key: Said.of(model, rows, name, heats, **words) for key, rows in ({VALIDATION: train} | {**test}).items()}
    own = parts[VALIDATION]
    given = None if isinstance(bases, int) else Said.of(model, bases, name, **words)
    if given is not None and not given.right.all():
        raise InputError(f"{int((~given.right).sum())} of {len(given.right)} bases are answered wrongly; see interp.answered")
    fold = np.random.default_rng(seed).permutation(np.arange(len(own.right)) % folds)
    features = {key: _features(model, place, part) for key, part in parts.items()} if {*_VALUED} & {*scores} else {}
    acts = _readable(model, place, parts, probes) if "correctness_probe" in scores else {}
    asked = _Asked(model, place, tuple(temperatures), penalty, words, features, acts)
    found, chosen = [], []
    for number in range(folds):
        fit, held = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        drawn: Any = _verified(own, fit, bases, seed + number) if given is None and "simulation" in scores else []
        some = own.take(drawn) if given is None else given
        one, facts = _scored(asked, parts, fit, held, some, scores)
        found.append(one)
        chosen.append(facts)
    score = np.stack(found, axis=1)
    splits = np.concatenate([np.repeat(key, len(part.right)) for key, part in parts.items()])
    correct = np.concatenate([part.right for part in parts.values()])
    within = {**{key: splits == key for key in parts}, POOLED: splits != VALIDATION}
    areas = np.array(
        [
            [[curves.delong(line[there], correct[there], level=level)[:3] for line in of] for there in within.values()]
            for of in score
        ]
    )
    data: dict[str, Any] = {"score": (("predictor", "fold", axes.EXAMPLE), score), "correct": ((axes.EXAMPLE,), correct)}
    data |= {key: (("predictor", "split", "fold"), areas[..., i]) for i, key in enumerate(("auc", "low", "high"))}
    data |= {f"chosen_{key}": (("fold",), [one[key] for one in chosen]) for key in chosen[0]}
    result = xr.Dataset(data, {"predictor": list(scores), "split": list(within), "of": (axes.EXAMPLE, splits)})
    attrs: dict[str, Any] = {
        "method": "correctness_prediction",
        "model": model.name,
        "digest": model.digest,
        "where": repr(place),
    }
    attrs |= {"variable": name, "bases": bases if given is None else len(given.right), "seed": seed, "level": level}
    return effects.stamped(result.assign_attrs(attrs))


class _Asked(NamedTuple):
    model: Model
    place: Intervention
    temperatures: tuple[float, ...]
    penalty: float
    words: dict[str, Any]
    features: Mapping[str, Tensor]
    """By split ``[row, feature]``, coordinates at the variable's place."""
    acts: Mapping[str, Mapping[str, Tensor]]
    """By split and place what the correctness probe may read, ``[row, …, width]``."""


def _verified(own: Said, fit: NDArray[np.intp], bases: Any, seed: int) -> NDArray[np.intp]:
    """Bases among the rows that are not held out."""
    require_whole("bases", bases, "on how many bases a prompt is tried")
    right = fit[own.right[fit]]
    if len(right) < bases:
        raise InputError(f"bases={bases}, but {len(right)} of {len(fit)} training rows of a fold are answered rightly")
    return np.random.default_rng(seed).choice(right, bases, replace=False)


def _scored(
    asked: _Asked,
    parts: Mapping[str, Said],
    fit: NDArray[np.intp],
    held: NDArray[np.intp],
    bases: Said,
    scores: Sequence[str],
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """``[predictor, example]`` of one fold, and what was chosen."""
    own = parts[VALIDATION]
    of = {key: (np.asarray(held) if key == VALIDATION else np.arange(len(part.right))) for key, part in parts.items()}
    found: dict[str, dict[str, NDArray[np.float64]]] = {name: {} for name in scores}
    chosen: dict[str, Any] = {}
    if "confidence" in found:
        areas = [curves.delong(line[held], own.right[held]).mean for line in own.further]
        best = _best(areas, VALIDATION)
        chosen["temperature"] = asked.temperatures[best]
        found["confidence"] = {key: part.further[best][of[key]] for key, part in parts.items()}
    if "correctness_probe" in found:
        found["correctness_probe"], chosen["probe"] = _probed(asked, parts, of, fit, held)
    if "simulation" in found:
        found["simulation"] = {key: _simulated(asked, part.take(of[key]), bases) for key, part in parts.items()}
    if {*_VALUED} & {*found}:
        both = zip(_VALUED, _valued(asked, parts, of, fit), strict=True)
        found |= {key: one for key, one in both if key in found}
    lines = []
    for name in scores:
        first = np.full(len(own.right), np.nan)
        first[held] = found[name][VALIDATION]
        lines.append(np.concatenate([first, *(one for key, one in found[name].items() if key != VALIDATION)]))
    return np.stack(lines), chosen


def _simulated(asked: _Asked, part: Said, bases: Said) -> NDArray[np.float64]:
    """The mean probability over bases of the outputs that the values implied by the network's answers lead to."""
    if not len(part.right):
        return np.zeros(0)
    cells = [Intervention(tuple(_from(change, prompt) for change in asked.place.changes)) for prompt in part.prompts]
    logs = option_logprobs(asked.model, alone(bases.rows), cells, skip_inert=False, **asked.words)["value"]
    chances = np.exp(logs.transpose(axes.CELL, axes.EXAMPLE, OPTION).values.astype(float))
    found = np.zeros((len(part.right), len(bases.right)))
    for j, offered in enumerate(bases.offered):
        for value, output in enumerate(bases.outputs[:, j].tolist()):
            if output not in offered and part.implied[value].any():
                raise InputError(
                    f"with {part.variable} = {part.values[value]!r} the causal model says {output!r} to base {j}, where one "
                    f"chooses among {offered}; give bases whose answers hold what any value leads to"
                )
        for at, output in enumerate(offered):
            asks = part.implied[bases.outputs[:, j] == output].any(0)  # [row], whether an implied value leads there
            found[:, j] += np.where(asks, chances[:, j, at], 0.0)
    return np.asarray(found.mean(-1))


def _from(change: Change, prompt: Any) -> Change:
    """The same change with the value of one prompt."""
    source = change.source if isinstance(change.source, Activation) else Activation()
    return Change(
        change.site,
        change.positions,
        replace(source, prompt=prompt),
        change.edit,
        change.featurizer,
        change.keep_error,
        change.attended,
        change.own,
    )


def _valued(
    asked: _Asked, parts: Mapping[str, Said], of: Mapping[str, Any], fit: NDArray[np.intp]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """The largest posterior of the variable's value, and that of the values that the answers imply."""
    own = parts[VALIDATION]
    right = fit[own.right[fit]]
    values = [own.values.index(one) for one in own.value[right].tolist()]
    if len({*values}) < 2:
        raise InputError(f"{len(right)} training rows are answered rightly, with {len({*values})} values of {own.variable}")
    probe = classifier(asked.features[VALIDATION][right], values, penalty=asked.penalty)
    largest, implied = {}, {}
    for key, part in parts.items():
        posterior = probe.posterior(asked.features[key][of[key]]).numpy()
        largest[key] = posterior.max(-1)
        implied[key] = (posterior * part.implied[np.array(probe.classes)][:, of[key]].T).sum(-1)
    return largest, implied


def _features(model: Model, place: Intervention, part: Said) -> Float[Tensor, "row feature"]:
    """Coordinates at the variable's place."""
    found = []
    for change in place.changes:
        acts = _acts(model, part.prompts, repr(change.site), None if change.positions.is_all else change.positions)
        own = next(iter(acts.values()))
        with torch.no_grad():
            found.append(change.featurizer.encode(own).flatten(1).double())
    return torch.cat(found, -1)


def _acts(model: Model, prompts: Sequence[Any], sites: Any, position: Any) -> dict[str, Tensor]:
    """Activations ``[row, …, width]`` by the name of what was read and its layer."""
    kept = cache(model, prompts, sites, position=position)
    found = {}
    for name, array in kept.data_vars.items():
        layers = array[axes.LAYER].values.tolist() if axes.LAYER in array.dims else [None]
        for layer in layers:
            one = array if layer is None else array.sel({axes.LAYER: layer})
            found[str(name) if layer is None else f"L{layer}.{name}"] = torch.from_numpy(np.ascontiguousarray(one.values))
    return found


def _readable(model: Model, place: Intervention, parts: Mapping[str, Said], probes: Any) -> dict[str, dict[str, Tensor]]:
    streams = model.has(Site.parse("L0.resid_post"))
    sites = probes if probes is not None else "resid_post" if streams else [repr(change.site) for change in place.changes]
    position = -1 if probes is not None or streams else None
    return {key: _acts(model, part.prompts, sites, position) for key, part in parts.items()}


def _probed(
    asked: _Asked, parts: Mapping[str, Said], of: Mapping[str, Any], fit: NDArray[np.intp], held: NDArray[np.intp]
) -> tuple[dict[str, NDArray[np.float64]], str]:
    """The posterior of being right at the place that tells validation rows best."""
    own, acts = parts[VALIDATION], asked.acts
    if not 0 < own.right[fit].sum() < len(fit):
        raise InputError(
            f"{int(own.right[fit].sum())} of {len(fit)} training rows of a fold are answered rightly; expected both"
        )
    fitted = {
        name: classifier(whole[fit].flatten(1), own.right[fit].tolist(), penalty=asked.penalty)
        for name, whole in acts[VALIDATION].items()
    }
    names = list(fitted)

    def said(name: str, key: str, rows: Any) -> NDArray[np.float64]:
        found: NDArray[np.float64] = fitted[name].posterior(acts[key][name][rows].flatten(1))[:, 1].numpy()
        return found

    areas = [curves.delong(said(name, VALIDATION, held), own.right[held]).mean for name in names]
    best = names[_best(areas, VALIDATION)]
    return {key: said(best, key, of[key]) for key in parts}, best


def _best(areas: Sequence[Any], what: str) -> int:
    found = np.array(areas, float)
    if np.isnan(found).all():
        raise InputError(f"{what} rows are all answered rightly, or all wrongly; give more rows, or fewer folds")
    return int(np.nanargmax(found))
