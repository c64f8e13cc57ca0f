"""Generated data that the zoo's models learn from and are measured on; needs numpy only."""
