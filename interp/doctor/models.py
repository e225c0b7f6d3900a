"""Which models the command line examines: one by its name, or every architecture, tiny.

>>> examine_named("zoo/language-4l").failed                                               # doctest: +SKIP
()
"""

from __future__ import annotations

import warnings
from functools import cache

from tqdm.auto import tqdm

from interp.doctor import architectures
from interp.doctor.examine import Report, examine
from interp.errors import ProbeError
from interp.models import load


def examine_named(model: str) -> Report:
    """A model as :func:`interp.load` takes it. One that its probe run refuses is examined all the same.

    Raises:
        LoadError: it cannot be loaded.
    """
    try:
        loaded = load(model)
    except ProbeError:
        loaded = load(model, check=False)
    with tqdm(disable=None) as bar:
        return examine(loaded, progress=bar.set_description)


def examine_all() -> list[Report]:
    """Every architecture whose library is installed."""
    names = architectures.examinable()
    for name in set(architectures.NAMES) - set(names):
        warnings.warn(f"{name} is left out: {architectures.LIBRARIES[name]} is not installed", RuntimeWarning, stacklevel=2)
    return [examine_architecture(name) for name in tqdm(names, disable=None)]


@cache
def examine_architecture(name: str) -> Report:
    """One architecture, examined once a process."""
    return examine(architectures.loaded(name))
