"""The version of nas, recorded in the files it writes; also the package's version."""

__version__ = "0.1.0"
