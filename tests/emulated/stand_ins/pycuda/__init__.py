"""Stands in for pycuda, over the software driver."""

VERSION = (2026, 1)
VERSION_TEXT = "2026.1"
