"""One round of `benchmarks.otlp`: a plan as JSON in, figures as JSON out."""

from __future__ import annotations

import json
import sys

from benchmarks.otlp import one_round

if __name__ == "__main__":
    print(json.dumps(one_round(json.loads(sys.argv[1]))))
