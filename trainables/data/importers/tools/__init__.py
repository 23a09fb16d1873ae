"""What importers share or need: paths in tables, downloads, espeak-ng."""
