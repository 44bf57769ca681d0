"""What the second call has to do after the first: `python -m bench.gpu.verdict RESULTS` prints green or red, then the reasons.

Green: kernels were compared, by the smoke test or by tests, and nothing of it failed. Imports nothing beyond the standard library.
"""

import json
import sys
from pathlib import Path

GOOD = ("ok", "passed", "skipped", "left out")
JUDGED = ("smoke", "tests")


def reasons(document: dict) -> list[str]:
    """Why the results are red; empty when they are green."""
    stages = document.get("stages", {})
    judged = [(name, item) for name in JUDGED for item in stages.get(name, {}).get("items", ())]
    failed = [f"{name}: {item['end']}: {item['outcome']}" for name, item in judged if item["outcome"] not in GOOD]
    compared = any(item["outcome"] in ("ok", "passed") for _, item in judged)
    return failed if failed or compared else ["nothing was compared"]


def failed_tests(document: dict) -> list[str]:
    """Tests that did not pass, by their names for pytest."""
    items = document.get("stages", {}).get("tests", {}).get("items", ())
    return [item["end"] for item in items if item["outcome"] not in GOOD and "::" in item["end"]]


def main() -> int:
    path = Path(sys.argv[1])
    try:
        found = reasons(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        print(f"{path} is not the results.json of a first call: {error}", file=sys.stderr)
        return 2
    print("\n".join(["red" if found else "green", *found[:20]]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
