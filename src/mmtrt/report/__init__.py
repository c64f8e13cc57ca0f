"""Results become tables; JSON is the results' own."""
