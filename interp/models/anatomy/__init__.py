"""Which tensor plays which role, found by structure and proven in numbers: streams, their blocks, attention, MLPs.

    >>> anatomy = dissect(module, example(module))                                           # doctest: +SKIP
    >>> anatomy.streams["main"].blocks[0], anatomy.taps[Site("z", layer=0)].path              # doctest: +SKIP
    ('model.layers.0', 'model.layers.0.self_attn.o_proj')

A name proposes, a law decides (:mod:`interp.models.anatomy.choose`), and a write proves (:mod:`interp.models.probe`). A role
that is not there leaves its sites out, with the reason.
"""

from interp.models.anatomy.description import Anatomy, Repeated, Stream
from interp.models.anatomy.dissection import dissect

__all__ = ["Anatomy", "Repeated", "Stream", "dissect"]
