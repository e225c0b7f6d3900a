"""Networks with other weights: always a copy, a model of its own, with a name and a digest that say so.

    >>> null = reinitialised(model, seed=0)                                                             # doctest: +SKIP
    >>> null.name, null.digest == model.digest                                                          # doctest: +SKIP
    ('zoo/language-4l, random init (seed 0)', False)

What a method finds in a network that computes nothing, it finds by itself: :func:`reinitialised` and :func:`shuffled` are the
networks in which nothing is to be found.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from interp.errors import WeightsError
from interp.models import Model, load
from interp.models.model import TorchHooks


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

    return _changed(model, draw, seed, "random init")


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

    return _changed(model, permute, seed, "shuffled weights")


def _changed(model: Model, change: Callable[[nn.Module], None], seed: int, what: str) -> Model:
    """A copy of a model whose weights were changed, under a seed of its own."""
    try:
        module = copy.deepcopy(model.module)
    except Exception as error:  # whatever a part that holds more than tensors raises
        raise WeightsError(f"{model.name} cannot be copied ({type(error).__name__}: {error}), so its weights stay") from error
    with torch.no_grad(), drawing(seed):
        change(module)
    return like(model, module, f"{model.name}, {what} (seed {seed})")


def like(model: Model, module: nn.Module, name: str) -> Model:
    """A module that takes what another model's does, as a model: with its tokenizer, and as it was shown."""
    if not isinstance(model.backend, TorchHooks):
        kind = type(model.backend).__name__
        raise WeightsError(
            f"{model.name} is run by {kind}, which has its own copy of the weights; load it with backend='torch'"
        )
    example = None if model.unknown else model.example or None
    known = {"processor": model.processor, "bos": model.bos, "axes": model.axes or None}
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
