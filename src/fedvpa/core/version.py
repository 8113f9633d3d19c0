"""The version, where every room may read it; ``fedvpa.__version__`` is the same."""

__version__ = "0.4.0"
