"""Garden paths: what a word turns out to be is settled by a small word, a comma or a verb before it."""

from __future__ import annotations

from interp.tasks.causal_gym.task import GymTask
from interp.tasks.causal_gym.words import phrases, words

GROUP = "garden path"

_RELATIVE = {"insert": {"relative": (" who was", " that was"), "main": ("",)}}
_WAS_OR_AND = {"relative": (" was",), "main": (" and",)}

#: Persons who can do what is said here, and to whom it can be done.
_MOVED = words(
    """
    patient prisoner tourist child soldier sailor boy girl worker student guest stranger actor dancer runner pilot widow farmer
    clown apprentice witness scout
    """
)

#: A verb whose past is also its participle, with what goes with both.
_VERBS, _RESTS = zip(*(one.split(" ", 1) for one in phrases(
    """
    moved to the next room / marched through the gate / rushed to the hospital / walked to the corner / dropped into the water /
    returned to the village / paid in cash / washed in the river / trained every morning / dressed in the hallway / turned
    toward the wall / rolled down the hill / raced across the field / rowed across the lake / moved out of the house / hurried
    along the corridor / shifted to the back row / transferred to another school
    """
)), strict=True)  # fmt: skip

_SUBORDINATORS = words("While When After As Because Although Once Before")
_SOMEONE = words(
    """
    queen guard student lawyer king teacher thief sheriff widow boss goalkeeper mayor monk girl burglar hunter cook traveler
    """
)
_OTHER = words("barber tailor nurse servant janitor judge sculptor captain fisherman banker violinist clerk merchant wrestler")

#: With or without an object.
_EITHER = words("visited called attacked moved helped followed watched woke paid washed painted hid stopped phoned left obeyed")
_INTRANSITIVE = phrases(
    """
    walked away / came back / slept / fell asleep / yawned / looked away / went home / arrived / fainted / sneezed / knelt /
    went to bed / fell ill
    """
)
_TRANSITIVE = words("thanked greeted hugged praised hired accused kissed blamed trusted fired married insulted robbed")
_WHO = phrases(
    """
    in the red coat / from the village / who wore glasses / with the gray beard / who lived nearby / behind the counter / from
    the capital / who sold apples / with the broken arm / in the old boots / who kept pigeons / near the fountain
    """
)
_COMMA = {"comma": {"closed": (",",), "open": ("",)}}
_VERB = {"verb": {"intransitive": _INTRANSITIVE, "transitive": _TRANSITIVE}}

TASKS = (
    GymTask(
        "garden_mvrr", GROUP, "the main verb is still to come after a relative clause, whose verb could be it otherwise",
        "The {noun}{insert} {verb} {rest}",
        labels=_WAS_OR_AND, varies=_RELATIVE, matched=(("verb", "rest"),),
        free={"noun": _MOVED, "verb": _VERBS, "rest": _RESTS},
    ),
    GymTask(
        "garden_mvrr_mod", GROUP, "as garden_mvrr, with a phrase more before the label",
        "The {noun}{insert} {verb} {rest} {modifier}",
        labels=_WAS_OR_AND, varies=_RELATIVE, matched=(("verb", "rest"),), free={
            "noun": _MOVED, "verb": _VERBS, "rest": _RESTS, "modifier": phrases(
                """on a rainy night / at the end of the week / during the storm / after the ceremony / without a word /
                at dawn / in the coldest month / for the last time / before the others / on a Sunday"""
            ),
        },
    ),
    GymTask(
        "garden_npz_obj", GROUP, "a noun after a comma is the subject of the clause that follows, and without it an object",
        "{subordinator} the {noun} {verb}{comma} the {second}",
        labels={"closed": (" was",), "open": (",",)}, varies=_COMMA,
        free={"subordinator": _SUBORDINATORS, "noun": _SOMEONE, "verb": _EITHER, "second": _OTHER},
    ),
    GymTask(
        "garden_npz_obj_mod", GROUP, "as garden_npz_obj, with a phrase more before the label",
        "{subordinator} the {noun} {verb}{comma} the {second} {modifier}",
        labels={"closed": (" was",), "open": (",",)}, varies=_COMMA,
        free={"subordinator": _SUBORDINATORS, "noun": _SOMEONE, "verb": _EITHER, "second": _OTHER, "modifier": _WHO},
    ),
    GymTask(
        "garden_npz_v-trans", GROUP, "a noun after an intransitive verb is the subject of the clause that follows, and after a "
        "transitive one its object", "{subordinator} the {noun} {verb} the {second}",
        labels={"intransitive": (" was",), "transitive": (",",)}, varies=_VERB,
        free={"subordinator": _SUBORDINATORS, "noun": _SOMEONE, "second": _OTHER},
    ),
    GymTask(
        "garden_npz_v-trans_mod", GROUP, "as garden_npz_v-trans, with a phrase more before the label",
        "{subordinator} the {noun} {verb} the {second} {modifier}",
        labels={"intransitive": (" was",), "transitive": (",",)}, varies=_VERB,
        free={"subordinator": _SUBORDINATORS, "noun": _SOMEONE, "second": _OTHER, "modifier": _WHO},
    ),
)  # fmt: skip
