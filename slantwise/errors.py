"""The exceptions that a user can cause.

SlantwiseError                    (the command prints the message without a traceback and exits 2)
├── ConfigurationError            a key, a value or a combination of them in the configuration
├── CorpusError                   a corpus that cannot be read or used
│   └── BadRowsError              rows of a corpus that cannot be used; carries every one of them
├── ModelError                    a model directory that is missing, incomplete, changed or of another format
├── ScoringError                  an input or an output of batch scoring
└── TrackingError                 the MLflow store or server cannot be used

Anything else that escapes is a failure of slantwise itself: traceback, exit status 1.
"""

from __future__ import annotations


class SlantwiseError(Exception):
    """Base of all errors that the user can mend; the message says what was received, expected and how to mend it."""


class ConfigurationError(SlantwiseError):
    """A configuration that cannot work."""


class CorpusError(SlantwiseError):
    """A corpus that cannot be read or used."""


class BadRowsError(CorpusError):
    """Rows that cannot be used, all of them at once; the message lists them line by line."""


class ModelError(SlantwiseError):
    """A model directory that cannot be loaded."""


class ScoringError(SlantwiseError):
    """An input that cannot be scored or an output that cannot be written."""


class TrackingError(SlantwiseError):
    """An MLflow store or server that cannot be used."""
