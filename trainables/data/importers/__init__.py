"""One file a source: each lists its utterances, with a recipe for their features, and checks what is cheap to check."""
