"""`listwatch demo --full`: a small shop through a day, in two minutes."""
