"""pyvene: its interventions run in our engine, its configs are read and written, and what it saved is loaded.

    >>> from interp.interop import pyvene as from_pyvene
    >>> das = from_pyvene.load("trained/das", model, positions="END")                        # doctest: +SKIP
    >>> interp.patch(model, pairs, das.intervention)                                         # doctest: +SKIP
    >>> steer = from_pyvene.change(model, pyvene.AdditionIntervention(), "L6.resid_post")    # doctest: +SKIP

| ``change`` | one intervention object, or function of base and source, at one of our sites |
| ``from_config`` | an ``IntervenableConfig`` or ``IntervenableModel``, its dict, or its ``config.json`` |
| ``load`` | a folder that ``IntervenableModel.save`` wrote, with what was trained |
| ``collect`` | what ``CollectIntervention`` reads |
| ``to_config``, ``unit_locations`` | back again, to run in pyvene |

Vanilla, zero, addition, subtraction, skip, the rotated ones and the sigmoid masks are said in our own words, so that their rows
resume and batch like any other's; noise, PCA, autoencoders, functions and your own subclasses run their own ``forward``, on
tensors of the axes that pyvene would give them. pyvene is imported by ``to_config``, and to make those of its classes that run
their own code from a file; nothing else needs it.

Refused, each with its reason: serial mode with several groups, ``intervention_link_key`` of several representations, experts
(``moe_key``), stateful units, ``attention_weight``, and classes of your own that are named in a file and not passed.
"""

from __future__ import annotations

from interp.interop.pyvene.changes import Read, change
from interp.interop.pyvene.collecting import collect
from interp.interop.pyvene.reading import Imported, from_config, load
from interp.interop.pyvene.writing import to_config, unit_locations

__all__ = ["Imported", "Read", "change", "collect", "from_config", "load", "to_config", "unit_locations"]
