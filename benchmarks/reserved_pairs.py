"""Write the pairs that ``data.reserved`` leaves aside to a file, without their users: stand-ins for public pairs.

    python benchmarks/reserved_pairs.py --out public.jsonl --config configs/hh_objectives.yaml data.path=PAIRS data.reserved=0.3
    fedvpa compare --config configs/hh_objectives.yaml data.path=PAIRS data.reserved=0.3 … privacy.public_pairs=public.jsonl

No run of the same section holds any of them (``fedvpa.data.reserve``), so features may be scaled and turned by them where
sums over users are noised.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedvpa.core.files import write_text
from fedvpa.data.load import load_reserved
from fedvpa.data.schema import Text
from fedvpa.runs.config import read_config


def plain(text: Text) -> Any:
    """A text as a table holds it: a string, or messages."""
    return text if isinstance(text, str) else [asdict(turn) for turn in text]


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--config")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    pairs = load_reserved(read_config(args.config, args.overrides).resolved_data()).pairs
    rows = [{name: plain(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")} for pair in pairs]
    write_text(Path(args.out), "".join(json.dumps(row) + "\n" for row in rows))
    print(f"{len(rows)} pairs: {args.out}")


if __name__ == "__main__":
    main()
