"""Parity: does the candidate still say what the reference says, and is that within its budget."""
