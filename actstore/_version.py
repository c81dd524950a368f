"""The version of actstore."""

__version__ = "0.1.0"
