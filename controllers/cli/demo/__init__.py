"""`listwatch demo`: the whole of it at work, each step checked."""
