"""Preference pairs: where they come from, which client holds them, which of them train and which test."""

from fedvpa.data.holdout import load_holdout, rows_by_group
from fedvpa.data.load import DataConfig, load
from fedvpa.data.partition import ClientRows, Partition, PartitionConfig, partition
from fedvpa.data.schema import LoadReport, Message, Pair, PairTable, Text

__all__ = [
    "ClientRows",
    "DataConfig",
    "LoadReport",
    "Message",
    "Pair",
    "PairTable",
    "Partition",
    "PartitionConfig",
    "Text",
    "load",
    "load_holdout",
    "partition",
    "rows_by_group",
]
