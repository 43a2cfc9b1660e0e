"""Audit: whether a classifier looks at the background, as a report, before any training.

As a command: ``zennit-isnet audit --help``, or ``python -m zennit_isnet.audit --help``. The report as a page needs the
extra ``audit``.
"""

from zennit_isnet.audit.report import AuditReport, ClassResult, Examples, ImageResult
from zennit_isnet.audit.run import audit
from zennit_isnet.audit.statistics import Drop, Proportion
from zennit_isnet.audit.verdict import Verdict

__all__ = ["AuditReport", "ClassResult", "Drop", "Examples", "ImageResult", "Proportion", "Verdict", "audit"]
