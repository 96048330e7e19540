"""The command line: a thin skin. Each command parses its options, calls one function and prints."""

from nas.cli.app import main

__all__ = ["main"]
