"""Pairs → features of their responses, from a frozen language model, each text computed once and cached."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import numpy as np
from filelock import FileLock, Timeout

from fedvpa.core.errors import ConfigError, DataError, ModelError
from fedvpa.core.progress import say, track
from fedvpa.data.schema import PairTable
from fedvpa.features.backbone import Backbone, load_backbone
from fedvpa.features.cache import CacheFolder
from fedvpa.features.config import FeatureConfig
from fedvpa.features.filling import Filling
from fedvpa.features.identity import folder_for
from fedvpa.features.keys import Keys, pair_keys
from fedvpa.features.precision import settled, with_precision
from fedvpa.features.reader import Reader
from fedvpa.features.records import report_of
from fedvpa.features.store import FeatureStore, Gathered, stored
from fedvpa.features.surface import with_surface
from fedvpa.features.work import compute
from fedvpa.models.encoding import place_of
from fedvpa.models.locate import locate


def extract(table: PairTable, backbone: Backbone, config: FeatureConfig) -> FeatureStore:
    """Features of ``table`` in memory, without a cache: for few pairs, and for serving.

    Args:
        table: Pairs; row i of the result belongs to row i.
        backbone: From :func:`~fedvpa.features.backbone.load_backbone`.
        config: Lengths, template, storage precision and batch size.

    Raises:
        DataError: If there are no pairs, or one cannot be read, since nobody here could leave it out.
        ModelError: If the model sees the future though it counts as decoder-only, lacks a chat template, or gives a
            feature that is not finite.
    """
    _check_some(table)
    reader = Reader.of(backbone, config)
    read = reader.read(table.pairs)
    for row in np.flatnonzero(read.records["reason"])[:1].tolist():
        raise DataError(
            read.reasons[read.records["reason"][row] - 1].problem,
            fix="Leave it out.",
            where=place_of(table.pairs[row], row),
        )
    vectors = np.empty((len(read.keys), reader.facts.dimension), config.storage)

    def filled() -> Iterator[int]:
        for texts, features in compute(reader.plan(read), backbone, config.batch_budget(backbone.device.type)):
            vectors[texts] = stored(features, read.first[texts], vectors.dtype)
            yield from texts

    for _ in track(filled(), "features", len(read.keys), unit="responses"):
        pass
    chosen, rejected = (vectors[read.records["texts"][:, side]] for side in (0, 1))
    store = FeatureStore(chosen, rejected, report_of(read.records, read.reasons, reader.facts))
    return with_surface(store, table, config.surface)


def load_features(table: PairTable, config: FeatureConfig) -> FeatureStore:
    """Features of ``table`` from the cache, where what is missing is added first.

    Texts are known again whatever table they came in, so only new ones are computed, and equal ones once. An
    extraction that was killed goes on where it stopped. Of two processes that want the same table, one extracts and the
    other waits for it; those that want others add to the same folder at the same time. Where nothing is missing, the
    model is not loaded. Processes that help this one (:func:`fedvpa.core.processes.lead`) compute their share.

    Args:
        table: Pairs; row i of the result belongs to row i.
        config: The model and how to read it. Under ``dtype: auto`` features that another device computed in its own
            precision are used too; what is used is said. Under ``dtype: calibrated`` see
            :mod:`fedvpa.features.precision`.

    Returns:
        Features [n, d] in ``config.storage`` precision, read-only and memory-mapped, and the report of the table.

    Raises:
        ModelError: If the model folder is incomplete or unusable, or a cache folder was written by another model or
            schema version.
        DataError: If there are no pairs, or none of them can be read.
        ConfigError: If a key cannot be used with this model, or the cache folder cannot be written.
        StorageError: If the disk has no room for the features.
    """
    _check_some(table)
    source = locate(config.named_model(), config.loading)
    keys = pair_keys(table.pairs)
    config = with_precision(settled(config, table), source, keys)
    folder = folder_for(config, source)
    found = _complete(folder, keys, table)
    if found is not None:
        return with_surface(found, table, config.surface)
    with _working(folder, keys):
        if len(folder.missing(keys)):
            _say_old_caches(folder)
            filling = Filling(folder, table, keys, Reader.of(load_backbone(config, source), config), config)
            filling.run(f"features of {config.model}")
        found = _complete(folder, keys, table)
    if found is None:
        raise ModelError("The feature cache was deleted while it was read.", fix="Start again.", where=str(folder.path))
    return with_surface(found, table, config.surface)


def _check_some(table: PairTable) -> None:
    if not table.pairs:
        raise DataError("There are no pairs to extract features of.")


def _complete(folder: CacheFolder, keys: Keys, table: PairTable) -> FeatureStore | None:
    """The features of a table; None unless all are there."""
    content = folder.read()
    records = None if content is None else content.records(keys)
    if content is None or records is None:
        return None
    if records["reason"].all():
        reason = content.reasons[records["reason"][0] - 1]
        raise DataError(reason.problem, fix=reason.fix, where=place_of(table.pairs[0], 0))
    chosen, rejected = (Gathered(content.vectors, np.ascontiguousarray(records["texts"][:, side])) for side in (0, 1))
    return FeatureStore(chosen, rejected, report_of(records, content.reasons, content.facts))


def _say_old_caches(folder: CacheFolder) -> None:
    """Say it where features of an earlier release lie unread, once for each way of reading texts."""
    if folder.path.exists():
        return
    old = len(list(folder.path.parent.glob("*/chosen.npy")))
    if old:
        say(
            f"{folder.path.parent} holds features of {old} tables that an earlier release extracted; this one keeps "
            "them text by text and computes them anew. Folders with a file chosen.npy are no longer read and can be "
            "deleted."
        )


@contextlib.contextmanager
def _working(folder: CacheFolder, keys: Keys) -> Iterator[None]:
    """Hold the lock of whoever extracts a table; the system frees it when its holder dies.

    Raises:
        ConfigError: If the cache cannot be written.
    """
    table = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
    path = folder.path.with_name(f"{folder.path.name}.{table}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"Another process extracts these features; waiting for it ({path}).")
            lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"The feature cache cannot be written ({error.strerror}).",
            fix="Set cache_dir or FEDVPA_CACHE to a folder that can be.",
            where=str(path.parent),
        ) from error
    try:
        yield
    finally:
        # Tables are many, so their locks go. Whoever still waits for this one finds the work done and adds nothing.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()
