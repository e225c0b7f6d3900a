"""Minimal pairs of sentences that differ in one thing, and in the word that follows: 29 tasks in five groups.

    >>> from interp import tasks
    >>> tasks.GYM["agr_sv_num_pp"]
    GymTask(agr_sv_num_pp: agreement, regions The subject place the object)
    >>> pair = tasks.causal_gym(64, name="agr_sv_num_pp", seed=0)[0]

Tasks, groups and names are those of Arora, Jurafsky and Potts, *CausalGym* (arXiv 2402.12560), which took them from the suites
of SyntaxGym; sentences, words and some labels are our own, so figures are not those of the paper. :func:`read_gym` and
:func:`read_gym_pairs` read the original's files, whose figures they are.
"""

from __future__ import annotations

from interp.tasks.causal_gym.pairs import GYM, GYM_GROUPS, causal_gym, gym_tasks
from interp.tasks.causal_gym.reading import read_gym, read_gym_pairs
from interp.tasks.causal_gym.task import GymTask

__all__ = ["GYM", "GYM_GROUPS", "GymTask", "causal_gym", "gym_tasks", "read_gym", "read_gym_pairs"]
