"""The places that pairs come from, one file each."""
