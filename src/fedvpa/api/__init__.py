"""The verbs of the command line as Python functions, and the configuration of a run."""
