"""Which nas this is: what it writes tells of it, and so does the package."""

__version__ = "0.1.0"
