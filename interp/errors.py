"""User mistakes, one class each, and the words that help to mend them.

Every class derives from ``ValueError`` or ``KeyError``, so ``except ValueError`` keeps working for callers that do not know
this package; every message names the argument, what was received, what was expected and the nearest valid choice.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral


class UserError(Exception):
    """Base of all of them: something that the user can mend; the command line prints it without a traceback."""


class PathError(UserError, ValueError):
    """A place where nothing can be written."""


class UnknownNameError(UserError, KeyError):
    """A name that is not in a known, finite list (a site, a metric, a task, a role, a zoo model).

    Args:
        kind: what the name is of, in the singular.
        known: the valid names, in the order in which they are listed.
        where: whose they are (``"of ioi"``).
        aliases: further accepted spellings, which near matches come from but which are not listed.
        why: the reason, where there is one beyond a misspelling.
        listing: in a clause, where they are all listed.
    """

    def __init__(
        self,
        kind: str,
        name: object,
        known: Iterable[str],
        where: str = "",
        *,
        aliases: Iterable[str] = (),
        why: str = "",
        listing: str = "",
    ) -> None:
        self.kind, self.name, self.known = kind, name, list(dict.fromkeys(known))
        near = nearest(name, [*self.known, *aliases]) if not isinstance(name, int) else []
        did = f"; did you mean {' or '.join(map(repr, near))}?" if near and not why else ""
        parts = [f"known: {', '.join(self.known)}"] if 0 < len(self.known) <= 30 else []
        parts += [listing] if listing else []
        listed = f" ({'; '.join(parts)})" if parts else ""
        whose = f" {where}" if where else ""
        super().__init__(f"unknown {kind} {name!r}{whose}{': ' + why if why else ''}{did}{listed}")

    def __reduce__(self) -> tuple[object, ...]:  # an error raised in a worker process is shown in this one
        return _revived, (type(self), self.args[0], self.__dict__)

    def __str__(self) -> str:  # KeyError would print the repr, with escaped quotes
        return str(self.args[0])


class UnknownSiteError(UnknownNameError):
    """A site that this model does not have, or that no model has."""


class HeadOutOfRangeError(UserError, ValueError, IndexError):
    """A head (or unit, or layer) index beyond what the model has."""


class PositionError(UserError, ValueError, IndexError):
    """A token position outside a prompt, or a role that a prompt does not have."""


class UnequalLengthsError(UserError, ValueError):
    """Two prompts whose positions are matched by raw index have different numbers of tokens."""


class AnswerError(UserError, ValueError):
    """A metric asks for answer tokens that the pairs lack, or an answer is not what the metric can read."""


class AnswerWarning(RuntimeWarning):
    """An answer is read, but probably not as it was meant: a space is missing, or one of its several tokens is taken."""


class InputError(UserError, ValueError):
    """A prompt lacks what the model's forward needs, or gives what it does not take."""


class MetricError(UserError, ValueError):
    """A metric asks a readout for what it did not declare."""


class ShapeMismatchError(UserError, ValueError):
    """A source, an edit or a featurizer returned a tensor whose shape does not fit its site."""


class OrderError(UserError, ValueError):
    """Two changes of one coordinate do not commute and no order was stated."""


class CompiledModelError(UserError, ValueError):
    """Hooks added after the first compiled call are silently ignored, so a compiled model is refused."""


class LoadError(UserError, ValueError):
    """A model could not be loaded, with the reason in one line."""


class ProbeError(UserError, ValueError):
    """The probe run at load found that a site does not hold what its name says."""


class SiteNotFiredError(UserError, RuntimeError):
    """A site fired another number of times than it declares, so its number would not have been patched."""


class GenerationError(UserError, ValueError):
    """A model that cannot generate text, or a way of generating it that does not go with interventions."""


class RemoteError(UserError, RuntimeError):
    """A model runs on a service, and that could not be reached or refused the request."""


class KernelError(UserError, ValueError):
    """A kernel was asked for what it cannot do: no GPU, an index out of range, a gradient that it does not offer."""


class EdgesError(UserError, ValueError):
    """A model whose edges cannot be swept."""


class GradientError(UserError, ValueError):
    """A metric that has no gradient, or a site from which none leads to it."""


class WeightsError(UserError, ValueError):
    """A reading of a model's weights that it does not allow, or an edit of them that does not fit."""


class TrainingError(UserError, ValueError):
    """An intervention that cannot be trained as it was asked."""


class InteropError(UserError, ValueError):
    """Something that another library says and this one cannot, or the reverse."""


class StoreError(UserError, ValueError):
    """A run that is missing, damaged or written by another version."""


def _revived(kind: type[UnknownNameError], message: str, state: dict[str, object]) -> UnknownNameError:
    error = kind.__new__(kind, message)
    error.args = (message,)
    error.__dict__.update(state)
    return error


def require_whole(argument: str, value: object, what: str, least: int = 1) -> None:
    """Raise unless an argument is a whole number from ``least`` on.

    Args:
        what: what it says, "how often noise is drawn".

    Raises:
        InputError: it is less, or no whole number.
    """
    if not isinstance(value, Integral) or value < least:
        raise InputError(f"{argument}={value!r}; expected {what}, a whole number from {least} on")


def nearest(name: object, known: Iterable[str], n: int = 3) -> list[str]:
    """The known names closest to ``name`` whatever their case, best first."""
    spelt: dict[str, list[str]] = {}
    for one in known:
        spelt.setdefault(one.casefold(), []).append(one)
    near = difflib.get_close_matches(str(name).casefold(), list(spelt), n=n, cutoff=0.5)
    return [one for folded in near for one in spelt[folded]][:n]
