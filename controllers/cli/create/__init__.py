"""`listwatch create`: objects from manifests, or of a few options. A file a kind."""
