"""Whether a model keeps the laws by which its sites are known: a table of laws, each passed, failed or refused with the reason.

>>> from interp import doctor
>>> report = doctor.examine(interp.load("zoo/language-4l"))                             # doctest: +SKIP
>>> report.failed, len(report.passed)                                                  # doctest: +SKIP
((), 14)
>>> print(doctor.text(report))                                                         # doctest: +SKIP
"""

from __future__ import annotations

from interp.doctor.examine import Report, examine
from interp.doctor.laws import LAWS
from interp.doctor.models import examine_all, examine_named
from interp.doctor.table import markdown, summary, text
from interp.doctor.verdict import Verdict

__all__ = ["LAWS", "Report", "Verdict", "examine", "examine_all", "examine_named", "markdown", "summary", "text"]
