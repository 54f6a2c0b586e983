"""llama.cpp's own server over TCP, as `llama-server` starts it: the server of xllamacpp with the same parameters."""

from __future__ import annotations

import argparse
import sys

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    for name, default in {"--port": 8080, "--parallel": 1, "--ctx-size": 4096, "--predict": -1, "--threads": 1}.items():
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--metrics", action="store_true")
    parser.add_argument("--no-webui", action="store_true")  # this server has no pages
    asked = parser.parse_args()
    given = xllamacpp.CommonParams()
    given.model.path, given.model_alias = asked.model, {asked.alias}
    given.hostnames, given.port = [asked.host], asked.port
    given.n_parallel, given.n_ctx, given.n_predict = asked.parallel, asked.ctx_size, asked.predict
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = asked.threads
    given.n_batch = given.n_ubatch = 64
    given.fit_params, given.use_jinja, given.endpoint_metrics = False, True, asked.metrics
    server = xllamacpp.Server(given)
    sys.stdin.read()  # until the test ends
    del server


if __name__ == "__main__":
    main()
