"""The command line: a thin skin. Each command parses its options, calls one function and prints."""

from nas.interrupts import ended_at_once

with ended_at_once():
    from nas.cli.app import main

__all__ = ["main"]
