"""Audit: whether a classifier looks at the background, as a report, before any training.

As a command: ``zennit-isnet audit --help``. Verdicts and pages need the extra ``audit``.
"""

from zennit_isnet.audit.report import AuditReport, ClassResult, Examples, ImageResult
from zennit_isnet.audit.run import audit
from zennit_isnet.audit.verdict import Drop, Proportion, Verdict

__all__ = ["AuditReport", "ClassResult", "Drop", "Examples", "ImageResult", "Proportion", "Verdict", "audit"]
