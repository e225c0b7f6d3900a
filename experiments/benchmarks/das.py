"""Distributed alignment search: training rotations, against pyvene.

    python experiments/benchmarks/das.py [--json] [--only pyvene,interp] [--case "layer 6"]

GPT-2 small's shape with random weights; 64 pairs of 15 tokens, batches of 8, 10 epochs, Adam; the loss is the cross-entropy of
a label over the whole vocabulary after the last token. One site at token 12 of an early, a middle and a late layer, with 1, 16
and 128 dimensions; then a grid of sites, which pyvene trains one by one. Everybody begins with the same rotations, runs the
same batches, and must have the same losses to 1e-4: at one site over 50 steps, in the grid over the first epoch. Models are
built and loaded outside the clock; caches are filled inside. Every case is run for one epoch too, where caches have had less
time to pay.

pyvene has the model's gradients off and its low-rank intervention, base and source given as tokens, as in its tutorials;
``--only pyvene,pyvene-cached,…`` adds one that runs the sources once and hands it their representations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import common
import floor
from contestants.networks import GPT2_SMALL, TINY_GPT2
from contestants.ours import InterpDas
from contestants.training import Training, random_training
from contestants.worker import Worker

NAMES = ("pyvene", "pyvene-cached", "interp")
DEFAULT = ("pyvene", "interp")
TOLERANCE = 1e-4
"""Of losses, in nats."""
COMPARED = 50
"""Over how many steps they must agree at one site. In a grid it is one epoch: at the last token of late layers losses fall by
tenths of a nat an epoch, and there a plain program is 1e-4 from itself, its batches in another order, after 30 steps of
float32. How far apart all steps are is reported for every case."""


@dataclass(frozen=True)
class Entry:
    name: str
    training: Training


def entries(quick: bool, device: str) -> list[Entry]:
    """One site at a time, then the grid; each for one epoch and for all of them."""
    if quick:
        # Weights so large that losses move, and so small that Adam, which divides small gradients by themselves, does not make
        # 1e-4 of the last bits in 12 steps.
        shape = replace(TINY_GPT2, spread=0.1)
        layers, ranks, position, grid = (0, 1), (1, 4), 5, ((0, 1), (2, 7))
        sizes: dict[str, int] = {"pairs": 16, "tokens": 8, "batch": 4, "epochs": 3}
    else:
        shape, layers, ranks, position, grid = GPT2_SMALL, (1, 6, 10), (1, 16, 128), 12, ((1, 4, 7, 10), (3, 9, 14))
        sizes = {"pairs": 64, "tokens": 15, "batch": 8, "epochs": 10}
    shape = replace(shape, device=device)
    found = {
        f"DAS at layer {layer}, token {position}, k = {rank}": random_training(shape, ((layer, position),), rank, **sizes)
        for layer in layers
        for rank in ranks
    }
    sites = tuple((layer, place) for layer in grid[0] for place in grid[1])
    name = f"DAS at layers {', '.join(map(str, grid[0]))} × tokens {', '.join(map(str, grid[1]))}, k = {ranks[1]}"
    found[name] = random_training(shape, sites, ranks[1], **sizes)
    return [
        Entry(f"{name}, {epochs} epoch{'s' if epochs > 1 else ''}", replace(training, epochs=epochs))
        for name, training in found.items()
        for epochs in (1, training.epochs)
    ]


def contestants(training: Training, names: tuple[str, ...]) -> common.Contestants:
    made = {
        "pyvene": lambda: Worker("pyvene_das", "Das", training.shape),
        "pyvene-cached": lambda: Worker("pyvene_das", "CachedDas", training.shape),
        "interp": lambda: InterpDas(training.shape, training.shape.network()),
    }
    return {name: made[name]() for name in NAMES if name in names}


def least(training: Training) -> int:
    """Every step of every site; what fills caches is not counted."""
    tokens, seen = len(training.base[0]), training.steps * training.batch
    return sum(
        seen * floor.das_step(training.shape, layer, position, tokens, training.rank) for layer, position in training.sites
    )


def executed(contestant: Any, name: str, training: Training) -> int:
    """FLOPs as executed, counted apart from the timing: ours over the whole training, pyvene's from one step and from two.

    At a site, every step of pyvene's is the same work, and so is every batch of a source run before the first step.
    """
    if name == "interp":
        return contestant.run(training, True).flops
    batch = {side: getattr(training, side)[: training.batch] for side in ("base", "source", "labels")}
    total = 0
    for place in training.sites:
        once, twice = (
            contestant.run(replace(training, sites=(place,), epochs=epochs, **batch), True).flops for epochs in (1, 2)
        )
        step = twice - once
        total += step * training.steps + (once - step) * (training.steps // training.epochs)
    return total


def measured(entry: Entry, made: common.Contestants, given: Any) -> dict[str, Any]:
    """One case, timed."""
    training, shape = entry.training, entry.training.shape
    common.say(f"{entry.name}: {training.steps} steps of {len(training.sites)} site(s)")
    rate = common.MatmulRate(960, shape.width, shape.mlp, shape.dtype, shape.device)
    sample = replace(training, sites=training.sites[-1:], epochs=1)
    compared = COMPARED if len(training.sites) == 1 else training.steps // training.epochs
    case = common.Case(entry.name, training, sample, least(training), TOLERANCE, compared=compared)
    expected = next(iter(made.values())).run(sample).value
    common.race(case, expected, made, rate, given.repeats, lambda name: executed(made[name], name, training))
    reference = next(iter(case.runs.values()))[0].value
    apart = {name: float((runs[0].value - reference).abs().max()) for name, runs in case.runs.items()}
    losses = reference.unflatten(-1, (training.epochs, -1)).mean((0, -1))
    case.notes = {
        "about": f"{len(training.base)} pairs of {len(training.base[0])} tokens, batches of {training.batch}, Adam at "
        f"{training.lr}; mean loss {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in the last; losses compared over "
        f"{min(compared, training.steps)} steps, over all of them {max(apart.values()):.1e} apart; "
        f"{given.threads} CPU thread(s), {shape.dtype}, {shape.device}",
        "mean_loss_by_epoch": losses.tolist(),
        "max_abs_diff_over_all_steps": apart,
    }
    return common.report(case, rate, common.machine(given.threads, given.device))


def main() -> None:
    given = common.arguments(__doc__.splitlines()[0], NAMES)
    chosen = [entry for entry in entries(given.quick, given.device) if given.case in entry.name]
    results = []
    with common.quiet():
        made = contestants(chosen[0].training, given.only or DEFAULT) if chosen else {}
        for entry in chosen:
            results.append(measured(entry, made, given))
            common.say(common.table(results[-1]) + "\n")
        for contestant in made.values():
            contestant.close()
    common.conclude(results, given.json)


if __name__ == "__main__":
    main()
