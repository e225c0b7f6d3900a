"""The learned parts of an intervention: found for an optimiser, and held still for a step.

    >>> das = Intervention.of("L9.resid_post@END", featurizer=Rotation(768, 16))
    >>> optimiser = torch.optim.Adam(learnable(das), lr=5e-3)
    >>> list(parts(das))
    ['0.featurizer']

A part is a featurizer or an edit that is an ``nn.Module``. It is named by the first change that has it and by its place there,
so that a basis shared by many sites is counted and stepped once. :mod:`interp.interventions.files` saves interventions with
what they learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from interp.interventions.intervention import Intervention
from interp.interventions.rotation import Rotation


def parts(intervention: Intervention) -> dict[str, nn.Module]:
    """Featurizers and edits that are modules, each once."""
    found: dict[nn.Module, str] = {}
    for index, change in enumerate(intervention.changes):
        for role, part in (("featurizer", change.featurizer), ("edit", change.edit)):
            if isinstance(part, nn.Module):
                found.setdefault(part, f"{index}.{role}")
    return {name: part for part, name in found.items()}


def learnable(intervention: Intervention) -> list[nn.Parameter]:
    """Parameters of the parts that require a gradient, each once, in the order of the changes."""
    every = (parameter for part in parts(intervention).values() for parameter in part.parameters())
    return list(dict.fromkeys(parameter for parameter in every if parameter.requires_grad))


@contextmanager
def once(intervention: Intervention) -> Iterator[None]:
    """Compute every rotation's basis once inside: around one forward and its backward pass."""
    with ExitStack() as stack:
        for part in parts(intervention).values():
            for module in part.modules():
                if isinstance(module, Rotation):
                    stack.enter_context(module.once())
        yield
