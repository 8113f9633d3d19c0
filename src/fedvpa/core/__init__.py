"""What every other room may import: errors, seeds, files, configuration, progress. Nothing here knows preferences."""
