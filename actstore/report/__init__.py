"""A store as one self-contained page of HTML: :func:`html` returns it, :func:`save` writes it."""

from actstore.report.claims import CLAIMS, Verdict
from actstore.report.page import html, save

__all__ = ["CLAIMS", "Verdict", "html", "save"]
