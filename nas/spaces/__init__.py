"""Search spaces: a pattern and the domains of its open symbols, from a file.

Depends on the language alone; no torch.
"""
