"""Programs beside the tests, which only tests' processes may import."""

collect_ignore_glob = ["*_app.py", "app.py", "loader.py", "noted.py"]
