"""Programs beside the tests, which only tests' processes may import."""

collect_ignore_glob = ["celery_spans.py"]
