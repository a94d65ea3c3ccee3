"""Measures Roadstead beside nginx, docker-registry and Varnish. `python3 scripts/bench --help` says how."""
