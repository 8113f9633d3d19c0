"""fedvpa: federated variational preference alignment for users who disagree."""

__version__ = "0.1.0"
