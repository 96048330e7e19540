"""Text <-> tree: patterns, layers, blocks, and the architectures they form.

Imports no other room, and torch only where a layer makes its module.
"""
