"""What every other room may import: errors, seeds, files, tensor trees, progress. Nothing here knows about preferences."""
