"""Search spaces: a pattern and the domains of what is open in it, from a file.

Stands on the language alone; no torch.
"""
