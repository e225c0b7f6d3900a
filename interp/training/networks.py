"""Networks with other weights: always a copy, a model of its own, with a name and a digest that say so.

    >>> null = reinitialised(model, seed=0)                                                             # doctest: +SKIP
    >>> null.name, null.digest == model.digest                                                          # doctest: +SKIP
    ('zoo/language-4l, random init (seed 0)', False)
    >>> trained = train(MLP((16, 16, 2), seed=0), draw, steps=2000)                                     # doctest: +SKIP
    >>> tuned = train(model, pairs, steps=100, metric="logit_diff", lr=1e-4)                            # doctest: +SKIP

What a method finds in a network that computes nothing, it finds by itself: :func:`reinitialised` and :func:`shuffled` are the
networks in which nothing is to be found.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from interp.engine.asked import encoded_pairs
from interp.engine.layout import LOGITS
from interp.engine.precision import Precision, float32
from interp.engine.readout import Reader
from interp.errors import InputError, TrainingError, WeightsError, require_whole
from interp.metrics import MetricLike
from interp.metrics import resolve as resolve_metrics
from interp.models import Encoded, Model, load
from interp.models.model import TorchHooks
from interp.prompts import Pair, Pairs

Schedule = Callable[[float], float]
"""The share of the steps that is done, from 0 to 1, to a factor of the learning rate."""
Draw = Callable[[int, torch.Generator], tuple[Any, Tensor]]
"""Of a step and a generator: what enters the network, a tensor or keyword arguments of its forward, and the numbers of the
right outputs ``[row]``."""


def reinitialised(model: Model, seed: int) -> Model:
    """The same architecture with the weights that it begins its training with, drawn anew.

    Of a model of transformers these are what its own class draws, tied weights tied; of any other module what
    ``reset_parameters`` of its parts draws.

    Args:
        model: stays as it is.
        seed: of the draw.

    Raises:
        WeightsError: the model cannot be copied, or has parameters that nothing draws; the first of them are named.
    """

    def draw(module: nn.Module) -> None:
        whole = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
        drawn = {id(own) for part in whole[:1] for own in part.parameters()} if whole[:1] == [module] else set()
        if whole[:1] == [module]:
            _of_transformers(whole[0])
        for part in module.modules():
            own = list(part.parameters(recurse=False))
            if own and callable(getattr(part, "reset_parameters", None)) and not {id(one) for one in own} <= drawn:
                part.reset_parameters()  # type: ignore[operator]
                drawn |= {id(one) for one in own}
        left = [name for name, parameter in module.named_parameters() if id(parameter) not in drawn]
        if left:
            some = ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
            raise WeightsError(
                f"{model.name} cannot be drawn anew: {some} belong to modules without reset_parameters(); give such a model "
                "yourself, loaded with load(…)"
            )

    return _changed(model, draw, seed, f"{model.name}, random init (seed {seed})")


def shuffled(model: Model, seed: int) -> Model:
    """The same weights in another order: the entries of every parameter are permuted within it.

    Args:
        model: stays as it is.
        seed: of the permutations.

    Raises:
        WeightsError: the model cannot be copied.
    """

    def permute(module: nn.Module) -> None:
        for parameter in module.parameters():
            order = torch.randperm(parameter.numel()).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))

    return _changed(model, permute, seed, f"{model.name}, shuffled weights (seed {seed})")


def train(
    model: Model | nn.Module,
    rows: Draw | Pairs | Sequence[Pair] | Encoded,
    *,
    steps: int,
    batch: int = 32,
    lr: float = 1e-3,
    metric: MetricLike = "logprob",
    schedule: Schedule | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    clip: float | None = None,
    seed: int = 0,
    name: str | None = None,
    after_step: Callable[[int, Tensor], object] | None = None,
    precision: Precision = "full",
    progress: bool | None = None,
) -> Model:
    """Train a copy of a network, in evaluation mode: without dropout, and with the statistics that norms over batches have.

    Args:
        model: stays as it is; of a module, what is drawn first shows how it is called. Parameters that ask for no gradient
            stay in the copy too.
        rows: a function that draws inputs and the right outputs of every step, whose mean −log P is the loss (at the last
            position, where there are several); or pairs, whose clean prompts are run.
        steps: how many.
        batch: pairs in one step, drawn in a new order whenever all of them were seen; a function draws as many as it likes.
        lr: learning rate.
        metric: of pairs, what is raised, in its own unit.
        schedule: factor of the learning rate, by the share of steps done.
        optimizer: called with the parameters and ``lr=``.
        clip: largest norm of the gradient.
        seed: of the generator that is given to the function, or of the order of the pairs.
        name: of the trained model.
        after_step: called with every step's number and its loss.
        precision: as for :func:`interp.patch`.

    Returns:
        A model of its own.

    Raises:
        TrainingError: nothing to train, a loss without gradient or that is no number, or a metric that compares with another
            run.
        WeightsError: the model cannot be copied.
        ValueError: numbers that make no sense.
    """
    require_whole("steps", steps, "how many steps are taken")
    require_whole("batch", batch, "how many pairs a step sees")
    generator = torch.Generator().manual_seed(seed)
    if not isinstance(model, Model):
        model = load(model, example=_shown(model, rows), progress=False)
    copied = copied_as(model, name or f"{model.name}, trained (seed {seed})")
    loss = _of_draws(copied, rows, generator) if _drawn(rows) else _of_pairs(copied, rows, metric, batch, generator)
    with float32(precision):
        losses = descend(
            copied, loss, steps, lr, schedule=schedule, optimizer=optimizer, clip=clip, after_step=after_step, progress=progress
        )
        for _ in losses:
            pass
    return copied


def copied_as(model: Model, name: str) -> Model:
    """The same network again, a model of its own: its weights may be changed.

    Raises:
        WeightsError: it cannot be copied.
    """
    return _changed(model, lambda module: None, 0, name)


def descend(
    model: Model,
    loss: Callable[[int], Tensor],
    steps: int,
    lr: float,
    *,
    further: Iterable[Tensor] = (),
    schedule: Schedule | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    clip: float | None = None,
    after_step: Callable[[int, Tensor], object] | None = None,
    progress: bool | None = None,
) -> Iterator[Tensor]:
    """Change a copy's weights by a loss, a step for every loss that is taken; whoever takes no more stops it.

    Args:
        model: a copy (:func:`copied_as`), which is changed.
        loss: of a step's number, with a gradient.
        further: what is trained beside the network's own parameters.
    """
    parameters = [parameter for parameter in (*model.module.parameters(), *further) if parameter.requires_grad]
    if not parameters:
        raise TrainingError(f"{model.name} has no parameter that asks for a gradient, so that there is nothing to train")
    if not lr > 0:
        raise ValueError(f"lr={lr}; expected a learning rate, more than 0")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip={clip}; expected the largest norm of a gradient, more than 0, or None")
    moved = optimizer(parameters, lr=lr)
    bar = {"disable": progress is False, "delay": 0 if progress else 1, "leave": False}
    try:
        for step in tqdm(range(steps), unit="step", **bar):
            with torch.enable_grad(), model.prepared():
                found = loss(step)
                if not found.requires_grad:
                    raise TrainingError(f"the loss of step {step} has no gradient in the parameters of {model.name}")
                moved.zero_grad()
                found.backward()
            found = found.detach()
            if not bool(found.isfinite()):
                raise TrainingError(f"the loss of step {step} is {float(found)}; a smaller lr or a clip may help")
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            for group in moved.param_groups:
                group["lr"] = lr * (1.0 if schedule is None else schedule(step / steps))
            moved.step()
            if after_step is not None:
                after_step(step, found)
            yield found
    finally:
        moved.zero_grad()


def _drawn(rows: Any) -> bool:
    return callable(rows) and not isinstance(rows, Pairs | Encoded)


def _shown(module: nn.Module, rows: Any) -> dict[str, Tensor] | None:
    """Keyword arguments of three rows, as an example of how a module is called."""
    if not _drawn(rows):
        return None
    inputs, _ = _checked(rows(0, torch.Generator().manual_seed(0)))
    named = inputs if isinstance(inputs, dict) else {next(iter(signature(module.forward).parameters)): inputs}
    return {name: tensor[:3] for name, tensor in named.items()}


def _checked(found: Any) -> tuple[dict[str, Tensor] | Tensor, Tensor]:
    """What a function drew, refused where it is no inputs and labels."""
    two = isinstance(found, tuple) and len(found) == 2
    inputs, labels = found if two else (None, None)
    if not isinstance(inputs, Tensor | Mapping) or not isinstance(labels, Tensor) or labels.is_floating_point():
        said = f"({', '.join(type(one).__name__ for one in found)})" if two else type(found).__name__
        raise InputError(
            f"rows(step, generator) returned {said}; expected the inputs, a tensor or keyword arguments of the network's "
            "forward, and the numbers of the right outputs, a tensor of integers or booleans"
        )
    return (dict(inputs) if isinstance(inputs, Mapping) else inputs), labels


def _of_draws(model: Model, rows: Any, generator: torch.Generator) -> Callable[[int], Tensor]:
    """−log P of the right output, on what is drawn."""
    first = next(iter(model.example), "x")

    def loss(step: int) -> Tensor:
        inputs, labels = _checked(rows(step, generator))
        named = inputs if isinstance(inputs, dict) else {first: inputs}
        sent = {key: tensor.to(model.device) for key, tensor in named.items()}
        logits = model.backend.run(model.accepted(sent), [LOGITS], {})[LOGITS]
        last = logits[:, -1] if logits.ndim == 3 else logits
        return nn.functional.cross_entropy(
            last.to(torch.promote_types(last.dtype, torch.float32)), labels.long().to(last.device)
        )

    return loss


def _of_pairs(model: Model, rows: Any, metric: MetricLike, batch: int, generator: torch.Generator) -> Callable[[int], Tensor]:
    """Minus a metric of the clean prompts, in an order that is drawn anew when all were seen."""
    encoded, metrics = encoded_pairs(model, rows), resolve_metrics(metric)
    if len(metrics) > 1:
        raise ValueError(f"metric names {', '.join(one.name for one in metrics)}; one is raised: make one of them")
    reader = Reader.of(model, encoded, metrics)
    if reader.needs_reference:
        raise TrainingError(f"metric {metrics[0].name!r} compares with the clean run, which is what is trained here")
    order: list[int] = []

    def loss(step: int) -> Tensor:
        if not order:
            order.extend(torch.randperm(len(encoded), generator=generator).tolist())
        examples = torch.tensor(sorted(order[:batch]))
        del order[:batch]
        tokens = encoded.clean.take(examples)
        found = model.backend.run(model.inputs(tokens), [LOGITS], {})[LOGITS]
        measured = reader.measure(reader.logits(tokens, found), examples, None, columns=None)
        return -measured.mean()

    return loss


def _changed(model: Model, change: Callable[[nn.Module], None], seed: int, name: str) -> Model:
    """A copy of a model whose weights were changed, under a seed of its own."""
    try:
        module = copy.deepcopy(model.module)
    except Exception as error:  # whatever a part that holds more than tensors raises
        raise WeightsError(f"{model.name} cannot be copied ({type(error).__name__}: {error}), so its weights stay") from error
    with torch.no_grad(), drawing(seed):
        change(module)
    return like(model, module, name)


def like(model: Model, module: nn.Module, name: str) -> Model:
    """A module that takes what another model's does, as a model: with its tokenizer, as it was shown, and proven if it was."""
    if not isinstance(model.backend, TorchHooks):
        kind = type(model.backend).__name__
        raise WeightsError(
            f"{model.name} is run by {kind}, which has its own copy of the weights; load it with backend='torch'"
        )
    example = None if model.unknown else model.example or None
    known: dict[str, Any] = {"processor": model.processor, "bos": model.bos, "axes": model.axes or None}
    known["check"] = model.probe is not None
    return load(module, tokenizer=model.tokenizer, name=name, example=example, progress=False, **known)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Draws inside depend on the seed alone, and leave the generators as they were."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _of_transformers(module: PreTrainedModel) -> None:
    """What the class draws for a model that is made of a configuration, in the module's own dtype."""
    fresh = type(module)(copy.deepcopy(module.config))
    state: dict[str, Tensor] = fresh.state_dict()
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in state or state[name].shape != tensor.shape:
            raise WeightsError(f"{type(module).__name__} made anew of its configuration has no tensor {name} of its shape")
        tensor.copy_(state[name].to(tensor))
