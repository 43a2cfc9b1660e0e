"""Audit: a report on whether a classifier relies on the background, before any training.

On the command line: ``zennit-isnet audit --help``. Verdicts and pages need the extra ``audit``.
"""

from zennit_isnet.audit.report import AuditReport, ClassResult, Examples, ImageResult
from zennit_isnet.audit.run import audit
from zennit_isnet.audit.verdict import Balanced, Drop, Proportion, Verdict

__all__ = [
    "AuditReport",
    "Balanced",
    "ClassResult",
    "Drop",
    "Examples",
    "ImageResult",
    "Proportion",
    "Verdict",
    "audit",
]
