"""The order of the stages, and their cache: what needs several of export, precision, engine, parity and bench."""
