"""Pairs → features of their responses, from a frozen language model, computed once and cached."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from fedvpa.core.errors import ConfigError, DataError
from fedvpa.core.progress import say, track
from fedvpa.core.short_repr import short_repr
from fedvpa.data.schema import Pair, PairTable
from fedvpa.features import store
from fedvpa.features.backbone import Backbone, load_backbone
from fedvpa.features.config import FeatureConfig
from fedvpa.features.forward import check_causal, dimension, separate, shared, sharing_obstacle
from fedvpa.features.store import FeatureReport, FeatureStore, Writer
from fedvpa.features.tokens import Notes, Row, tokenise
from fedvpa.models.batching import batches, processing_order
from fedvpa.models.chat_template import template_fingerprint
from fedvpa.models.device import resolve_device, resolve_dtype
from fedvpa.models.encoding import TextEncoder, place_of
from fedvpa.models.load import open_tokenizer
from fedvpa.models.locate import ModelSource, locate
from fedvpa.models.rendering import Renderer
from fedvpa.models.tokens import Frame, Limits, TokenCounts, frame_of

CHECKPOINT_SECONDS = 5.0
"""A kill costs at most so much computing; chosen by us because flushing to disk then takes under 1% of the time."""

POOLING = "mean over response tokens"


@dataclass(frozen=True, slots=True, repr=False)
class TokenisedPairs:
    """Tokenised pairs and how they are to be computed.

    Attributes:
        rows: Tokens of each pair.
        frame: Special tokens of the model.
        sharing: Which pairs compute their prompt once for both responses.
        counts: What tokenisation kept and cut.
        notes: Rows of which the user should hear.
        obstacle: Why some pairs do not share their prompt.
    """

    rows: list[Row]
    frame: Frame
    sharing: Bool[np.ndarray, " n"]
    counts: TokenCounts
    notes: Notes
    obstacle: str

    __repr__ = short_repr

    def lengths(self) -> Int[np.ndarray, " n"]:
        """Padded tokens that each pair occupies: one shared row, or two rows as long as the longer."""
        tail = len(self.frame.after)
        return np.array(
            [
                row.packed if share else 2 * (row.longest + tail)
                for row, share in zip(self.rows, self.sharing, strict=True)
            ]
        )

    def report(self, backbone: Backbone, dimension: int) -> FeatureReport:
        """The report of the finished extraction."""
        return FeatureReport(
            pairs=len(self.rows),
            dimension=dimension,
            kind=backbone.kind,
            pairs_sharing_prompt=int(self.sharing.sum()),
            obstacle=self.obstacle,
            equal_rows=tuple(self.notes.equal),
            spelling_rows=tuple(self.notes.spelling),
            unreadable_rows=tuple(self.notes.unreadable),
            unreadable_reasons=tuple(self.notes.unreadable.values()),
            first_cut=(min(self.notes.cut_prompts, default=None), min(self.notes.cut_responses, default=None)),
            **asdict(self.counts),
        )


def prepare(pairs: Sequence[Pair], backbone: Backbone, config: FeatureConfig) -> TokenisedPairs:
    """Tokenise ``pairs`` and decide for each whether its prompt is computed once for both responses.

    Raises:
        DataError: If there are no pairs, or a response has no tokens.
        ModelError: If the model sees the future though it counts as decoder-only, or lacks a chat template.
    """
    if not pairs:
        raise DataError("There are no pairs to extract features of.")
    limits = Limits(config.max_prompt_tokens, config.max_response_tokens, backbone.positions)
    frame = frame_of(backbone.tokenizer, backbone.kind)
    encoder = encoder_of(backbone, config, frame)
    rows, counts, notes = tokenise(pairs, encoder, frame=frame, kind=backbone.kind, limits=limits)
    if backbone.kind == "causal":
        check_causal(backbone)
    obstacle = sharing_obstacle(backbone)
    sharing = np.full(len(rows), not obstacle)
    if not obstacle and backbone.window is not None:
        sharing = np.array([row.longest <= backbone.window for row in rows])
        beyond = int((~sharing).sum())
        obstacle = f"{beyond} pairs are longer than the attention window of {backbone.window} tokens" if beyond else ""
    return TokenisedPairs(rows, frame, sharing, counts, notes, obstacle)


def encoder_of(backbone: Backbone, config: FeatureConfig, frame: Frame) -> TextEncoder:
    """What gives the tokens of texts for features."""
    renderer = Renderer(backbone.tokenizer, config.template, config.template_arguments)
    return TextEncoder(renderer, frame.before, joined=backbone.kind == "causal")


def compute(
    tokenised: TokenisedPairs, backbone: Backbone, tokens_per_batch: int, start: int = 0
) -> Iterator[tuple[NDArray[np.integer], Float[np.ndarray, "rows 2 d"]]]:
    """Yield row numbers and their features in float32, batch by batch, longest first.

    Args:
        tokenised: From :func:`prepare`.
        backbone: The model.
        tokens_per_batch: Upper bound of padded tokens per batch.
        start: How many rows of the processing order are done already.
    """
    for rows in batches(tokenised.lengths(), tokenised.sharing, tokens_per_batch, start):
        chunk = [tokenised.rows[row] for row in rows]
        features = shared(backbone, chunk) if tokenised.sharing[rows[0]] else separate(backbone, tokenised.frame, chunk)
        yield rows, features.numpy()


def extract(table: PairTable, backbone: Backbone, config: FeatureConfig) -> FeatureStore:
    """Features of ``table`` in memory, without a cache: for few pairs, and for serving.

    Args:
        table: Pairs; row i of the result belongs to row i.
        backbone: From :func:`~fedvpa.features.backbone.load_backbone`.
        config: Lengths, template, storage precision and batch size.

    Raises:
        InputError: See :func:`prepare`; also if one pair cannot be read, since nobody here could leave it out, or if
            the model gives a feature that is not finite.
    """
    tokenised = prepare(table.pairs, backbone, config)
    for row, reason in tokenised.notes.unreadable.items():
        raise DataError(reason, fix="Leave it out.", where=place_of(table.pairs[row], row))
    dtype = np.dtype(config.storage)
    chosen, rejected = [], []
    for rows, features in compute(tokenised, backbone, config.batch_budget(backbone.device.type)):
        chosen.append(store.stored(features[:, 0], rows, dtype))
        rejected.append(store.stored(features[:, 1], rows, dtype))
    back = np.argsort(processing_order(tokenised.lengths(), tokenised.sharing))
    first, second = np.concatenate(chosen)[back], np.concatenate(rejected)[back]
    return FeatureStore(first, second, tokenised.report(backbone, first.shape[1]))


def cache_key(table: PairTable, config: FeatureConfig, source: ModelSource) -> dict[str, Any]:
    """Everything that decides the features, in clear. Batch size and device are no part: they only move rounding.

    What the chat template writes for a probe is a part, since more than the tokenizer's files decides it.
    """
    tokenizer = source.tokenizer_hash()
    return {
        "model": source.identity(),
        "tokenizer": tokenizer,
        "rendering": rendering_content(source, config.template_arguments),
        "layer": list(config.layers) if len(config.layers) > 1 else config.layers[0],
        "pooling": POOLING,
        "template": config.template,
        "max_prompt_tokens": config.max_prompt_tokens,
        "max_response_tokens": config.max_response_tokens,
        "dtype": str(resolve_dtype(config.dtype, resolve_device(config.device))).removeprefix("torch."),
        "storage": config.storage,
        "data": store.data_hash(table.pairs),
        "pairs": len(table),
    }


def rendering_content(source: ModelSource, arguments: Mapping[str, Any]) -> str:
    """What a model's chat template writes for fixed probes, as a hash: more than the tokenizer's files decides it."""
    return _rendering(source, source.tokenizer_hash(), json.dumps(arguments, sort_keys=True))


@lru_cache(maxsize=8)
def _rendering(source: ModelSource, tokenizer_hash: str, arguments: str) -> str:
    """The fingerprint of a model's chat template; the tokenizer's content is a part of the cache's key."""
    return template_fingerprint(open_tokenizer(source), json.loads(arguments))


def load_features(table: PairTable, config: FeatureConfig) -> FeatureStore:
    """Features of ``table`` from the cache, extracted first where they are missing.

    An extraction that was killed goes on where it stopped. Of two processes that want the same features, one extracts
    and the other waits for it. A finished cache is read without loading the model.

    Args:
        table: Pairs; row i of the result belongs to row i.
        config: The model and how to read it.

    Returns:
        Read-only memory maps [n, d] in ``config.storage`` precision, and the report of the extraction.

    Raises:
        ModelError: If the model folder is incomplete or unusable, or a cache folder was written by another model or
            schema version.
        DataError: If there are no pairs, or a response has no tokens.
        ConfigError: If a key cannot be used with this model, or the cache folder cannot be written.
    """
    if not table.pairs:
        raise DataError("There are no pairs to extract features of.")
    source = locate(config.named_model())
    key = cache_key(table, config, source)
    folder = store.folder_of(config.cache_root(), key)
    with _locked(folder):
        found = store.read_complete(folder, key)
        return found if found is not None else _fill(folder, key, table, config, load_backbone(config, source))


def _fill(
    folder: Path, key: dict[str, Any], table: PairTable, config: FeatureConfig, backbone: Backbone
) -> FeatureStore:
    """Extract into ``folder``, from where a previous attempt stopped."""
    tokenised = prepare(table.pairs, backbone, config)
    order = hashlib.sha256(processing_order(tokenised.lengths(), tokenised.sharing).tobytes()).hexdigest()
    width = dimension(backbone)
    writer = Writer(folder, key, (len(table), width), config.storage, order)
    left = len(table) - writer.done
    for _ in track(_write(tokenised, backbone, config, writer), f"features of {config.model}", left, unit="pairs"):
        pass
    return writer.finish(tokenised.report(backbone, width))


def _write(tokenised: TokenisedPairs, backbone: Backbone, config: FeatureConfig, writer: Writer) -> Iterator[int]:
    """Compute and write what is left, yielding each row number once it is written."""
    done, last, budget = writer.done, time.monotonic(), config.batch_budget(backbone.device.type)
    try:
        for rows, features in compute(tokenised, backbone, budget, done):
            writer.write(rows, features)
            done += len(rows)
            if time.monotonic() - last >= CHECKPOINT_SECONDS:
                writer.checkpoint(done)
                last = time.monotonic()
            yield from rows.tolist()
    finally:
        writer.checkpoint(done)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder; the system frees it when its holder dies.

    Raises:
        ConfigError: If the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"Another process extracts these features; waiting for it ({lock.lock_file}).")
            lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"The feature cache cannot be written ({error.strerror}).",
            fix="Set cache_dir or FEDVPA_CACHE to a folder that can be.",
            where=str(folder.parent),
        ) from error
    try:
        yield
    finally:
        lock.release()
