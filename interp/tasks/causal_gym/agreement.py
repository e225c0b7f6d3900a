"""Agreement: a pronoun with a name, a verb with its subject over what stands between."""

from __future__ import annotations

from interp.tasks.causal_gym.task import GymTask
from interp.tasks.causal_gym.words import MET, PEOPLE, phrases, plural, words

GROUP = "agreement"

_NUMBER = {"singular": (" is", " was", " has"), "plural": (" are", " were", " have")}
_SUBJECT = {"subject": {"singular": PEOPLE, "plural": plural(PEOPLE)}}
_OBJECT = (*PEOPLE, *plural(PEOPLE))

TASKS = (
    GymTask(
        "agr_gender", GROUP, "a pronoun has the gender of the name it stands for", "{name} {deed} because",
        labels={"he": (" he",), "she": (" she",)},
        varies={"name": {
            "he": words(
                """Aaron Adam Alan Andrew Arthur Benjamin Brian Carl Daniel Dennis Douglas Edward Eric Fred Gregory Harold Henry
                Jason Jeremy Keith Kevin Lawrence Louis Luke Nathan Oscar Peter Philip Ralph Roger Simon Steve Tom Tony"""
            ),
            "she": words(
                """Alice Amanda Amy Anna Barbara Carol Catherine Christine Claire Deborah Diana Elizabeth Ellen Emily Emma
                Hannah Helen Jane Janet Jessica Julia Karen Laura Linda Lisa Lucy Maria Martha Melissa Nancy Rachel Rebecca
                Sarah Sophie Susan"""
            ),
        }},
        free={"deed": phrases(
            """smiled / left early / stayed at home / called the office / was late again / laughed / went to bed / missed the
            train / slept badly / bought flowers / closed the window / sold the car / moved to the city / changed jobs /
            went for a walk / cried"""
        )},
    ),
    GymTask(
        "agr_sv_num_subj-relc", GROUP, "a verb has the number of its subject, over a relative clause that lacks its subject",
        "The {subject} that {verb} the {object}",
        labels=_NUMBER, varies=_SUBJECT, free={"verb": MET, "object": _OBJECT}, matched=(("subject",),),
    ),
    GymTask(
        "agr_sv_num_obj-relc", GROUP, "a verb has the number of its subject, over a relative clause that lacks its object",
        "The {subject} that the {object} {verb}",
        labels=_NUMBER, varies=_SUBJECT, free={"object": _OBJECT, "verb": MET}, matched=(("subject",),),
    ),
    GymTask(
        "agr_sv_num_pp", GROUP, "a verb has the number of its subject, over a phrase with a preposition",
        "The {subject} {place} the {object}",
        labels=_NUMBER, varies=_SUBJECT, matched=(("subject",),),
        free={
            "place": phrases("beside / behind / close to / opposite / along with / in front of / next to"), "object": _OBJECT,
        },
    ),
)  # fmt: skip
