"""Gross syntactic state: after a subordinate clause the sentence goes on, after a main clause it may end."""

from __future__ import annotations

from collections.abc import Mapping

from interp.tasks.causal_gym.task import GymTask
from interp.tasks.causal_gym.words import SUBORDINATORS, phrases, plural, words

GROUP = "gross syntactic state"

_COMMA = {"subordinate": (",",), "main": (".",)}
_OPENING: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "subordinator": {"subordinate": SUBORDINATORS, "main": ("",)},
    "article": {"subordinate": (" the",), "main": ("The",)},
}
_NOUNS = plural(words(
    """
    miner farmer priest reporter climber judge inspector inventor villager pirate shepherd barber violinist sculptor widow
    explorer physicist coach hiker trader
    """
))  # fmt: skip
_VERBS, _THINGS, _WITH, _THAT_IT, _THAT_THEY = zip(*(phrases(line) for line in (
    "repaired / bridge / across the river / collapsed in the flood / the army had bombed",
    "painted / barn / at the end of the lane / belonged to the mayor / the storm had damaged",
    "opened / box / with the golden lock / came from the attic / the children had buried",
    "read / report / about the missing ship / blamed the government / the ministry had hidden",
    "sold / house / on the hill / needed a new roof / their parents had built",
    "crossed / desert / in the far south / surrounded the city / few travelers had survived",
    "found / map / of the underground tunnels / showed the treasure / the captain had lost",
    "planted / tree / in front of the chapel / gave the sweetest pears / the queen had sent",
    "cleaned / kitchen / of the old hotel / smelled of onions / the cook had left",
    "signed / treaty / with the northern tribes / ended the war / the ambassadors had drafted",
    "watched / film / about the deaf pianist / won every prize / the critics had praised",
    "borrowed / ladder / from the fire station / leaned against the wall / the plumber had bought",
    "built / boat / with the striped sail / carried twelve people / the fishermen had ordered",
    "studied / manuscript / from the ninth century / described the eclipse / the monks had copied",
    "stole / necklace / from the museum in Vienna / belonged to a duchess / the jeweler had made",
    "closed / factory / near the harbor / made umbrellas / the union had defended",
)), strict=True)  # fmt: skip
_THING = {"verb": _VERBS, "thing": _THINGS}

TASKS = (
    GymTask(
        "gss_subord", GROUP, "a clause that a subordinator opens is followed by another",
        "{subordinator}{article} {subject} {verb} the {thing}",
        labels={"subordinate": (" they",), "main": (".",)}, varies=_OPENING, free={"subject": _NOUNS, **_THING},
        matched=(("verb", "thing"),),
    ),
    GymTask(
        "gss_subord_subj-relc", GROUP, "as gss_subord, both nouns with a relative clause that lacks its subject",
        "{subordinator}{article} {subject} who {who} {verb} the {thing} that {that}",
        labels=_COMMA, varies=_OPENING, matched=(("verb", "thing", "that"),), free={
            "subject": _NOUNS, **_THING, "that": _THAT_IT, "who": phrases(
                """lived by the sea / wore wide hats / spoke three languages / had no money / came from the mountains / drank
                too much / hated the cold / knew the country well / slept in tents / rode bicycles / ran the town"""
            ),
        },
    ),
    GymTask(
        "gss_subord_obj-relc", GROUP, "as gss_subord, both nouns with a relative clause that lacks its object",
        "{subordinator}{article} {subject} who the {person} {met} {verb} the {thing} that {that}",
        labels=_COMMA, varies=_OPENING, matched=(("verb", "thing", "that"),), free={
            "subject": _NOUNS, **_THING, "that": _THAT_THEY,
            "person": words("bishop colonel nurse director grocer poet senator landlady consul lawyer"),
            "met": phrases("admired / had met twice / distrusted / had warned / wrote to / had photographed / respected"),
        },
    ),
    GymTask(
        "gss_subord_pp", GROUP, "as gss_subord, both nouns with a phrase with a preposition",
        "{subordinator}{article} {subject} {phrase} {verb} the {thing} {with}",
        labels=_COMMA, varies=_OPENING, matched=(("verb", "thing", "with"),), free={
            "subject": _NOUNS, **_THING, "with": _WITH, "phrase": phrases(
                """from the coast / with the wide hats / in the blue overalls / from across the border / with the loud voices /
                without any money / in the yellow bus / from the youth club / with the three dogs / under the balcony"""
            ),
        },
    ),
)  # fmt: skip
