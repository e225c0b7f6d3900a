"""Licensing: a reflexive has the number of its subject; "any" and "ever" want a negation above them."""

from __future__ import annotations

from interp.tasks.causal_gym.task import GymTask
from interp.tasks.causal_gym.words import MEN, MET, PEOPLE, phrases, plural, words

GROUP = "licensing"

_REFLEXIVE = {"singular": (" himself",), "plural": (" themselves",)}
_SUBJECT = {"subject": {"singular": MEN, "plural": plural(MEN)}}
_NOUNS = (*MEN, *plural(MEN))
_TO_ONESELF = words("blamed hurt defended praised introduced convinced protected forgave distracted calmed taught weighed")
_NEGATION = {"determiner": {"negated": ("No",), "plain": ("The",)}}
_ANY = {"negated": (" any",), "plain": (" some",)}
_EVER = {"negated": (" ever",), "plain": (" never",)}
_PERSONS = (*PEOPLE, *plural(PEOPLE))

#: Participles that go on with things of some kind or of any.
_HAS = words("found bought received made brought written seen offered asked shown caught sold heard won borrowed collected")

TASKS = (
    GymTask(
        "agr_refl_num_subj-relc", GROUP, "a reflexive has its subject's number, over a relative clause that lacks its subject",
        "The {subject} that {verb} the {object} {deed}",
        labels=_REFLEXIVE, varies=_SUBJECT, matched=(("subject",),), free={"verb": MET, "object": _NOUNS, "deed": _TO_ONESELF},
    ),
    GymTask(
        "agr_refl_num_obj-relc", GROUP, "a reflexive has its subject's number, over a relative clause that lacks its object",
        "The {subject} that the {object} {verb} {deed}",
        labels=_REFLEXIVE, varies=_SUBJECT, matched=(("subject",),), free={"object": _NOUNS, "verb": MET, "deed": _TO_ONESELF},
    ),
    GymTask(
        "agr_refl_num_pp", GROUP, "a reflexive has its subject's number, over a phrase with a preposition",
        "The {subject} {place} the {object} {deed}",
        labels=_REFLEXIVE, varies=_SUBJECT, matched=(("subject",),), free={
            "place": phrases("beside / behind / close to / opposite / in front of / next to"),
            "object": _NOUNS, "deed": _TO_ONESELF,
        },
    ),
    GymTask(
        "npi_any_subj-relc", GROUP, "“any” wants a negation above it, over a relative clause that lacks its subject",
        "{determiner} {subject} that {verb} the {object} has {deed}",
        labels=_ANY, varies=_NEGATION, free={"subject": PEOPLE, "verb": MET, "object": _PERSONS, "deed": _HAS},
    ),
    GymTask(
        "npi_any_obj-relc", GROUP, "“any” wants a negation above it, over a relative clause that lacks its object",
        "{determiner} {subject} that the {object} {verb} has {deed}",
        labels=_ANY, varies=_NEGATION, free={"subject": PEOPLE, "object": _PERSONS, "verb": MET, "deed": _HAS},
    ),
    GymTask(
        "npi_ever_subj-relc", GROUP, "“ever” wants a negation above it, over a relative clause that lacks its subject",
        "{determiner} {subject} that {verb} the {object} has",
        labels=_EVER, varies=_NEGATION, free={"subject": PEOPLE, "verb": MET, "object": _PERSONS},
    ),
    GymTask(
        "npi_ever_obj-relc", GROUP, "“ever” wants a negation above it, over a relative clause that lacks its object",
        "{determiner} {subject} that the {object} {verb} has",
        labels=_EVER, varies=_NEGATION, free={"subject": PEOPLE, "object": _PERSONS, "verb": MET},
    ),
)  # fmt: skip
