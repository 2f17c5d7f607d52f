"""Finding secrets in the texts of a trace and replacing them: patterns, texts, records. Pure, no I/O."""

from traceark.redaction.patterns import BUILT_IN, Pattern, patterns_of
from traceark.redaction.texts import Redactor

__all__ = ["BUILT_IN", "Pattern", "Redactor", "patterns_of"]
