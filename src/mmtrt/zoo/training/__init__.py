"""How the zoo's models are trained, scored and described."""
