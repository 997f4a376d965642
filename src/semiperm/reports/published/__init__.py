"""Tables that papers report, and what a run measured in their columns; the two are shown apart, never mixed."""

from semiperm.reports.published.columns import in_columns
from semiperm.reports.published.table import Published, names, published

__all__ = ["Published", "in_columns", "names", "published"]
