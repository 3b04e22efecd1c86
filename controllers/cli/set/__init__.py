"""`listwatch set`: parts of what containers are."""
