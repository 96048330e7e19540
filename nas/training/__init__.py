"""From an architecture and its images to weights and scores: the one training loop.

Entered by workers, and by commands that train here.
"""
