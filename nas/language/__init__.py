"""Text <-> tree: patterns, layers, blocks, and the architecture that they make.

Knows no other room, and no torch but where a layer makes its module.
"""
