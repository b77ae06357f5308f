"""Keep pytest from importing the generators, which need the version they were written for."""

collect_ignore_glob = ["make_*.py"]
