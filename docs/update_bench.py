"""Put a measurement into docs/bench.md; nobody types a measured number.

    python docs/update_bench.py work/bench.json

reads what ``toolkit bench`` wrote and fills the block ``bench``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "docs"))

from blocks import fill  # noqa: E402

from toolkit.bench.report import markdown  # noqa: E402

#: A measurement on less than this says so: passes, and batches of an epoch.
ENOUGH = 3


def bench_block(result: dict[str, Any]) -> str:
    """The tables of a measurement, and how far they can be trusted.

    Parameters
    ----------
    result : dict
        Contents of ``bench.json``.

    Returns
    -------
    str
        Markdown.
    """
    # The page has a heading of its own.
    body = markdown(result).partition("\n\n")[2]
    commit, passes = result["machine"]["commit"][:12], result["repeats"]
    batches = -(-result["utterances"] // result["batch_size"])
    head = f"`{result['recipe']}` at commit {commit}."
    if min(passes, batches) < ENOUGH:
        utterances = result["utterances"]
        head += (
            f" **A first look, no more:** {utterances} utterances in {batches} "
            f"batch{'es' if batches > 1 else ''} a pass, {passes} "
            f"pass{'es' if passes > 1 else ''}. Differences of some ten per cent between rows are "
            "noise"
        )
        head += (
            ", and a rule that sorts utterances into batches cannot show." if batches == 1 else "."
        )
    return f"{head}\n\n{body}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description="Fill docs/bench.md from a measurement.")
    options.add_argument("measurement", type=Path, help="<work>/bench.json")
    options.add_argument("--root", type=Path, default=ROOT, help="repository to write to")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the page."""
    arguments = parser().parse_args(argv)
    try:
        result = json.loads(arguments.measurement.read_text(encoding="utf-8"))
        fill(arguments.root / "docs" / "bench.md", "bench", bench_block(result))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
